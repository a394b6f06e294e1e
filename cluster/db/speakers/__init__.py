"""People across files: events of persons, what follows from them, clusters and recognition."""
