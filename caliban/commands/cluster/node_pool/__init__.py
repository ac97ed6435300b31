"""The commands of `caliban cluster node_pool`."""
