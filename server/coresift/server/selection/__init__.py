"""Which items to label next: pure numerics on arrays, without wire, Redis or files."""
