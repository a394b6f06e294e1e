"""Second floor: the models and the corpus as HTTP services on Ray Serve."""
