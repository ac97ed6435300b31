"""The commands of `caliban cluster`."""
