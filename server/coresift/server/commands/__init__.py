"""Command families of ``coresift`` that need the server's packages."""
