"""How messages leave: one class for each URL scheme, given a message, giving an outcome."""
