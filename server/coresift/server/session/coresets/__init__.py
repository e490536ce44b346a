"""Core-set jobs: plans, runs, results."""
