"""The ways to gather task gradients."""
