"""The models with their batchers, one file per role; a replica of the service holds one."""
