"""`coresift import` of a folder: the newest file of each session, of those that are not there."""

from __future__ import annotations

from dataclasses import dataclass, field

from coresift.client.client import Client
from coresift.client.commands.session_files import SILENCES, Folder, newest_files
from coresift.client.errors import AlreadyExists, CoresiftError, NotFound, Unavailable


@dataclass
class Imports:
    """What became of the sessions of a folder, by id."""

    imported: dict[str, str] = field(default_factory=dict)
    """The file that each was made of."""
    there: list[str] = field(default_factory=list)
    """The server has them already; they stay as they are."""
    failed: dict[str, str] = field(default_factory=dict)


def import_sessions(client: Client, folder: Folder) -> Imports:
    """Make a session of the newest file of each; a second run goes on where the first one ended."""
    done, silences = Imports(), 0
    for session_id, name in newest_files(folder.names()).items():
        if silences == SILENCES:
            done.failed[session_id] = "not tried: no server answers"
            continue
        try:
            with folder.file(name) as path:
                client.import_session(path)
        except AlreadyExists:
            if _is_listed(client, session_id):
                done.there.append(session_id)
            else:
                done.failed[session_id] = "deleted less than 24 hours ago: coresift undelete"
        except (CoresiftError, OSError) as error:
            is_silence = isinstance(error, Unavailable) and error.reason is None
            silences = silences + 1 if is_silence else 0
            done.failed[session_id] = f"{name}: {error}"
            continue
        else:
            done.imported[session_id] = name
        silences = 0
    return done


def _is_listed(client: Client, session_id: str) -> bool:
    """Whether a name that is taken is that of a session, and not of one just deleted."""
    try:
        client.get_session(session_id)
    except NotFound:
        return False
    return True
