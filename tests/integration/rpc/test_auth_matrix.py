"""Every RPC against every kind of token. A new RPC fails here until it has a rule and a row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from tests.fixtures.access import EVERY_SCOPE, METHODS, As, TokensFile
from tests.fixtures.servers import Pools, Refusal, ServerProcess, refusal_of

from coresift.client import StringColumn
from coresift.server.access_tokens import new_token
from coresift.server.rpc.scopes import SCOPES
from coresift.v1 import selection_pb2 as pb

UNDECODABLE = b"\xff\xff\xff"
ITEMS = 200
POOL, OTHER_POOL = "growing", "things"
KNOWN = "item-7"


@dataclass(frozen=True)
class Guarded:
    """A server that asks for tokens, and the callers that it knows.

    Attributes:
        owner: has every scope; its tenant has what the tests are about.
        stranger: another tenant's, with every scope and every pool.
        nobody: the default tenant's, with every scope and every pool.
        blind: the owner's tenant, every scope, but not the pool.
        scoped: by scope: the owner's tenant, this scope alone.
        without: by scope: the owner's tenant, every scope but this.
    """

    server: ServerProcess
    channel: grpc.Channel
    owner: As
    stranger: As
    nobody: As
    blind: As
    expired: As
    scoped: dict[str, As]
    without: dict[str, As]


@pytest.fixture(scope="module")
def guarded(
    pools: Pools, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    file, tenant = TokensFile(folder / "tokens.json"), f"acme-{uuid4().hex[:8]}"
    tokens = {
        "owner": file.add("owner", tenant),
        "stranger": file.add("stranger", f"{tenant}-2"),
        "nobody": file.add("nobody"),
        "blind": file.add("blind", tenant, pools=[OTHER_POOL]),
        "expired": file.add("expired", tenant, expires_in=timedelta(seconds=-1)),
    }
    scoped = {one: file.add(f"only-{one}", tenant, [one]) for one in EVERY_SCOPE}
    without = {one: file.add(f"no-{one}", tenant, set(EVERY_SCOPE) - {one}) for one in EVERY_SCOPE}
    options = ["--pool", pools.growing.directory, "--pool", pools.things.directory]
    options += ["--artifacts", folder / "artifacts", "--state", redis_url]
    server = ServerProcess(*options, "--tokens", file.path, "--reflection")
    with server, grpc.insecure_channel(server.listen) as channel:
        yield Guarded(
            server,
            channel,
            **{name: As(channel, token) for name, token in tokens.items()},
            scoped={name: As(channel, token) for name, token in scoped.items()},
            without={name: As(channel, token) for name, token in without.items()},
        )


def upload(name: str, request_id: str) -> list[pb.PutSignalsRequest]:
    ids = StringColumn.of([f"item-{n}" for n in range(ITEMS)]).part(0, ITEMS)
    values = np.arange(ITEMS, dtype="<f4").tobytes()
    header = pb.SignalHeader(
        request_id=request_id,
        pool=POOL,
        name=name,
        kind=pb.SIGNAL_KIND_NUMBER,
        columns=["value"],
        count=ITEMS,
        sha256=hashlib.sha256(ids.data + ids.offsets + values).digest(),
    )
    chunk = pb.SignalChunk(item_ids=ids, values=values)
    return [pb.PutSignalsRequest(header=header), pb.PutSignalsRequest(chunk=chunk)]


def session_request(session_id: str, request_id: str) -> pb.CreateSessionRequest:
    config = pb.SessionConfig(pool=POOL, task=pb.TASK_BINARY)
    config.candidates.all.SetInParent()
    return pb.CreateSessionRequest(request_id=request_id, session_id=session_id, config=config)


@dataclass(frozen=True)
class Belongings:
    """What the owner has: a session with labels and a lease, a signal, a core-set job.

    Everything bears one name, so that other tenants may try it everywhere.
    """

    name: str
    item: str
    """Leased."""
    token: bytes
    """Of the lease."""
    backup: tuple[bytes, ...]


def belongings(owner: As) -> Belongings:
    name = f"own-{uuid4().hex[:12]}"
    owner("CreateSession", session_request(name, f"{name}/create"))
    labels = [
        pb.Label(item_id="item-0", class_name="positive"),
        pb.Label(item_id="item-1", class_name="negative"),
    ]
    owner(
        "AddLabels",
        pb.AddLabelsRequest(
            request_id=f"{name}/seed", session_id=name, annotator="ann", labels=labels
        ),
    )
    batch = owner.one(
        "NextBatch",
        pb.NextBatchRequest(request_id=f"{name}/lease", session_id=name, annotator="ann", size=1),
    )
    owner("PutSignals", *upload(name, f"{name}/signal"))
    owner("ScoreCoreset", coreset_request(name))
    backup = owner("ExportSession", pb.ExportSessionRequest(session_id=name))
    [pick] = batch.picks
    return Belongings(name, pick.item_id, pick.lease_token, tuple(part.data for part in backup))


@pytest.fixture(scope="module")
def kept(guarded: Guarded) -> Belongings:
    """What nobody but the owner may change."""
    return belongings(guarded.owner)


def coreset_request(name: str) -> pb.ScoreCoresetRequest:
    return pb.ScoreCoresetRequest(request_id=name, pool=POOL, method="random", budget=10)


def vectors() -> pb.Vectors:
    return pb.Vectors(dimension=16, data=np.ones((1, 16), "<f4").tobytes())


def of_session(kind: type, **fields: object) -> Callable[[Belongings], list[Message]]:
    """Requests that name the owner's session and bear a request_id of their own, if any."""

    def make(own: Belongings) -> list[Message]:
        if "request_id" in kind.DESCRIPTOR.fields_by_name:  # type: ignore[attr-defined]
            fields["request_id"] = f"r-{uuid4()}"
        return [kind(session_id=own.name, **fields)]

    return make


