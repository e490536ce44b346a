"""What the calls mean: the flow of a request through state, view, head, candidates, strategy."""
