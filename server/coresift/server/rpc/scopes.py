"""Which scope each RPC needs: one table, SECURITY.md shows it."""

from __future__ import annotations

from collections.abc import Mapping

from coresift.server.caller import Scope

SCOPES: Mapping[str, Scope] = {
    "CreateSession": Scope.ADMIN,
    "GetSession": Scope.READ,
    "ListSessions": Scope.READ,
    "UpdateSession": Scope.ADMIN,
    "DeleteSession": Scope.ADMIN,
    "UndeleteSession": Scope.ADMIN,
    # The file holds the key of the session's lease tokens.
    "ExportSession": Scope.ADMIN,
    "ImportSession": Scope.ADMIN,
    "EraseAnnotator": Scope.ADMIN,
    "GetSessionProgress": Scope.READ,
    "NextBatch": Scope.LABEL,
    "AddLabels": Scope.LABEL,
    "RenewLeases": Scope.LABEL,
    "ReleaseLeases": Scope.LABEL,
    # It hands out lease tokens.
    "ListLeases": Scope.LABEL,
    "ListConsensus": Scope.READ,
    "ListLabels": Scope.READ,
    "Predict": Scope.READ,
    "ScoreVectors": Scope.READ,
    "SearchPool": Scope.READ,
    "GetHead": Scope.READ,
    "PutSignals": Scope.ADMIN,
    "ListSignals": Scope.READ,
    "DeleteSignals": Scope.ADMIN,
    "ScoreCoreset": Scope.ADMIN,
    "CancelCoreset": Scope.ADMIN,
    "GetPool": Scope.READ,
    "ListPools": Scope.READ,
    "GetItems": Scope.READ,
}
"""By the method's name. A token has the scopes that it lists: none implies another."""


def scope_of(method: str) -> Scope:
    """What a method of the selection service needs; one without a rule needs ``admin``."""
    return SCOPES.get(method, Scope.ADMIN)
