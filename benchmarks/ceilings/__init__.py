"""What the hardware allows: bare matrix products, lower bounds, rooflines."""
