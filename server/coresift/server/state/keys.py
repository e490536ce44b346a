"""Names of everything that stands in Redis.

All keys of a session share the hash tag ``{uid}``, so that one script may use them in a cluster.
What leads to a session (its name, the lists of sessions) lies apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

SESSIONS = "coresift:sessions"
"""Sorted set of session ids, all scores 0: the order of listing."""

DELETED = "coresift:deleted"
"""Sorted set of "uid session_id" by the time of removal (ms)."""


def name_key(session_id: str) -> str:
    """String: the name record of a session, all that is needed to create it."""
    return f"coresift:name:{session_id}"


def creation_key(request_id: str) -> str:
    """String, for 24 h: which session a CreateSession made."""
    return f"coresift:creation:{request_id}"


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
    def head(self) -> str:
        return self._key("head")

    def neighbours(self, table: str) -> str:
        return self._key(f"neighbours:{table}")

    def data(self, tables: list[str]) -> list[str]:
        """All that is removed with the session; answers and hands end by themselves."""
        names = ("meta", "log", "leases", "held", "votes", "skips", "extra", "groups")
        return [*map(self._key, names), self.head, *map(self.neighbours, tables)]


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
