"""What an answer was computed from."""

from __future__ import annotations

from dataclasses import dataclass

from coresift.v1 import selection_pb2 as pb


@dataclass(frozen=True)
class Basis:
    """What an answer was computed from. Equal bases give equal answers."""

    pool: str
    pool_version: str
    config_version: int
    """1 after creation, one more with each update; 0: no session involved."""
    revision: int
    """Number of the newest log entry that carries labels; 0 before the first."""
    head_version: str
    """Empty: no head was used."""
    seed: int


def basis(message: pb.Basis) -> Basis:
    """Decode a basis."""
    return Basis(
        message.pool,
        message.pool_version,
        message.config_version,
        message.revision,
        message.head_version,
        message.seed,
    )
