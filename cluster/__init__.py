"""Ground floor: words, settings, media, database, formats. No Ray, no torch, no HTTP server."""
