"""Names of everything that stands in Redis.

All keys of a session share the hash tag ``{uid}``, so that one script may use them in a cluster.
What leads to a session (its name, the lists of sessions) lies apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from coresift.server.caller import tenant_of

DELETED = "coresift:deleted"
"""Sorted set of "uid session_id" by the time of removal (ms)."""

GONE_VIEWS = "coresift:gone-views"
"""Set of content hashes: files of views whose sessions have been removed."""


def listing(tenant: str) -> str:
    """Sorted set of a tenant's session ids, all scores 0: the order of listing."""
    return f"coresift:sessions:{tenant}" if tenant else "coresift:sessions"


def listing_of(session_id: str) -> str:
    """The listing that a session stands in."""
    return listing(tenant_of(session_id))


def name_key(session_id: str) -> str:
    """String: the name record of a session, all that is needed to create it."""
    return f"coresift:name:{session_id}"


def creation_key(request_id: str) -> str:
    """String, for 24 h: which session a CreateSession made."""
    return f"coresift:creation:{request_id}"


def wait_key(key: str) -> str:
    """String, for a minute: what is written beside ``key`` when replicas are waited for.

    It lies in the slot of ``key``.
    """
    start = key.find("{") + 1
    end = key.find("}", start)
    return f"coresift:wait:{{{key[start:end] if 0 < start < end else key}}}"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The keys of one session; ``lua/prelude.lua`` says what each holds."""

    uid: str

    def _key(self, name: str) -> str:
        return f"coresift:{{{self.uid}}}:{name}"

    def of_script(self, request_id: str = "", annotator: str = "") -> list[str]:
        """The keys every session script begins with, in the order of ``prelude.lua``."""
        hands, answer = f"hands:{annotator}", f"answer:{request_id}"
        names = ("meta", "log", "leases", hands, "held", "votes", "skips", answer)
        return list(map(self._key, (*names, "extra", "groups")))

    @property
    def meta(self) -> str:
        return self._key("meta")

    @property
    def leases(self) -> str:
        return self._key("leases")

    @property
    def head(self) -> str:
        return self._key("head")

    @property
    def view(self) -> str:
        return self._key("view")

    def neighbours(self, table: str) -> str:
        return self._key(f"neighbours:{table}")

    def answers(self, request_ids: Iterable[str]) -> list[str]:
        """Kept answers of requests."""
        return [self._key(f"answer:{request_id}") for request_id in request_ids]

    def hands(self, annotators: Iterable[str]) -> list[str]:
        """Sets of what annotators hold."""
        return [self._key(f"hands:{annotator}") for annotator in annotators]

    def data(self, tables: Iterable[str]) -> list[str]:
        """All that is removed with the session; answers and hands end by themselves."""
        names = ("meta", "log", "leases", "held", "votes", "skips", "extra", "groups")
        return [*map(self._key, names), self.head, self.view, *map(self.neighbours, tables)]


@dataclass(frozen=True, slots=True)
class SpaceKeys:
    """The keys of one space of documents."""

    space: str

    @property
    def _tag(self) -> str:
        return "{" + quote(self.space, safe="/") + "}"

    @property
    def index(self) -> str:
        return f"coresift:{self._tag}:documents"

    def document(self, name: str) -> str:
        return f"coresift:{self._tag}:document:{name}"
