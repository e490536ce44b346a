"""Which entries of the logs this replica wrote."""

from __future__ import annotations

from collections import OrderedDict

from coresift.server.state.replies import new_nonce

KEPT = 4_000
EXPIRY = b"x"
"""What the scripts add to a nonce for the expiry before the entry itself."""


class OwnWrites:
    """The nonces of the newest runs of scripts."""

    def __init__(self) -> None:
        self._nonces: OrderedDict[bytes, None] = OrderedDict()

    def nonce(self) -> bytes:
        """A new one."""
        nonce = new_nonce()
        self._nonces[nonce] = None
        if len(self._nonces) > KEPT:
            self._nonces.popitem(last=False)
        return nonce

    def expired_here(self, nonce: bytes) -> bool:
        """Whether the expiry with this nonce was written by a run of ours; True only once."""
        run = nonce.removesuffix(EXPIRY)
        if run == nonce or run not in self._nonces:
            return False
        del self._nonces[run]
        return True
