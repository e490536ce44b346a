"""Who makes a call, for its line in the log."""

from __future__ import annotations

from typing import Any

from coresift.server.caller import CALLER


def audited(context: Any) -> dict[str, str]:
    """The principal and its tenant: the token's name, else the client certificate's.

    Read while the call is alive: gRPC frees it some time later.
    """
    caller = CALLER.get()
    principal = caller.principal
    if not principal:
        names = (context.auth_context() or {}).get("x509_common_name", ())
        principal = b"".join(names[:1]).decode(errors="replace")
    return {"principal": principal, "tenant": caller.tenant}
