"""Samplers: noise in, sample out, with a gradient that fits into memory."""
