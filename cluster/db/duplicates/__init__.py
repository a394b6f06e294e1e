"""Near duplicates: what the machine finds, what people decide about it, and both as they are read."""
