"""Lease tokens: proof that an item was handed to an annotator, without any memory of it."""

from __future__ import annotations

import hmac
from functools import lru_cache
from hashlib import sha256
from typing import Any

SALT_BYTES = 8
TOKEN_BYTES = SALT_BYTES + 16
BLOCK_BYTES = 64
"""Of SHA-256."""
KEPT_KEYS = 1_024


def lease_token(secret: bytes, salt: bytes, row: int, annotator: str) -> bytes:
    """A token of a lease: a random salt and its HMAC-SHA-256, cut to 16 bytes.

    ``secret`` belongs to the session, so a token of another session does not hold.
    """
    begun_inner, begun_outer = _begun(secret)
    inner, outer = begun_inner.copy(), begun_outer.copy()
    inner.update(salt + row.to_bytes(4, "little") + annotator.encode())
    outer.update(inner.digest())
    return salt + bytes(outer.digest()[:16])


def is_lease_token(token: bytes, secret: bytes, row: int, annotator: str) -> bool:
    """Whether ``token`` was made for this session, row and annotator."""
    if len(token) != TOKEN_BYTES:
        return False
    return hmac.compare_digest(token, lease_token(secret, token[:SALT_BYTES], row, annotator))


@lru_cache(KEPT_KEYS)
def _begun(secret: bytes) -> tuple[Any, Any]:
    """The two hashes of HMAC (RFC 2104) with the key taken in: from there on a token takes a third
    of the time."""
    key = secret if len(secret) <= BLOCK_BYTES else sha256(secret).digest()
    padded = key.ljust(BLOCK_BYTES, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in padded) for pad in (0x36, 0x5C))
    return sha256(inner), sha256(outer)
