"""The optimization loop: its objective, its budget, its steps, and what reads them."""
