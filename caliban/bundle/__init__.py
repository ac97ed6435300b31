"""Experiments as one file that anybody can run again."""
