"""What a session stands on: its configuration, the pool, what requests name."""
