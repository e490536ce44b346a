"""Nothing secret leaves the server: not in its log, not in /metrics, not in errors."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import grpc
import pytest
from google.protobuf.message import Message
from tests.fixtures.access import METHODS, As, TokensFile
from tests.fixtures.certificates import Certificates
from tests.fixtures.servers import Pools, ServerProcess
from tests.integration.process.test_start_errors import outcome

from coresift.server.config import ServeConfig
from coresift.server.state.redis_binary import runnable_binaries
from coresift.v1 import selection_pb2 as pb

PASSWORD = "pass-word-that-nobody-sees"  # noqa: S105
ANNOTATOR = "ann-who-is-nowhere-in-the-log"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """URL with a password and process id of a redis-server."""
    path = tmp_path / "s"
    binary = str(runnable_binaries()[0].path)
    process = subprocess.Popen(
        [
            *(binary, "--port", "0", "--unixsocket", str(path), "--dir", str(tmp_path)),
            *("--save", "", "--appendonly", "yes", "--requirepass", PASSWORD),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "eady to accept connections" in line:
                break
        yield f"unix://:{PASSWORD}@{path}", process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Told:
    """Collects what callers are told: every answer is thrown away, every error kept."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def __call__(self, caller: As, method: str, *requests: Message | bytes) -> None:
        try:
            caller(method, *requests)
        except grpc.RpcError as error:
            trailing = b"".join(
                value if isinstance(value, bytes) else value.encode()
                for _, value in error.trailing_metadata() or ()
            )
            self.errors.append(f"{error.details()} {trailing!r}")


def forms(secret: str | bytes) -> list[str]:
    """How a secret may look in a text."""
    data = secret.encode() if isinstance(secret, str) else secret
    return [
        data.decode(errors="replace"),
        repr(data)[2:-1],
        data.hex(),
        base64.b64encode(data).decode().rstrip("="),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
    ]


def test_nothing_secret_is_told(
    pools: Pools, redis: tuple[str, int], certificates: Certificates, tmp_path: Path
) -> None:
    url, redis_pid = redis
    file = TokensFile(tmp_path / "tokens.json")
    token, expired = file.add("frontend", "acme"), file.add("labeler", "acme", ["label"])
    tls = ["--tls-cert", certificates.server.certificate, "--tls-key", certificates.server.key]
    options = ["--pool", pools.growing.directory, "--artifacts", tmp_path / "artifacts"]
    server = ServerProcess(*options, "--state", url, "--tokens", file.path, *tls, "--log-hash")
    credentials = grpc.ssl_channel_credentials(certificates.authority.certificate.read_bytes())
    told, name = Told(), f"s-{uuid4()}"
    with server, grpc.secure_channel(server.listen, credentials) as channel:
        owner, labeler = As(channel, token), As(channel, expired)
        config = pb.SessionConfig(pool="growing", task=pb.TASK_BINARY)
        config.candidates.all.SetInParent()
        owner.one(
            "CreateSession",
            pb.CreateSessionRequest(request_id=name, session_id=name, config=config),
        )
        batch = owner.one(
            "NextBatch",
            pb.NextBatchRequest(request_id=name, session_id=name, annotator=ANNOTATOR, size=2),
        )
        lease_tokens = [pick.lease_token for pick in batch.picks]
        foreign = pb.Label(
            item_id=batch.picks[0].item_id, class_name="positive", lease_token=lease_tokens[1]
        )
        labels = [foreign, pb.Label(item_id=batch.picks[1].item_id, class_name="sea")]

        def label(one: pb.Label, annotator: str = ANNOTATOR) -> pb.AddLabelsRequest:
            return pb.AddLabelsRequest(
                request_id=f"r-{uuid4()}", session_id=name, annotator=annotator, labels=[one]
            )

        def drive() -> None:
            for one in labels:
                told(labeler, "AddLabels", label(one))
                told(labeler, "AddLabels", label(one, ""))
            for method in METHODS:  # wrong tokens, missing scopes, messages that are none
                told(As(channel, f"{token}x"), method, b"")
                told(As(channel, token[:-1]), method, b"")
                told(labeler, method, b"")
                told(owner, method, b"\xff\xff")
                told(owner, method, b"")

        drive()
        os.kill(redis_pid, signal.SIGKILL)
        drive()
        metrics = urlopen(f"http://{server.metrics}/metrics").read().decode()
    key = certificates.server.key.read_text().splitlines()[1]
    secrets: list[str | bytes] = [PASSWORD, token, expired, token[:-1], key, *lease_tokens]
    everything = "\n".join([*map(str, server.events), *server.other_lines, metrics, *told.errors])
    assert len(told.errors) > 100
    assert "STATE_UNAVAILABLE" in everything  # the last round met a store that is away
    for secret in secrets:
        for form in forms(secret):
            assert form not in everything
    log = "\n".join([*map(str, server.events), *server.other_lines])
    for unseen in (ANNOTATOR, "authorization", "Bearer"):
        assert unseen not in log
    lines = [event for event in server.events if event.get("event") == "call"]
    assert {"method", "code", "peer", "ms"} <= set.intersection(*map(set, lines))
    handled = [line for line in lines if line["code"] != "UNAUTHENTICATED"]
    assert {line["principal"] for line in handled} == {"frontend", "labeler"}
    assert {line["tenant"] for line in handled} == {"acme"}


def test_a_start_that_fails_says_no_password(pools: Pools, tmp_path: Path) -> None:
    options = ["--pool", pools.growing.directory, "--data-dir", tmp_path]
    for url in (
        f"unix://:{PASSWORD}@{tmp_path}/nobody",
        f"redis://me:{PASSWORD}@127.0.0.1:1/0",
        f"redis://me:{PASSWORD}@127.0.0.1:port/0",
        f"sea://me:{PASSWORD}@127.0.0.1:1/0",
    ):
        assert PASSWORD not in outcome(*options, "--state", url)


def test_configurations_show_no_password() -> None:
    config = ServeConfig(pools=(), state_url=f"redis://:{PASSWORD}@host")
    assert PASSWORD not in repr(config)
    assert "state_url" in {field.name for field in fields(config)}
