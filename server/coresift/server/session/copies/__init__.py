"""Backups of sessions, and what is taken out of them: erasure, pseudonyms."""