NOT_FOUND = "SESSION_NOT_FOUND"
OWN = "acts on what is its own"


@dataclass(frozen=True)
class Row:
    """An RPC: requests for what the owner has, and what happens when others send them.

    Attributes:
        stranger: the reason that another tenant gets, or OWN.
        blind: the reason that the same tenant gets without the pool, or OWN.
    """

    requests: Callable[[Belongings], list[Message]]
    stranger: str = NOT_FOUND
    blind: str = NOT_FOUND


def added(own: Belongings) -> list[Message]:
    label = pb.Label(item_id=own.item, class_name="positive", lease_token=own.token)
    return [
        pb.AddLabelsRequest(
            request_id=f"r-{uuid4()}", session_id=own.name, annotator="ann", labels=[label]
        )
    ]


def imported(own: Belongings) -> list[Message]:
    header = pb.ImportSessionHeader(request_id=f"r-{uuid4()}", session_id=f"copy-{uuid4()}")
    parts = [pb.ImportSessionRequest(data=data) for data in own.backup]
    return [pb.ImportSessionRequest(header=header), *parts]


UPDATE = {"update_mask": {"paths": ["votes_per_item"]}, "config": {"votes_per_item": 2}}
ROWS: dict[str, Row] = {
    "CreateSession": Row(
        lambda own: [session_request(own.name, f"{own.name}/create")], OWN, "POOL_NOT_FOUND"
    ),
    "GetSession": Row(of_session(pb.GetSessionRequest)),
    "ListSessions": Row(lambda own: [pb.ListSessionsRequest(page_size=1000)], OWN, OWN),
    "UpdateSession": Row(of_session(pb.UpdateSessionRequest, **UPDATE)),
    "DeleteSession": Row(of_session(pb.DeleteSessionRequest)),
    "UndeleteSession": Row(of_session(pb.UndeleteSessionRequest)),
    "ExportSession": Row(of_session(pb.ExportSessionRequest)),
    "ImportSession": Row(imported, OWN, "POOL_NOT_FOUND"),
    "EraseAnnotator": Row(of_session(pb.EraseAnnotatorRequest, annotator="ann")),
    "GetSessionProgress": Row(of_session(pb.GetSessionProgressRequest)),
    "NextBatch": Row(of_session(pb.NextBatchRequest, annotator="ann", size=1)),
    "AddLabels": Row(added),
    "RenewLeases": Row(of_session(pb.RenewLeasesRequest, annotator="ann")),
    "ReleaseLeases": Row(
        of_session(
            pb.ReleaseLeasesRequest,
            annotator="ann",
            item_ids=[KNOWN],
            reason=pb.RELEASE_REASON_RETURN,
        )
    ),
    "ListLeases": Row(of_session(pb.ListLeasesRequest, annotator="ann")),
    "ListConsensus": Row(of_session(pb.ListConsensusRequest)),
    "ListLabels": Row(of_session(pb.ListLabelsRequest)),
    "Predict": Row(of_session(pb.PredictRequest, items={"item_ids": [KNOWN]})),
    "ScoreVectors": Row(of_session(pb.ScoreVectorsRequest, vectors=vectors())),
    "SearchPool": Row(
        lambda own: [pb.SearchPoolRequest(pool=POOL, item_id=KNOWN, count=3)],
        OWN,
        "POOL_NOT_FOUND",
    ),
    "GetHead": Row(of_session(pb.GetHeadRequest)),
    "PutSignals": Row(lambda own: list(upload(own.name, f"r-{uuid4()}")), OWN, "POOL_NOT_FOUND"),
    "ListSignals": Row(lambda own: [pb.ListSignalsRequest(pool=POOL)], OWN, "POOL_NOT_FOUND"),
    "DeleteSignals": Row(
        lambda own: [pb.DeleteSignalsRequest(request_id=f"r-{uuid4()}", pool=POOL, name=own.name)],
        "SIGNAL_NOT_FOUND",
        "POOL_NOT_FOUND",
    ),
    "ScoreCoreset": Row(lambda own: [coreset_request(own.name)], OWN, "JOB_NOT_FOUND"),
    "CancelCoreset": Row(
        lambda own: [pb.CancelCoresetRequest(request_id=f"r-{uuid4()}", job_id=own.name)],
        "JOB_NOT_FOUND",
        "JOB_NOT_FOUND",
    ),
    "GetPool": Row(lambda own: [pb.GetPoolRequest(name=POOL)], OWN, "POOL_NOT_FOUND"),
    "ListPools": Row(lambda own: [pb.ListPoolsRequest()], OWN, OWN),
    "GetItems": Row(
        lambda own: [pb.GetItemsRequest(pool=POOL, item_ids=[KNOWN])], OWN, "POOL_NOT_FOUND"
    ),
}
MAKERS = {"CreateSession", "PutSignals", "ScoreCoreset"}
"""What leaves others with something of the same name."""
AUTH = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INTERNAL", "UNKNOWN"}
every_rpc = pytest.mark.parametrize("method", METHODS)


