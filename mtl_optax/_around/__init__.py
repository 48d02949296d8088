"""Building blocks around a method."""
