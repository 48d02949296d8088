"""Flax NNX modules, one file for each kind of trunk."""
