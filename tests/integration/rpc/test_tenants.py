"""Two tenants on one server, with the same names for everything: they never meet."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.fixtures.access import As, TokensFile, bearer
from tests.fixtures.servers import Pools, ServerProcess, refusal_of
from tests.integration.rpc.test_auth_matrix import upload

from coresift.v1 import selection_pb2 as pb

POOL = "growing"


@dataclass(frozen=True)
class Two:
    """Tenants on one server; neither name is the other's beginning by chance alone.

    Attributes:
        acme, beta: with every scope and every pool.
        default: the default tenant.
        things: of acme, but sees the pool "things" alone.
        tenants: how the tokens' file calls acme and beta.
    """

    server: ServerProcess
    channel: grpc.Channel
    acme: As
    beta: As
    default: As
    things: As
    tenants: tuple[str, str]


@pytest.fixture(scope="module")
def two(pools: Pools, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder, acme = tmp_path_factory.mktemp("two"), f"t{uuid4().hex[:8]}"
    beta = f"{acme}-b"
    file = TokensFile(folder / "tokens.json")
    tokens = {
        "acme": file.add("acme", acme),
        "beta": file.add("beta", beta),
        "default": file.add("default"),
        "things": file.add("things", acme, pools=["things"]),
    }
    directories = (pools.growing.directory, pools.things.directory)
    options = [word for directory in directories for word in ("--pool", directory)]
    options += ["--artifacts", folder / "artifacts", "--state", redis_url, "--reflection"]
    server = ServerProcess(*options, "--tokens", file.path)
    with server, grpc.insecure_channel(server.listen) as channel:
        callers = {name: As(channel, token) for name, token in tokens.items()}
        yield Two(server, channel, **callers, tenants=(acme, beta))


def create(
    caller: As, session_id: str, request_id: str, pool: str = POOL, **fields: Any
) -> pb.Session:
    config = pb.SessionConfig(pool=pool, task=pb.TASK_BINARY, **fields)
    config.candidates.all.SetInParent()
    request = pb.CreateSessionRequest(request_id=request_id, session_id=session_id, config=config)
    session: pb.Session = caller.one("CreateSession", request).session
    return session


def add(caller: As, session_id: str, request_id: str, labels: dict[str, str]) -> Any:
    given = [pb.Label(item_id=item, class_name=name) for item, name in labels.items()]
    return caller.one(
        "AddLabels",
        pb.AddLabelsRequest(
            request_id=request_id, session_id=session_id, annotator="ann", labels=given
        ),
    )


def listed(caller: As, size: int) -> list[str]:
    """Ids of all sessions, page by page."""
    found: list[str] = []
    token = ""
    while True:
        request = pb.ListSessionsRequest(page_size=size, page_token=token)
        page = caller.one("ListSessions", request)
        found += [session.session_id for session in page.sessions]
        token = page.next_page_token
        if not token:
            return found


def reason(call: Callable[[], object]) -> str:
    return refusal_of(call).reason


def test_one_id_is_two_sessions(two: Two) -> None:
    """Views, heads and stored answers of the same names are apart."""
    name = f"s-{uuid4()}"
    assert create(two.acme, name, f"{name}/c", seed=1).session_id == name
    assert create(two.beta, name, f"{name}/c", seed=2).session_id == name
    first = add(two.acme, name, f"{name}/a", {"item-0": "positive", "item-1": "negative"})
    second = add(two.beta, name, f"{name}/a", {"item-0": "negative", "item-4": "positive"})
    assert (first.basis.seed, second.basis.seed) == (1, 2)
    heads = [
        caller.one("GetHead", pb.GetHeadRequest(session_id=name)) for caller in (two.acme, two.beta)
    ]
    assert heads[0].weights != heads[1].weights
    batches = [
        caller.one(
            "NextBatch",
            pb.NextBatchRequest(request_id="same", session_id=name, annotator="ann", size=5),
        )
        for caller in (two.acme, two.beta, two.acme)
    ]
    assert batches[0] == batches[2]  # a retry finds its own answer
    assert batches[0].picks[0].lease_token != batches[1].picks[0].lease_token
    for caller, positive in ((two.acme, "item-0"), (two.beta, "item-4")):
        [answer] = caller("ListLabels", pb.ListLabelsRequest(session_id=name))
        labels = {one.label.item_id: one.label.class_name for one in answer.labels}
        assert [item for item, label in labels.items() if label == "positive"] == [positive]
    two.acme("DeleteSession", pb.DeleteSessionRequest(request_id=f"{name}/d", session_id=name))
    assert two.beta.one("GetSession", pb.GetSessionRequest(session_id=name)).session.basis.seed == 2


def test_a_request_id_of_another_tenant_is_free(two: Two) -> None:
    """CreateSession notes the request before there is a session to note it in."""
    request = f"r-{uuid4()}"
    made = [
        create(caller, "", request, seed=seed)
        for seed, caller in enumerate((two.acme, two.beta, two.default))
    ]
    assert [session.config.seed for session in made] == [0, 1, 2]
    assert create(two.acme, "", request, seed=0).session_id == made[0].session_id
    refusal = refusal_of(lambda: create(two.acme, "", request, seed=7))
    assert refusal.reason == "REQUEST_ID_REUSED"
    for session in made:
        assert "|" not in session.session_id
        assert two.tenants[0] not in session.session_id


def test_lists_hold_only_what_is_ones_own(two: Two) -> None:
    prefix = f"s-{uuid4()}"
    for n in range(7):
        create(two.acme, f"{prefix}/{n}", f"{prefix}/a{n}")
        create(two.default, f"{prefix}/{n}", f"{prefix}/d{n}")
    create(two.beta, f"{prefix}/3", f"{prefix}/b")
    create(two.acme, f"{prefix}/things", f"{prefix}/t", pool="things")
    for size in (1, 3, 1000):
        mine = [name for name in listed(two.acme, size) if name.startswith(prefix)]
        assert mine == [f"{prefix}/{n}" for n in range(7)] + [f"{prefix}/things"]
        assert [name for name in listed(two.beta, size) if name.startswith(prefix)] == [
            f"{prefix}/3"
        ]
        assert [name for name in listed(two.things, size) if name.startswith(prefix)] == [
            f"{prefix}/things"
        ]
    mine = [name for name in listed(two.default, 1000) if name.startswith(prefix)]
    assert mine == [f"{prefix}/{n}" for n in range(7)]


def test_page_tokens_lead_nowhere_else(two: Two) -> None:
    """A token is a place in the caller's own list, whoever made it."""
    prefix, (acme, beta) = f"s-{uuid4()}", two.tenants
    for n in range(3):
        create(two.acme, f"{prefix}/{n}", f"{prefix}/a{n}")
    create(two.beta, f"{prefix}/9", f"{prefix}/b")
    page = two.acme.one("ListSessions", pb.ListSessionsRequest(page_size=1))
    assert acme not in base64.urlsafe_b64decode(page.next_page_token).decode()

    def after(caller: As, key: str) -> list[str]:
        token = base64.urlsafe_b64encode(f"sessions:{key}".encode()).decode()
        request = pb.ListSessionsRequest(page_size=1000, page_token=token)
        return [one.session_id for one in caller.one("ListSessions", request).sessions]

    for caller in (two.beta, two.default):
        for key in (
            f"{prefix}/0",
            f"{acme}|",
            f"{acme}|{prefix}",
            f"|{acme}|",
            f"{acme}|{prefix}/0",
        ):
            assert not {f"{prefix}/{n}" for n in range(3)} & set(after(caller, key))
    stolen = pb.ListSessionsRequest(page_size=1000, page_token=page.next_page_token)
    found = {one.session_id for one in two.beta.one("ListSessions", stolen).sessions}
    assert not {f"{prefix}/{n}" for n in range(3)} & found
    assert beta not in "".join(found)


