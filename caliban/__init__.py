"""Run research code, unchanged, in containers: here, and a thousand times elsewhere."""

__version__ = "1.0.0.dev0"
