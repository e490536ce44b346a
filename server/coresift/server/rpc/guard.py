"""What stands before the service: TLS, access tokens, and the refusal to serve without either."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

import grpc.aio
import structlog

from coresift.server.access_tokens import AccessTokens
from coresift.server.config import ServeConfig
from coresift.server.errors import StartError
from coresift.server.metrics import Metrics
from coresift.server.rpc.authentication import Authentication
from coresift.server.rpc.tls import ServerCertificates, tls_files

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Guard:
    """The certificates and tokens of one server; None: it has none."""

    certificates: ServerCertificates | None
    tokens: AccessTokens | None

    @classmethod
    def of(cls, config: ServeConfig, metrics: Metrics) -> Guard:
        """What the configuration asks for. StartError for files that cannot serve."""
        files = tls_files(config.tls_cert, config.tls_key, config.tls_client_ca)
        certificates, tokens = None, None
        if files is not None:
            certificates = ServerCertificates(
                files, partial(metrics.observe_reload, "certificates")
            )
        if config.tokens is not None:
            tokens = AccessTokens(config.tokens, partial(metrics.observe_reload, "tokens"))
        return cls(certificates, tokens)

    def interceptors(self, metrics: Metrics) -> list[grpc.aio.ServerInterceptor]:
        """To stand before all others."""
        return [] if self.tokens is None else [Authentication(self.tokens, metrics)]

    def tenants(self) -> frozenset[str]:
        """Who may call now; "" is who has no tenant."""
        return frozenset({""}) if self.tokens is None else self.tokens.tenants | {""}

    def add_port(self, server: grpc.aio.Server, listen: str) -> int:
        """Open the port, with TLS where there are certificates; returns its number."""
        if self.certificates is None:
            return server.add_insecure_port(listen)
        return server.add_secure_port(listen, self.certificates.credentials())

    async def watch(self) -> None:
        """Follow changes of the tokens until cancelled. Certificates are looked at when needed."""
        if self.tokens is not None:
            await self.tokens.watch()

    def check_exposure(self, host: str, *, allows_plaintext: bool) -> None:
        """Refuse what would send labels and tokens in the clear; warn of what is open to anybody.

        Raises:
            StartError: a public address without TLS, and nobody said that this is meant.
        """
        if is_loopback(host):
            return
        if self.certificates is None and not allows_plaintext:
            raise StartError(
                f"other machines reach {host}, and without TLS anybody on the way can read and "
                "change every call: give --tls-cert and --tls-key; or --allow-plaintext where "
                "something else encrypts (a mesh, an ingress) or the network is yours alone"
            )
        if self.certificates is None:
            log.warning("calls are not encrypted: --allow-plaintext on a public address", host=host)
        if self.tokens is None:
            log.warning("whoever reaches the port may do everything: give --tokens", host=host)


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
