"""Optimizers: how the next noise is chosen, one file per idea."""
