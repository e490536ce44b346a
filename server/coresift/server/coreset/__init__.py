"""Which items to keep: pure numerics over a pool, without wire, Redis or files."""
