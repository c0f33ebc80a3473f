"""Options: what a run, a sweep and a server can be asked for, each option declared once."""
