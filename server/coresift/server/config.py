"""What the server is started with: one frozen value, units in the names, read once."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from coresift.server.cores import usable_cores
from coresift.server.errors import StartError


def default_data_dir() -> Path:
    """The user's data directory for Coresift."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "coresift"


class Level(StrEnum):
    """From which level on events are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Calls(StrEnum):
    """Which calls have a line."""

    ALL = "all"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How the log is written.

    Attributes:
        hashes: item ids, annotators and request ids appear as keyed hashes alone.
        hash_key: of the hashes, the same on all replicas; empty: one of this process alone.
    """

    level: Level = Level.INFO
    calls: Calls = Calls.ALL
    hashes: bool = False
    hash_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Options of ``coresift serve``.

    Attributes:
        pools: directories or URIs, of a pool version or of a root folder of versions.
        pool_cache: where versions from object stores are kept; None: under ``data_dir``.
        pool_cache_bytes: of all that is kept there; None: only the disk bounds it.
        pool_refresh_s: between two looks for new versions; 0: none after the start.
        state_url: Redis; None starts the embedded one under ``data_dir``.
        state_volatile: accept a Redis that keeps nothing on disk.
        state_min_replicas: how many replicas of Redis must have a write before it is acknowledged.
        artifacts: root of signals and core-sets, any fsspec URI; None: under ``data_dir``.
        device: where embeddings live: auto, cpu, cuda or cuda:NUMBER.
        tokens: access tokens; None: whoever reaches the port may do everything.
        tls_cert, tls_key: PEM files; None: plain text.
        tls_client_ca: whose certificates clients must show (mTLS); None: they need none.
        allow_plaintext: serve a public address without TLS.
        health_listen: a second port, plain, for health alone; None: there is none.
        ready_file: written as JSON (listen, metrics, pid) once the server serves.
        drain_s: how long calls may take after SIGTERM.
        default_deadline_s: of calls with one answer whose clients set none.
        max_connection_age_s: after which a client must connect anew; 0: never.
        worker_threads: for numerics.
    """

    pools: tuple[str | Path, ...]
    listen: str = "127.0.0.1:50051"
    metrics_listen: str = "127.0.0.1:9464"
    state_url: str | None = field(default=None, repr=False)
    state_volatile: bool = False
    state_min_replicas: int = 0
    artifacts: str | None = None
    data_dir: Path = field(default_factory=default_data_dir)
    device: str = "auto"
    reflection: bool = False
    tokens: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    allow_plaintext: bool = False
    health_listen: str | None = None
    ready_file: Path | None = None
    drain_s: float = 7.0
    default_deadline_s: float = 60.0
    max_connection_age_s: float = 1800.0
    worker_threads: int = field(default_factory=lambda: max(2, usable_cores()))
    pool_cache: Path | None = None
    pool_cache_bytes: int | None = None
    pool_refresh_s: float = 30.0
    max_message_bytes: int = 64 * 1024 * 1024

    def pool_cache_root(self) -> Path:
        """Where pool versions from object stores are kept."""
        return self.pool_cache or self.data_dir / "pools"

    def artifact_root(self) -> str:
        """Where artifacts go."""
        return self.artifacts or str(self.data_dir / "artifacts")


def address(option: str, value: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; port 0 asks the system for one. Raises StartError."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise StartError(f"{option} must be HOST:PORT, got {value!r}")
    return host.strip("[]"), int(port)


def resolve_device(device: str) -> str:
    """``cpu``, ``cuda`` or ``cuda:1``.

    ``auto`` takes CUDA where there is a GPU. StartError for a GPU that is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
        raise StartError(f"--device must be auto, cpu, cuda or cuda:NUMBER, got {device!r}")
    # torch is slow to import: ask it only where a driver is at hand, or the user insists.
    if device == "cpu" or (device == "auto" and not Path("/dev/nvidiactl").exists()):
        return "cpu"
    try:
        import torch
    except ImportError as error:
        raise StartError(f"--device {device} needs torch: install coresift[server,gpu]") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an old driver; we say it ourselves
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if gpus else "cpu"
    if not gpus:
        raise StartError(f"--device {device}: torch sees no CUDA GPU here; use --device cpu")
    if int(device.partition(":")[2] or 0) >= gpus:
        raise StartError(f"--device {device}: torch sees {gpus} CUDA GPUs here, numbered from 0")
    return device
