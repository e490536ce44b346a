"""Figures about a session: progress, advice, consensus of annotators."""
