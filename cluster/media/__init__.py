"""Probe and decode through PyAV, in a bounded child process."""
