"""Sessions as a replica keeps them."""
