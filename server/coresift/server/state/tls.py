"""TLS to Redis: one context for all connections, made anew when its files change."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from redis.asyncio.connection import RedisSSLContext, SSLConnection

from coresift.server.errors import StartError

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
VERIFICATIONS = ("none", "optional", "required")
YES_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Tls(RedisSSLContext):
    """Certificates as redis-py reads them.

    A context takes 30 ms to make, too long for every connection after a failover; replaced files
    are read for the next connection.
    """

    @classmethod
    def of(cls, query: dict[str, str]) -> Tls:
        """Take the ``ssl_`` options out of a URL's query; `StartError` for a wrong one."""
        options: dict[str, Any] = {"cert_reqs": "required", "check_hostname": True}
        for name in FILES:
            if name in query:
                file = Path(query.pop(name))
                if not file.is_file():
                    raise StartError(f"state URL: {name}: there is no file {file}")
                options[name.removeprefix("ssl_")] = str(file)
        if "ssl_cert_reqs" in query:
            options["cert_reqs"] = query.pop("ssl_cert_reqs")
            if options["cert_reqs"] not in VERIFICATIONS:
                raise StartError(f"state URL: ssl_cert_reqs must be {', '.join(VERIFICATIONS)}")
        if "ssl_check_hostname" in query:
            wanted = query.pop("ssl_check_hostname").lower()
            if wanted not in YES_NO:
                raise StartError("state URL: ssl_check_hostname must be true or false")
            options["check_hostname"] = YES_NO[wanted]
        made = cls(**options)
        made.files = [Path(options[name[4:]]) for name in FILES if name[4:] in options]
        try:
            made.get()
        except (OSError, ValueError) as error:
            raise StartError(f"state URL: the certificates cannot be used: {error}") from error
        return made

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.files: list[Path] = []
        self._read: list[int] = []

    def get(self) -> ssl.SSLContext:
        """The context for a new connection."""
        written = [file.stat().st_mtime_ns for file in self.files]
        if written != self._read:
            self.context, self._read = None, written
        return super().get()


class TlsConnection(SSLConnection):
    """A connection that shares its context."""

    def __init__(self, *, tls: Tls, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context = tls
