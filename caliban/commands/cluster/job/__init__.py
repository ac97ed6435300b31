"""The commands of `caliban cluster job`."""
