"""`rushes doctor`: what a run needs, looked at in order; it changes nothing."""
