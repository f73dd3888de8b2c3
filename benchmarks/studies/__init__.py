"""Evidence for a claim, measured once."""
