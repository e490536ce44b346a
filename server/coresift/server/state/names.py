"""Name records: what leads from a session's id to its keys."""

from __future__ import annotations

from dataclasses import dataclass

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.replies import pack, refusal, unpack
from coresift.server.state.values import Request, Settings


@dataclass(frozen=True, slots=True)
class Name:
    """A name record: all that is needed to create its session."""

    session_id: str
    uid: str
    secret: bytes
    settings: Settings
    request: Request

    def packed(self) -> bytes:
        """As it stands in Redis."""
        return pack(
            [
                self.session_id,
                self.uid,
                self.secret,
                *numbers(self.settings),
                self.settings.config,
                self.request.request_id,
                self.request.digest,
            ]
        )

    @classmethod
    def unpacked(cls, blob: bytes) -> Name:
        """From what stands in Redis. FORMAT_TOO_NEW."""
        fields = unpack(blob)
        if len(fields) > 8:
            raise refusal(Reason.FORMAT_TOO_NEW, f"of a name with {len(fields)} fields")
        session_id, uid, secret, quota, budget, config, request_id, digest = fields
        settings = Settings(quota, budget if budget >= 0 else None, config)
        request = Request(request_id.decode(), digest)
        return cls(session_id.decode(), uid.decode(), secret, settings, request)

    @classmethod
    def readable(cls, blob: bytes | None) -> Name | None:
        """None where nothing stands there, or the name of a newer release."""
        try:
            return None if blob is None else cls.unpacked(blob)
        except CoresiftError as error:
            if error.reason is not Reason.FORMAT_TOO_NEW:
                raise
            return None


def numbers(settings: Settings) -> tuple[int, int]:
    """Quota and budget (-1: none) as the scripts take them."""
    return settings.quota, -1 if settings.budget is None else settings.budget
