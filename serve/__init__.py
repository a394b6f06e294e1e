"""Second floor: the models as HTTP services on Ray Serve. Holds no service yet."""
