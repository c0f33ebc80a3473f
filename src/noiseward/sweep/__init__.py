"""Many runs in one directory: batches of prompts, and methods side by side."""
