"""Training: one method, several seeds and rates at once."""
