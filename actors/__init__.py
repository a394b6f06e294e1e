"""First floor: every stage, one file each, and the lanes they form. No Ray, no SQL."""
