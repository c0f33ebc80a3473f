"""`python -m noiseward`: the command line."""

from noiseward.cli import command

command()
