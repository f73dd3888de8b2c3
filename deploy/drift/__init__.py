"""What is served, compared with validation."""
