"""The command line: one file per noun; heavy imports only inside commands."""
