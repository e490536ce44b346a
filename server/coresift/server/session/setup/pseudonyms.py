"""Annotators' names in sessions that keep pseudonyms instead."""

from __future__ import annotations

import base64
import hmac

from coresift.server.session.setup.config import SessionConfig

PREFIX = "p-"
CHARACTERS = 16


def pseudonym(secret: bytes, annotator: str) -> str:
    """``p-`` and 16 characters of base 32: HMAC-SHA-256 of the name under the session's key."""
    digest = hmac.digest(secret, b"annotator\0" + annotator.encode(), "sha256")
    return PREFIX + base64.b32encode(digest).decode()[:CHARACTERS].lower()


def kept_name(config: SessionConfig, secret: bytes, annotator: str) -> str:
    """The name under which a session keeps an annotator; that of nobody (empty) stays empty."""
    if not config.pseudonymous or not annotator:
        return annotator
    return pseudonym(secret, annotator)
