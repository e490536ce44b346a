"""The client's command families: each module's ``register`` adds its commands."""
