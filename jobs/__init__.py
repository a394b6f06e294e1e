"""Second floor: stages on Ray Data, commits, entry points and the command line."""
