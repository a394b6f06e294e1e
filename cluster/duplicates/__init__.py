"""Near duplicates by perceptual hash, without a database: lookup keys, alignment, groups."""
