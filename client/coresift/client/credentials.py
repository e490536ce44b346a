"""Who the client is and whom it trusts: tokens and TLS."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import grpc

Pem = str | os.PathLike[str] | bytes
"""A PEM file's path, or its content as bytes."""
TokenSource = str | Callable[[], str]

BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class TokenFile:
    """The token that a file holds: a callable that reads the file again when it has changed.

    Args:
        path: of the file; white space around the token does not count.

    Calling it raises OSError if the file cannot be read and never could.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        try:
            found = self._path.stat()
            seen = found.st_mtime_ns, found.st_ino
            if seen != self._seen:
                self._token, self._seen = self._path.read_text().strip(), seen
        except OSError:  # it is being replaced: what was read last still counts
            if self._seen is None:
                raise
        return self._token

    def __repr__(self) -> str:
        return f"TokenFile({str(self._path)!r})"


class Access:
    """What a client shows and asks for on every connection; its repr has no secret.

    Attributes:
        channel: the credentials of a channel; None: plain text.
        direct: whether no HTTP proxy may stand between: it would see what is for this machine
            only, or a token in plain text.
    """

    def __init__(
        self,
        token: TokenSource | None,
        channel: grpc.ChannelCredentials | None,
        *,
        is_local: bool,
    ) -> None:
        self._token = token
        self.channel = channel
        self.direct = is_local or (token is not None and channel is None)
        if isinstance(token, str):
            checked(token)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries. ValueError: what the token's source gives is no token."""
        if self._token is None:
            return ()
        token = self._token if isinstance(self._token, str) else checked(self._token())
        return (("authorization", f"Bearer {token}"),)


def checked(token: str) -> str:
    """The token, if it can be one. ValueError: it cannot; the message does not show it."""
    if not BEARER.fullmatch(token):
        raise ValueError("a token is made of letters, digits and - . _ ~ + / and not empty")
    return token


def access(
    *,
    is_local: bool,
    token: TokenSource | None = None,
    tls: bool = False,
    ca: Pem | None = None,
    certificate: tuple[Pem, Pem] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    insecure_token: bool = False,
) -> Access:
    """What the arguments of `Client` mean; ``is_local``: nothing leaves the machine.

    Raises:
        ValueError: the arguments contradict each other; a token would travel unencrypted.
        OSError: a PEM file cannot be read.
    """
    if credentials is not None and (tls or ca is not None or certificate is not None):
        raise ValueError("give credentials, or tls, ca and certificate, not both")
    if tls or ca is not None or certificate is not None:
        chain, key = certificate or (None, None)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_read(ca), private_key=_read(key), certificate_chain=_read(chain)
        )
    if token is not None and credentials is None and not (is_local or insecure_token):
        raise ValueError(
            "the token would travel unencrypted: use TLS (tls, ca), or say insecure_token where "
            "the network itself is safe"
        )
    return Access(token, credentials, is_local=is_local)


def _read(pem: Pem | None) -> bytes | None:
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()
