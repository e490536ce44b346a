"""Simulated labeling campaigns on labelled data, over gRPC: see `protocol` for the rules."""
