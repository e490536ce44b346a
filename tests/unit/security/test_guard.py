"""What a server refuses to start with, and what it warns of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.fixtures.certificates import Certificates

from coresift.server.config import ServeConfig
from coresift.server.errors import StartError
from coresift.server.metrics import Metrics
from coresift.server.rpc.guard import Guard, is_loopback


def guard(**options: Any) -> Guard:
    return Guard.of(ServeConfig(pools=(), **options), Metrics())


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    path.write_text('{"tokens": []}')
    path.chmod(0o600)
    return path


def test_files_that_cannot_serve(certificates: Certificates, tmp_path: Path) -> None:
    pair, ours = certificates.server, certificates.authority.certificate
    empty, gone = tmp_path / "empty", tmp_path / "gone"
    empty.touch()
    good = {"tls_cert": pair.certificate, "tls_key": pair.key}
    for options, words in (
        ({"tls_cert": pair.certificate}, "both --tls-cert and --tls-key"),
        ({"tls_key": pair.key}, "both --tls-cert and --tls-key"),
        ({"tls_client_ca": ours}, "both --tls-cert and --tls-key"),
        (good | {"tls_cert": gone}, "No such file"),
        (good | {"tls_cert": empty}, "no certificate with its key"),
        (good | {"tls_key": certificates.client.key}, "KEY_VALUES_MISMATCH"),
        (good | {"tls_client_ca": gone}, "No such file"),
        (good | {"tls_client_ca": empty}, "holds no certificate"),
        ({"tokens": gone}, "No such file"),
        ({"tokens": empty}, "is no JSON"),
    ):
        with pytest.raises(StartError, match=words) as caught:
            guard(**options)
        assert "PRIVATE" not in str(caught.value)


def test_a_key_that_is_encrypted_is_refused_and_not_asked_for(
    certificates: Certificates, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as forms

    key = forms.load_pem_private_key(certificates.server.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.BestAvailableEncryption(b"sea")
        )
    )
    with pytest.raises(StartError, match="must not be encrypted"):
        guard(tls_cert=certificates.server.certificate, tls_key=locked)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_alone(host: str) -> None:
    assert is_loopback(host)
    with structlog.testing.capture_logs() as logs:
        guard().check_exposure(host, allows_plaintext=False)
    assert logs == []


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "10.0.0.7", "192.0.2.1", "example.com"],  # noqa: S104
)
def test_public_addresses(host: str, certificates: Certificates, tokens: Path) -> None:
    assert not is_loopback(host)
    pair = certificates.server
    tls = {"tls_cert": pair.certificate, "tls_key": pair.key}
    for plain in (guard(), guard(tokens=tokens)):
        with pytest.raises(StartError, match="--allow-plaintext"):
            plain.check_exposure(host, allows_plaintext=False)

    def warnings(options: dict[str, Any], allows_plaintext: bool) -> str:
        with structlog.testing.capture_logs() as logs:
            guard(**options).check_exposure(host, allows_plaintext=allows_plaintext)
        return " ".join(event["event"] for event in logs)

    assert warnings(tls | {"tokens": tokens}, False) == ""
    assert "--tokens" in warnings(tls, False)
    assert "not encrypted" in warnings({"tokens": tokens}, True)
    assert "--tokens" in warnings({}, True)
