"""One file per paper: its state, its weighting and its factory."""
