"""One file per claim: `python -m experiments.NAME [--small]` writes `experiments/results/NAME.json` and `.png`."""
