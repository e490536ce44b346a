"""From labels and head to an order of candidates, and to what is offered."""