def test_the_names_of_the_store_are_no_names_here(two: Two) -> None:
    """A session_id, request_id or job_id with the separator is refused, not followed."""
    name, (acme, _) = f"s-{uuid4()}", two.tenants
    create(two.acme, name, f"{name}/c")
    for caller in (two.default, two.beta, two.acme):
        for kept in (f"{acme}|{name}", f"|{name}", f"{name}|"):
            refusal = refusal_of(
                lambda c=caller, k=kept: c("GetSession", pb.GetSessionRequest(session_id=k))
            )
            assert (refusal.reason, refusal.fields) == ("INVALID_FIELD", ("session_id",))
            assert reason(lambda c=caller, k=kept: create(c, k, "r")) == "INVALID_FIELD"
            assert reason(lambda c=caller, k=kept: create(c, "", k)) == "INVALID_FIELD"
            cancel = pb.CancelCoresetRequest(request_id="r", job_id=kept)
            assert reason(lambda c=caller, r=cancel: c("CancelCoreset", r)) == "INVALID_FIELD"


def test_a_lease_token_of_another_tenant(two: Two) -> None:
    name = f"s-{uuid4()}"
    for caller in (two.acme, two.beta):
        create(caller, name, f"{name}/c")
    ask = pb.NextBatchRequest(request_id=name, session_id=name, annotator="ann", size=1)
    pick = two.acme.one("NextBatch", ask).picks[0]
    label = pb.Label(item_id=pick.item_id, class_name="positive", lease_token=pick.lease_token)
    request = pb.AddLabelsRequest(
        request_id=f"{name}/a", session_id=name, annotator="ann", labels=[label]
    )
    assert reason(lambda: two.beta("AddLabels", request)) == "LEASE_TOKEN_FOREIGN"
    assert two.acme("AddLabels", request)


