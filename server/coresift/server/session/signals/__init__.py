"""Uploaded signals."""
