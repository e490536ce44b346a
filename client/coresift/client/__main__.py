"""``python -m coresift.client`` is the command ``coresift``."""

from __future__ import annotations

from coresift.client.cli import main

if __name__ == "__main__":
    main()