def test_signals_of_one_name(two: Two) -> None:
    """A session ranks by its own tenant's signal; nobody sees or deletes another's."""
    name = f"sig-{uuid4().hex}"
    two.acme("PutSignals", *upload(name, f"{name}/p"))
    missing = refusal_of(lambda: create(two.beta, "", f"{name}/c", strategy=by_signal(name)))
    assert missing.reason == "SIGNAL_NOT_FOUND"
    assert "it has none" in missing.message
    delete = pb.DeleteSignalsRequest(request_id=f"{name}/d", pool=POOL, name=name)
    assert reason(lambda: two.beta("DeleteSignals", delete)) == "SIGNAL_NOT_FOUND"
    two.beta("PutSignals", *upload(name, f"{name}/p"))
    assert two.beta("DeleteSignals", delete)
    assert not list(two.beta.one("ListSignals", pb.ListSignalsRequest(pool=POOL)).signals)
    assert (
        create(two.acme, "", f"{name}/c", strategy=by_signal(name)).config.strategy.name == "signal"
    )
    names = [
        one.name for one in two.acme.one("ListSignals", pb.ListSignalsRequest(pool=POOL)).signals
    ]
    assert name in names


def by_signal(name: str) -> pb.Strategy:
    strategy = pb.Strategy(name="signal")
    strategy.params.update({"name": name})
    return strategy


def test_jobs_of_one_name(two: Two) -> None:
    name = f"job-{uuid4().hex}"

    def score(caller: As, seed: int) -> tuple[str, bytes]:
        request = pb.ScoreCoresetRequest(
            request_id=name, pool=POOL, method="random", budget=5, seed=seed
        )
        parts = caller("ScoreCoreset", request)
        chunks = [part.chunk.item_ids.data for part in parts if part.HasField("chunk")]
        return parts[0].plan.job_id, b"".join(chunks)

    first, second = score(two.acme, 1), score(two.beta, 2)
    assert (first[0], second[0]) == (name, name)
    assert first[1] != second[1]
    assert score(two.acme, 1) == first
    refusal = refusal_of(lambda: score(two.beta, 1))
    assert refusal.reason == "REQUEST_ID_REUSED"
    assert two.tenants[1] not in refusal.message
    session = f"s-{uuid4()}"
    create(two.acme, session, f"{session}/c")
    foreign = pb.ScoreCoresetRequest(
        request_id=f"{name}/s", session_id=session, method="random", budget=5
    )
    assert reason(lambda: two.beta("ScoreCoreset", foreign)) == "SESSION_NOT_FOUND"


def test_errors_name_only_what_the_caller_sees(two: Two) -> None:
    for request in (pb.GetPoolRequest(name="sea"), pb.GetPoolRequest(name=POOL)):
        refusal = refusal_of(lambda r=request: two.things("GetPool", r))
        assert refusal.reason == "POOL_NOT_FOUND"
        assert refusal.message.endswith("served are things")
    assert POOL in refusal_of(lambda: two.acme("GetPool", pb.GetPoolRequest(name="sea"))).message


