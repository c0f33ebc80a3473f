"""Optimizers: how the noise moves, one file per idea."""
