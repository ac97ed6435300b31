"""Jobs on Kubernetes, on GKE or any other cluster."""