def test_a_hidden_pool_version_is_no_way_out(two: Two) -> None:
    """A session does not move where its caller cannot look."""
    name = f"s-{uuid4()}"
    version = two.acme("ListPools", pb.ListPoolsRequest())[0].pools[0].version
    create(two.acme, name, f"{name}/c", pool_version=version)
    request = pb.UpdateSessionRequest(request_id=f"{name}/u", session_id=name)
    request.update_mask.paths.append("pool_version")
    assert reason(lambda: two.things("UpdateSession", request)) == "SESSION_NOT_FOUND"
    own = f"s-{uuid4()}"
    create(two.things, own, f"{own}/c", pool="things")
    request.session_id, request.config.pool_version = own, version
    assert reason(lambda: two.things("UpdateSession", request)) == "POOL_NOT_FOUND"


def test_a_token_stands_in_one_place(two: Two) -> None:
    """One header, the scheme in any case, nothing else."""
    token = two.acme.token
    assert token is not None
    call = two.channel.unary_unary("/coresift.v1.SelectionService/ListPools")
    for value in (f"bearer {token}", f"BEARER {token}", f"Bearer  {token} "):
        assert call(b"", metadata=(("authorization", value),))
    for metadata in (
        (("authorization", token),),
        (("authorization", f"Basic {token}"),),
        (("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")),
        (("authorization", f"Bearer {token} {token}"),),
    ):
        assert reason(lambda m=metadata: call(b"", metadata=m)) == "TOKEN_INVALID"
    for metadata in ((("token", token),), (("authorization-bin", token.encode()),)):
        assert reason(lambda m=metadata: call(b"", metadata=m)) == "TOKEN_MISSING"


def test_what_lies_beside_the_service(two: Two) -> None:
    """Health needs no token; reflection needs one; what is not served tells nothing without."""
    health = health_pb2_grpc.HealthStub(two.channel)
    assert health.Check(health_pb2.HealthCheckRequest()).status == 1
    reflect = reflection_pb2_grpc.ServerReflectionStub(two.channel).ServerReflectionInfo
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    assert reason(lambda: list(reflect(iter([asked])))) == "TOKEN_MISSING"
    assert reason(lambda: list(reflect(iter([asked]), metadata=bearer("sea")))) == "TOKEN_INVALID"
    [answer] = reflect(iter([asked]), metadata=bearer(two.things.token))
    assert "coresift.v1.SelectionService" in str(answer)
    for path in ("/coresift.v1.SelectionService/Sea", "/sea/Sea"):
        unknown = two.channel.unary_unary(path)
        assert reason(lambda u=unknown: u(b"")) == "TOKEN_MISSING"
        with pytest.raises(grpc.RpcError) as caught:
            unknown(b"", metadata=bearer(two.acme.token))
        assert caught.value.code().name == "UNIMPLEMENTED"
    assert not any("Sea" in name for name in two.server.samples())


def test_reflection_is_off_unless_asked_for(
    pools: Pools, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = TokensFile(tmp_path_factory.mktemp("off") / "tokens.json")
    token = file.add("a")
    options = ["--pool", pools.growing.directory, "--state", redis_url]
    options += ["--artifacts", file.path.parent / "artifacts", "--tokens", file.path]
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with ServerProcess(*options) as server, grpc.insecure_channel(server.listen) as channel:
        reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        with pytest.raises(grpc.RpcError) as caught:
            list(reflect(iter([asked]), metadata=bearer(token)))
        assert caught.value.code().name == "UNIMPLEMENTED"


def test_the_log_says_who_called(two: Two) -> None:
    """Every call, refused ones too, with who made it and on which session."""
    name = f"s-{uuid4()}"
    create(two.acme, name, f"{name}/c")
    two.acme("GetSession", pb.GetSessionRequest(session_id=name))
    line = two.server.wait_for(
        lambda event: event.get("session_id") == name and event["method"] == "GetSession"
    )
    assert (line["principal"], line["tenant"], line["code"]) == ("acme", two.tenants[0], "OK")
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    with pytest.raises(grpc.RpcError):
        As(two.channel, None)("GetHead", b"")
    line = two.server.wait_for(
        lambda event: event.get("method") == "GetHead" and event["code"] == "UNAUTHENTICATED"
    )
    assert line["reason"] == "TOKEN_MISSING"
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert two.server.samples()[
        'grpc_server_handled_total{grpc_code="UNAUTHENTICATED",grpc_method="GetHead",'
        'grpc_service="coresift.v1.SelectionService",grpc_type="unary_unary"}'
    ]
