"""The suite ``toy``: two losses of two parameters, where everything can be seen."""
