"""Any diffusers pipeline as a sampler, unmodified: one adapter, and how to load one."""

from noiseward.pipelines.adapter import DiffusersSampler
from noiseward.pipelines.cards import cards
from noiseward.pipelines.levels import nested
from noiseward.pipelines.load import load

__all__ = ["DiffusersSampler", "cards", "load", "nested"]
