"""Real Ray nodes on one machine: by Ray's cluster utility, and as hosts of their own in network namespaces."""
