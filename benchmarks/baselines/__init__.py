"""What others' documentation shows, measured in the same run."""
