"""The calls by what they are about: their values, and a flow (see `flow`) for each RPC."""
