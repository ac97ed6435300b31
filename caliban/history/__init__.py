"""The record of every experiment group, experiment and job."""
