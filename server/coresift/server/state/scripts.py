"""The Lua scripts, run by their hash and sent whole where Redis does not know them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """One atomic operation."""

    source: str
    sha: str

    async def run(
        self, client: Any, keys: Sequence[str], arguments: Sequence[Argument] = ()
    ) -> Any:
        """Run it on ``client``; the header of the file says what it replies."""
        try:
            return await client.execute_command("EVALSHA", *self.call(keys, arguments))
        except NoScriptError:
            # After a restart, a failover or SCRIPT FLUSH. EVAL also makes it known again.
            return await client.execute_command(
                "EVAL", self.source, *self.call(keys, arguments)[1:]
            )

    def call(self, keys: Sequence[str], arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        """What follows EVALSHA."""
        return (self.sha, len(keys), *keys, *arguments)


def _load(*names: str) -> Script:
    folder = files("coresift.server.state") / "lua"
    source = "".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
    # Redis itself names scripts by SHA-1.
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


CREATE = _load("prelude", "create")
READ = _load("prelude", "read")
CONFIGURE = _load("prelude", "configure")
DELETE = _load("prelude", "delete")
UNDELETE = _load("prelude", "undelete")
EXPIRED = _load("prelude", "expired")
BURY = _load("prelude", "bury")
CLAIM = _load("prelude", "claim")
LABELS = _load("prelude", "labels")
RENEW = _load("prelude", "renew")
RELEASE = _load("prelude", "release")
LEASES = _load("prelude", "leases")
LOG = _load("prelude", "log")
HEAD = _load("prelude", "head")
VIEW_PUT = _load("prelude", "view_put")
VIEW_GET = _load("prelude", "view_get")
NEIGHBOURS_PUT = _load("prelude", "neighbours_put")
NEIGHBOURS_GET = _load("prelude", "neighbours_get")

COPY = _load("prelude", "copy")
ANSWERS = _load("prelude", "answers")
MOVED = _load("prelude", "moved")
RESTORE_LOG = _load("prelude", "restore_log")
RESTORE_ROWS = _load("prelude", "restore_rows")
RESTORE_ANSWERS = _load("prelude", "restore_answers")
RESTORE_END = _load("prelude", "restore_end")

DOCUMENT_PUT = _load("document_put")
DOCUMENT_DELETE = _load("document_delete")
DOCUMENT_SWEEP = _load("document_sweep")
EQUALS_DELETE = _load("equals_delete")
EQUALS_PUT = _load("equals_put")

TRIAL = _load("trial")
