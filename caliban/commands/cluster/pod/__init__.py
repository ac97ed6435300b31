"""The commands of `caliban cluster pod`."""
