"""Any diffusers pipeline as a sampler, unmodified: one adapter, how to load a pipeline, and cards of models."""
