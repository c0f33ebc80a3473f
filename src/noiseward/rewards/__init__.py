"""Rewards: what one is (`reward.py`), those that come with the library (`catalog.py`), one by its name (`parse.py`)."""
