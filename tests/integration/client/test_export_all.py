"""`coresift export --all`: every session a file, in a directory or where fsspec reaches."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from botocore.exceptions import EndpointConnectionError
from fsspec.implementations.local import LocalFileSystem
from tests.fixtures.access import TokensFile
from tests.fixtures.servers import Pools, ServerProcess

from coresift.client import Client, Unavailable
from coresift.client.commands.session_files import (
    LocalFolder,
    RemoteFolder,
    export_sessions,
    newest_files,
    older_files,
)
from coresift.client.commands.session_restore import import_sessions

Run = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def served(pools: Pools, redis_url: str, folder: Path) -> Iterator[tuple[ServerProcess, list[str]]]:
    """A server, and tokens of tenants who are alone with their sessions."""
    file = TokensFile(folder / "tokens.json")
    tokens = [file.add(f"backup-{n}", f"tenant-{uuid4().hex[:8]}") for n in range(9)]
    options = ["--pool", pools.things.directory, "--artifacts", folder / "artifacts"]
    with ServerProcess(*options, "--state", redis_url, "--tokens", file.path) as server:
        yield server, tokens


@pytest.fixture(scope="module")
def shared(
    pools: Pools, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, list[str]]]:
    with served(pools, redis_url, tmp_path_factory.mktemp("exports")) as (server, tokens):
        yield server, tokens


@pytest.fixture
def own(shared: tuple[ServerProcess, list[str]]) -> tuple[ServerProcess, str]:
    """A server, and the token of a tenant that no other test has."""
    server, tokens = shared
    return server, tokens.pop()


@pytest.fixture
def tenant(own: tuple[ServerProcess, str]) -> Iterator[Client]:
    server, token = own
    with Client(server.listen, token=token) as client:
        yield client


@pytest.fixture
def other(shared: tuple[ServerProcess, list[str]]) -> str:
    """The token of a second tenant of it, who has no sessions: as a new cluster."""
    return shared[1].pop()


def test_the_command(own: tuple[ServerProcess, str], tenant: Client, tmp_path: Path) -> None:
    server, token = own

    def coresift(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coresift.client", *map(str, words)]
        command += ["--server", server.listen, "--token", token]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    for name in ("team/a:1", "b"):
        tenant.create_session("things", session_id=name)
    tenant.add_labels("b", {"item-1": "positive"}, "ann")
    out = tmp_path / "out" / "nightly"
    found = json.loads(coresift("export", "--all", "--out", out, "--json").stdout)
    assert found["exported"].keys() == {"team/a:1", "b"}
    files = {path.name: path for path in out.iterdir()}
    assert files.keys() == set(found["exported"].values())
    assert found["exported"]["team/a:1"].startswith("team%2Fa%3A1-")
    assert found["exported"]["b"].endswith("-r2-c1.coresift")
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert found["size"] == sum(path.stat().st_size for path in files.values())

    said = coresift("export", "--all", "--out", out)
    assert said.stdout.startswith(f"0 sessions exported to {out}")
    assert "2 unchanged" in said.stdout

    tenant.delete_session("b")
    [backup] = out.glob("b-*")
    assert coresift("import", backup, "--session-id", "b2").returncode == 0
    assert [record.item_id for record in tenant.list_labels("b2")] == ["item-1"]

    for words, message in (
        (("export", "--out", out), "either a session's id or --all"),
        (("export", "b", "--all", "--out", out), "either a session's id or --all"),
        (("export", "b", "--keep", "2", "--out", out), "need --all"),
        (("export", "--all", "--out", "nowhere://bucket"), "nowhere"),
    ):
        said = coresift(*words)
        assert (said.returncode, message in said.stderr) == (2, True), said.stderr
        assert "Traceback" not in said.stderr
    said = coresift("export", "--all", "--out", backup)
    assert (said.returncode, "cannot write to" in said.stderr) == (1, True)


@pytest.fixture
def remote() -> Iterator[str]:
    """A place that fsspec reaches, and that has no other way to it."""
    uri = f"memory://backups-{uuid4().hex}"
    yield uri
    fsspec.filesystem("memory").store.clear()


def test_a_place_of_fsspec(tenant: Client, remote: str) -> None:
    tenant.create_session("things", session_id="a")
    tenant.create_session("things", session_id="a-r1")
    folder = RemoteFolder(remote)
    assert len(export_sessions(tenant, folder).exported) == 2
    names = []
    for n in range(1, 4):
        tenant.add_labels("a", {f"item-{n}": "positive"}, "ann")
        done = export_sessions(tenant, folder, keep=2)
        assert (list(done.exported), done.unchanged, done.failed) == (["a"], ["a-r1"], {})
        names.append(done.exported["a"])
    assert older_files("a", folder.names()) == names[:0:-1]
    assert len(older_files("a-r1", folder.names())) == 1
    assert len(folder.names()) == 3
    assert export_sessions(tenant, folder, again=True).exported.keys() == {"a", "a-r1"}
    tenant.update_session("a", votes_per_item=3)
    assert export_sessions(tenant, folder).exported["a"].endswith("-c2.coresift")


def test_a_failure_leaves_nothing_half_and_the_others_are_exported(
    tenant: Client, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        tenant.create_session("things", session_id=name)
    folder = RemoteFolder(remote)
    real = folder.write

    def write(name: str, export: Callable[[Path], int]) -> int:
        if not name.startswith("b-"):
            return real(name, export)

        def fail(path: Path) -> int:
            export(path)
            raise OSError("the disk is full")

        return real(name, fail)

    monkeypatch.setattr(folder, "write", write)
    done = export_sessions(tenant, folder)
    assert done.exported.keys() == {"a", "c"}
    assert done.failed == {"b": "the disk is full"}
    assert len(folder.names()) == 2
    tenant.delete_session("c")
    monkeypatch.undo()
    assert export_sessions(tenant, folder).exported.keys() == {"b"}
    assert len(folder.names()) == 3  # also of the one that is gone


def test_the_newest_file_is_that_of_the_highest_number() -> None:
    names = [f"a-20260101T000000Z-r{n}-c1.coresift" for n in (9, 100, 99)]
    again = "a%2Fb-20260201T000000Z-r0-c1.coresift"  # deleted, and made anew
    others = [again, "a%2Fb-20260101T000000Z-r7-c1.coresift", "notes.txt", f"{names[0]}.partial"]
    assert newest_files([*names, *others]) == {"a": names[1], "a/b": again}


def test_a_folder_is_restored(
    own: tuple[ServerProcess, str], tenant: Client, other: str, tmp_path: Path
) -> None:
    """The newest file of each session; a second run, and one over a session that is there."""
    server, _ = own
    folder = LocalFolder(tmp_path / "out")
    for name, item in (("a", "item-9"), ("b", "item-1")):
        tenant.create_session("things", session_id=name)
        tenant.add_labels(name, {item: "positive"}, "ann")
    done = export_sessions(tenant, folder)
    old = tmp_path / "out" / done.exported["a"]
    for revision in (9, 99):
        old.with_name(old.name.replace("-r2-", f"-r{revision}-")).write_bytes(b"not whole")
    tenant.import_labels("a", {f"item-{n}": "positive" for n in range(50)}, "ann")
    newest = old.with_name(old.name.replace("-r2-", "-r100-"))
    tenant.export_session("a", newest)
    wanted = {n: {record.item_id for record in tenant.list_labels(n)} for n in "ab"}
    command = [sys.executable, "-m", "coresift.client", "import", str(tmp_path / "out")]
    command += ["--server", server.listen, "--token", other]

    def restore(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], capture_output=True, text=True, check=False, timeout=60
        )

    said = restore("--session-id", "c")
    assert (said.returncode, "is for one file" in said.stderr) == (2, True)
    said = restore("--json")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["imported"] == {"a": newest.name, "b": done.exported["b"]}
    with Client(server.listen, token=other) as restored:
        assert {n: {r.item_id for r in restored.list_labels(n)} for n in "ab"} == wanted
        restored.delete_session("b")
    said = restore()
    assert (said.returncode, "coresift undelete" in said.stderr) == (1, True)
    undelete = [*command[:3], "undelete", "b", *command[5:]]
    assert subprocess.run(undelete, capture_output=True, check=False, timeout=60).returncode == 0
    said = restore()
    assert (said.returncode, "2 were there already" in said.stdout) == (0, True), said.stderr
    newest.with_name(newest.name.replace("a-", "z-", 1)).write_bytes(b"not whole")
    said = restore()
    assert (said.returncode, "1 sessions are not imported" in said.stderr) == (1, True)
    (tmp_path / "empty").mkdir()
    command[4] = str(tmp_path / "empty")
    assert "has no file" in restore().stderr


def test_a_place_of_fsspec_is_restored(
    own: tuple[ServerProcess, str], tenant: Client, other: str, remote: str
) -> None:
    folder = RemoteFolder(remote)
    tenant.create_session("things", session_id="team/a")
    tenant.add_labels("team/a", {"item-1": "positive"}, "ann")
    [name] = export_sessions(tenant, folder).exported.values()
    with Client(own[0].listen, token=other) as restored:
        assert import_sessions(restored, folder).imported == {"team/a": name}
        assert [record.item_id for record in restored.list_labels("team/a")] == ["item-1"]
        assert import_sessions(restored, folder).there == ["team/a"]


class Uplink(LocalFileSystem):
    """A place whose driver raises errors of its own, as s3fs does: none is an OSError."""

    protocol = "uplink"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(LocalFileSystem._strip_protocol(path.removeprefix("uplink://")))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._break_off(path)
        super().makedirs(path, exist_ok=exist_ok)

    def put_file(self, lpath: str, rpath: str, **more: object) -> None:
        self._break_off(rpath)
        super().put_file(lpath, rpath, **more)

    def rm_file(self, path: str) -> None:
        self._break_off(path)
        super().rm_file(path)

    def _break_off(self, path: str) -> None:
        if path.rpartition("/")[2].startswith("b-"):
            raise EndpointConnectionError(endpoint_url=path)


def test_an_error_of_the_place_s_driver_is_one_of_a_session(tenant: Client, tmp_path: Path) -> None:
    fsspec.register_implementation("uplink", Uplink, clobber=True)
    for name in "abc":
        tenant.create_session("things", session_id=name)
    folder = RemoteFolder(f"uplink://{tmp_path / 'out'}")
    done = export_sessions(tenant, folder)
    assert done.exported.keys() == {"a", "c"}
    assert done.failed.keys() == {"b"}
    assert done.failed["b"].startswith("EndpointConnectionError: Could not connect")
    assert len(folder.names()) == 2
    (tmp_path / "out" / "b-one").touch()
    with pytest.raises(OSError, match="EndpointConnectionError"):
        folder.remove("b-one")
    with pytest.raises(OSError, match="EndpointConnectionError"):
        RemoteFolder(f"uplink://{tmp_path / 'b-out'}")


def test_a_rename_that_fails_removes_the_partial_file(
    tenant: Client, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.create_session("things", session_id="a")
    folder = RemoteFolder(remote)

    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(folder._files, "mv", refuse, raising=True)
    assert export_sessions(tenant, folder).failed == {"a": "no"}
    assert folder.names() == []


def test_when_no_server_answers_any_more_the_rest_is_not_tried(
    pools: Pools, redis_url: str, tmp_path: Path, remote: str
) -> None:
    folder = RemoteFolder(remote)
    with (
        served(pools, redis_url, tmp_path) as (server, [token, *_]),
        Client(server.listen, token=token, max_attempts=1) as client,
    ):
        for n in range(5):
            client.create_session("things", session_id=f"s{n}")
        real = folder.names

        def names() -> list[str]:  # between the list of sessions and the first export
            server.kill()
            return real()

        folder.names = names  # type: ignore[method-assign]
        done = export_sessions(client, folder)
        assert done.failed.keys() == {f"s{n}" for n in range(5)}
        tried = [not why.startswith("not tried") for why in done.failed.values()]
        assert tried == [True] * 3 + [False] * 2
        with pytest.raises(Unavailable):
            export_sessions(client, folder)
