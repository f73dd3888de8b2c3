"""What others would serve the same checkpoint with, written as their examples are."""
