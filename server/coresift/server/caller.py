"""Who makes the call under way: set by the interceptor, asked wherever it matters.

A tenant's sessions, requests and signals are kept under names of its own. The default tenant has
no name, and its names are those that callers use.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

SEPARATOR = "|"
"""Between a tenant and a name; no name of a caller may hold it."""


class Scope(StrEnum):
    """What a token permits; a call needs exactly one of them."""

    READ = "read"
    LABEL = "label"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller and its rights.

    Attributes:
        principal: the token's name, for the log; empty without tokens.
        tenant: empty: the default one.
        scopes: what its calls may do.
        pools: names of the pools it may see; None: all.
    """

    principal: str = ""
    tenant: str = ""
    scopes: frozenset[Scope] = frozenset(Scope)
    pools: frozenset[str] | None = None

    def kept_as(self, name: str) -> str:
        """The name under which the state store keeps what the caller calls ``name``."""
        return f"{self.tenant}{SEPARATOR}{name}" if self.tenant else name

    def sees(self, pool: str) -> bool:
        """Whether a pool exists for the caller."""
        return self.pools is None or pool in self.pools


ANYONE = Caller()
"""Of a server that asks for no tokens, and of work that no call started."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYONE)
"""Of the running task; those that it starts inherit it."""


def tenant_of(kept: str) -> str:
    """The tenant of what is kept under ``kept``."""
    return kept.rpartition(SEPARATOR)[0]


def bare(kept: str) -> str:
    """The caller's own name of what is kept under ``kept``."""
    return kept.rpartition(SEPARATOR)[2]
