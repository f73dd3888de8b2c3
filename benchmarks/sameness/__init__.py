"""Whether a variant is still the same classifier."""
