"""The engine, its containers, and its images."""
