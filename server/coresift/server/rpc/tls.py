"""TLS of the gRPC port: certificates that are reread when their files change."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from coresift.server.errors import StartError
from coresift.server.file_changes import Version, version_of

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's chain, its key, and whose certificates clients need, if any."""

    certificate: Path
    key: Path
    client_authority: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        both = (self.certificate, self.key)
        return both if self.client_authority is None else (*both, self.client_authority)


def tls_files(
    certificate: Path | None, key: Path | None, authority: Path | None
) -> TlsFiles | None:
    """The files of TLS as the options give them, None without. StartError for half of them."""
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None:
        raise StartError("TLS needs both --tls-cert and --tls-key")
    return TlsFiles(certificate, key, authority)


class ServerCertificates:
    """What the server proves itself with, and asks its clients for.

    Args:
        files: reread at the first handshake after they changed.
        observe: told of every reload, whether it succeeded.
    Raises:
        StartError: a file cannot be read, or certificate and key do not belong together.
    """

    def __init__(self, files: TlsFiles, observe: Callable[[bool], None] | None = None) -> None:
        self._files, self._observe = files, observe
        self._lock = threading.Lock()
        self._version: Version = version_of(*files.paths)
        try:
            self._first = _read(files)
        except (OSError, ValueError) as error:
            raise StartError(f"TLS: {error}") from None

    def credentials(self) -> grpc.ServerCredentials:
        """For the port."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._fetch,  # type: ignore[arg-type]  # the stubs do not know None: nothing new
            require_client_authentication=self._files.client_authority is not None,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC at every handshake, on threads of its own; None: nothing new.

        It must not raise: gRPC would be left without an answer.
        """
        with self._lock:
            version = version_of(*self._files.paths)
            if version == self._version:
                return None
            try:
                fresh = _read(self._files)
                if version_of(*self._files.paths) != version:
                    return None  # they are being replaced: the next handshake will see
            except Exception as error:
                # The pair is written file by file: between the two the old one serves on.
                fresh = None
                log.error("certificates not reloaded", error=str(error))
            else:
                log.info("certificates reloaded")
            self._version = version
            if self._observe is not None:
                self._observe(fresh is not None)
            return fresh


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    """The certificates, if they can serve. OSError, ValueError."""
    check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        check.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except ssl.SSLError as error:
        raise ValueError(
            f"{files.certificate} and {files.key} are no certificate with its key "
            f"({error.reason}); a key must not be encrypted"
        ) from None
    except OSError as error:
        raise OSError(f"{files.certificate}, {files.key}: {error.strerror}") from None
    authority = None
    if files.client_authority is not None:
        authority = files.client_authority.read_bytes()
        try:
            check.load_verify_locations(cadata=authority.decode())
        except (ssl.SSLError, ValueError):
            raise ValueError(f"{files.client_authority} holds no certificate") from None
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    return grpc.ssl_server_certificate_configuration([pair], authority)
