"""Pure decisions about who is speaking: numpy in, numpy out."""
