"""Images and containers: Dockerfiles, build contexts, builds, the engine."""
