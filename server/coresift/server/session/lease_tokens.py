"""Lease tokens: proof that an item was handed to an annotator, without any memory of it."""

from __future__ import annotations

import hmac

SALT_BYTES = 8
TOKEN_BYTES = SALT_BYTES + 16


def lease_token(secret: bytes, salt: bytes, row: int, annotator: str) -> bytes:
    """A token of a lease: a random salt and its HMAC-SHA-256, cut to 16 bytes.

    ``secret`` belongs to the session, so a token of another session does not hold.
    """
    message = salt + row.to_bytes(4, "little") + annotator.encode()
    return salt + hmac.digest(secret, message, "sha256")[:16]


def is_lease_token(token: bytes, secret: bytes, row: int, annotator: str) -> bool:
    """Whether ``token`` was made for this session, row and annotator."""
    if len(token) != TOKEN_BYTES:
        return False
    return hmac.compare_digest(token, lease_token(secret, token[:SALT_BYTES], row, annotator))
