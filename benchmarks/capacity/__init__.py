"""How many replicas a load takes."""
