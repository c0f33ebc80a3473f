"""Noise: its layout, the tape that records and replays it, and the tests of whether it is still noise."""
