"""Data for the suites, split once into training, validation and test."""
