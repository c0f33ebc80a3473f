"""Speed and memory, always as ratios measured in one run."""
