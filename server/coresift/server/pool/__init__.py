"""A pool of embeddings: its files, its rows and metadata, exact and approximate neighbours."""
