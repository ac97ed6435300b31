"""Clusters of Google Kubernetes Engine: what container v1 knows of them, and makes of them."""
