"""Access tokens: who may call, and what. The file holds their hashes, never a token.

A token is 32 random bytes. Nobody can guess it, so a plain SHA-256 keeps it as safe as a slow,
salted hash would: those only make up for passwords that can be guessed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog

from coresift.server.caller import Caller, Scope
from coresift.server.errors import StartError
from coresift.server.file_changes import Version, version_of

log = structlog.get_logger()

PREFIX = "coresift_"
"""Of every token: scanners for secrets find a token that leaked."""
POLL_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FIELDS = {"name", "sha256", "tenant", "scopes", "pools", "expires"}
_OPEN_TO_OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP


def new_token() -> str:
    """A fresh token, URL-safe text."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return sha256(token.encode()).digest()


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token's entry.

    Attributes:
        name: the principal in the log.
        digest: SHA-256 of the token.
        expires_s: seconds since the epoch; None: never.
        caller: whom it stands for.
    """

    name: str
    digest: bytes
    expires_s: float | None
    caller: Caller

    def has_expired(self, now_s: float) -> bool:
        """Whether it is void at this time."""
        return self.expires_s is not None and self.expires_s <= now_s

    def entry(self) -> dict[str, Any]:
        """As it stands in the file."""
        caller, fields = self.caller, {"name": self.name, "sha256": self.digest.hex()}
        entry: dict[str, Any] = fields | {"scopes": sorted(caller.scopes)}
        if caller.tenant:
            entry["tenant"] = caller.tenant
        if caller.pools is not None:
            entry["pools"] = sorted(caller.pools)
        if self.expires_s is not None:
            expires = datetime.fromtimestamp(self.expires_s, UTC)
            entry["expires"] = expires.isoformat(timespec="seconds")
        return entry

    @classmethod
    def of_entry(cls, entry: Any) -> AccessToken:
        """From the file. ValueError says what is wrong with the entry."""
        if not isinstance(entry, dict):
            raise ValueError("is no JSON object")
        if unknown := entry.keys() - _FIELDS:
            raise ValueError(f"has unknown fields: {', '.join(sorted(unknown))}")
        name = checked_name("name", entry.get("name"))
        tenant = entry.get("tenant", "")
        if tenant != "":
            checked_name("tenant", tenant)
        pools = entry.get("pools")
        if pools is not None and not _are_texts(pools):
            raise ValueError("pools must be a list of names, or absent for all pools")
        scopes = entry.get("scopes")
        if not _are_texts(scopes) or not scopes or not set(scopes) <= set(Scope):
            raise ValueError(f"scopes must name some of {', '.join(Scope)}")
        return cls(
            name,
            _digest(entry.get("sha256")),
            _seconds(entry.get("expires")),
            Caller(
                principal=name,
                tenant=tenant,
                scopes=frozenset(map(Scope, scopes)),
                pools=None if pools is None else frozenset(pools),
            ),
        )


def checked_name(field: str, value: object) -> str:
    """A name of a token or tenant: none can be mistaken for a part of a key. ValueError."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{field} must have 1..64 characters of [A-Za-z0-9._-], got {value!r}")
    return value


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _digest(value: object) -> bytes:
    # What stands there is not quoted: it may be the token itself, put there by mistake.
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("sha256 must be the token's SHA-256, 64 lower-case hexadecimal digits")
    return bytes.fromhex(value)


def _seconds(value: object) -> float | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"expires must be a time with its zone (2027-01-31T00:00Z), got {value!r}")
    return moment.timestamp()


def parse_tokens(text: str) -> tuple[AccessToken, ...]:
    """The entries of a file. ValueError names the one that is wrong; one wrong entry is all."""
    try:
        content = json.loads(text)
    except ValueError:
        raise ValueError("is no JSON") from None
    if not isinstance(content, dict) or content.keys() != {"tokens"}:
        raise ValueError('must be {"tokens": [...]}')
    if not isinstance(content["tokens"], list):
        raise ValueError("tokens must be a list")
    tokens = []
    for i, entry in enumerate(content["tokens"]):
        try:
            tokens.append(AccessToken.of_entry(entry))
        except ValueError as error:
            raise ValueError(f"tokens[{i}] {error}") from None
    for what in ("name", "digest"):
        if len({getattr(token, what) for token in tokens}) < len(tokens):
            raise ValueError(f"two tokens have one {'name' if what == 'name' else 'sha256'}")
    return tuple(tokens)


def format_tokens(tokens: Iterable[AccessToken]) -> str:
    """The file of these entries."""
    return json.dumps({"tokens": [token.entry() for token in tokens]}, indent=2) + "\n"


class AccessTokens:
    """The tokens of a file, reread when it changes.

    Args:
        path: the file.
        observe: told of every reload, whether it succeeded.
    Raises:
        StartError: the file cannot be read, or is wrong.
    """

    def __init__(self, path: Path, observe: Callable[[bool], None] | None = None) -> None:
        self._path, self._observe = path, observe
        self._version: Version = version_of(path)
        try:
            self._tokens = self._read()
        except (OSError, ValueError) as error:
            raise StartError(f"--tokens {path}: {_words(error)}") from None

    def _read(self) -> Mapping[bytes, AccessToken]:
        text = self._path.read_text()
        if self._path.stat().st_mode & _OPEN_TO_OTHERS:
            log.warning("others can read or change the access tokens", file=str(self._path))
        return {token.digest: token for token in parse_tokens(text)}

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def tenants(self) -> frozenset[str]:
        """Whose tokens there are; "" is who has no tenant."""
        return frozenset(token.caller.tenant for token in self._tokens.values())

    def find(self, token: str) -> AccessToken | None:
        """The entry of a token, also of one that has expired.

        Looking up a hash takes a time that depends on the hash alone, and nobody can choose
        tokens by the beginnings of their hashes: the time tells nothing. The digests are compared
        in constant time all the same.
        """
        digest = digest_of(token)
        found = self._tokens.get(digest)
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        return found

    def reload(self) -> None:
        """Read the file again if it changed; a wrong one leaves the tokens as they are. Blocks."""
        version = version_of(self._path)
        if version == self._version:
            return
        try:
            tokens = self._read()
        except (OSError, ValueError) as error:
            fine = False
            log.error("access tokens not reloaded", file=str(self._path), error=_words(error))
        else:
            fine, self._tokens = True, tokens
            log.info("access tokens reloaded", file=str(self._path), tokens=len(tokens))
        # Changed while it was read: the next look finds another version, and reads it again.
        self._version = version
        if self._observe is not None:
            self._observe(fine)

    async def watch(self) -> None:
        """Reload whenever the file changes, until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await asyncio.to_thread(self.reload)


def _words(error: Exception) -> str:
    return error.strerror or "cannot be read" if isinstance(error, OSError) else str(error)