def refused(caller: As, method: str, *requests: Message | bytes) -> Refusal:
    return refusal_of(lambda: caller(method, *requests))


def outcome(call: Callable[[], object]) -> str:
    """The code that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        code: str = error.code().name
        return code
    return "OK"


def state_of(owner: As, own: Belongings) -> list[bytes]:
    """All that the owner can see of what it has."""
    name = own.name
    leases = pb.ListLeasesRequest(session_id=name)
    asked = {
        "GetSession": pb.GetSessionRequest(session_id=name),
        "GetSessionProgress": pb.GetSessionProgressRequest(session_id=name),
        "ListLabels": pb.ListLabelsRequest(session_id=name),
        "ListLeases": leases,
        "ListSignals": pb.ListSignalsRequest(pool=POOL, page_size=1000),
        "ListSessions": pb.ListSessionsRequest(page_size=1000),
    }
    return [
        answer.SerializeToString(deterministic=True)
        for method, request in asked.items()
        for answer in owner(method, request)
    ]


def test_every_rpc_has_a_rule_and_a_row() -> None:
    assert SCOPES.keys() == METHODS.keys()
    assert ROWS.keys() == METHODS.keys()


@every_rpc
def test_no_token(guarded: Guarded, method: str) -> None:
    refusal = refused(As(guarded.channel, None), method, UNDECODABLE)
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_MISSING")
    assert refusal.domain == "coresift"


@every_rpc
def test_wrong_token(guarded: Guarded, method: str) -> None:
    right = guarded.owner.token
    assert right is not None
    for wrong in (
        "",
        "sea",
        new_token(),
        right[:-1],
        right + "A",
        right.upper(),
        f"Bearer {right}",
    ):
        refusal = refused(As(guarded.channel, wrong), method, UNDECODABLE)
        assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_INVALID")
        assert right[:-1] not in refusal.message


@every_rpc
def test_expired_token(guarded: Guarded, method: str) -> None:
    refusal = refused(guarded.expired, method, UNDECODABLE)
    assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", "TOKEN_INVALID")
    assert "expired" in refusal.message


@every_rpc
def test_missing_scope(guarded: Guarded, method: str) -> None:
    scope = SCOPES[method].value
    refusal = refused(guarded.without[scope], method, UNDECODABLE)
    assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "SCOPE_MISSING")
    assert refusal.metadata == {"scope": scope}


@every_rpc
def test_right_token(guarded: Guarded, method: str) -> None:
    own = belongings(guarded.owner)
    caller = guarded.scoped[SCOPES[method].value]
    assert outcome(lambda: caller(method, *ROWS[method].requests(own))) not in AUTH


@every_rpc
@pytest.mark.parametrize("who", ["stranger", "nobody"])
def test_other_tenant(guarded: Guarded, kept: Belongings, method: str, who: str) -> None:
    row, caller = ROWS[method], getattr(guarded, who)
    own = belongings(guarded.owner) if method in MAKERS else kept
    before = state_of(guarded.owner, own)
    requests = row.requests(own)
    if row.stranger == OWN:
        caller(method, *requests)
        for listed in ("ListSessions", "ListSignals"):
            if method == listed:
                assert own.name.encode() not in b"".join(
                    answer.SerializeToString() for answer in caller(method, *requests)
                )
    else:
        assert refused(caller, method, *requests).reason == row.stranger
    assert state_of(guarded.owner, own) == before
    guarded.owner("ScoreCoreset", coreset_request(own.name))  # it is not cancelled


@every_rpc
def test_hidden_pool(guarded: Guarded, kept: Belongings, method: str) -> None:
    own, row = kept, ROWS[method]
    before = state_of(guarded.owner, own)
    requests = row.requests(own)
    if row.blind == OWN:
        told = b"".join(answer.SerializeToString() for answer in guarded.blind(method, *requests))
        assert own.name.encode() not in told
        assert POOL.encode() not in told
    else:
        refusal = refused(guarded.blind, method, *requests)
        assert refusal.reason == row.blind
        assert POOL not in refusal.message.replace(f"no pool {POOL!r}", "")
    assert state_of(guarded.owner, own) == before
