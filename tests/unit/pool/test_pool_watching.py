"""Sources over time: versions that come in any order, half, damaged, and go again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.pool_versions import NAME, Bucket, Versions
from tests.unit.pool.test_pool_cache import flip, with_checksum

from coresift.server.errors import StartError
from coresift.server.pool import download, layout, places, watching
from coresift.server.pool.cache import Cache
from coresift.server.pool.download import RemoteVersion
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.places import Place, Unreachable
from coresift.server.pool.sources import Found, PoolSource
from coresift.server.pool.watching import Look, WatchedSource
from coresift.server.session.setup.pools import Pools

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(watching, "START_PAUSE_S", 0.0)


class Watch:
    """A watched source with a clock of its own, and what is served of it."""

    def __init__(self, uri: str | Path, cache: Path) -> None:
        self.now, self.pools, self.stop = 0.0, Pools(), Event()
        source = PoolSource(uri, Cache(cache), "cpu", self.stop)
        self.watched = WatchedSource(
            source, self.pools.holds, self.stop, 30.0, clock=lambda: self.now
        )

    def _take(self, look: Look) -> Look:
        for loaded in look.loaded:
            self.pools.add(loaded.pool)
        self.pools.offer_only(look.present)
        return look

    def first(self) -> Look:
        return self._take(self.watched.first())

    def look(self, after_s: float = 30.0) -> Look:
        self.now += after_s
        return self._take(self.watched.look())

    @property
    def served(self) -> set[str]:
        return {pool.manifest.version for pool in self.pools}

    @property
    def newest(self) -> str:
        return self.pools.find(NAME).manifest.version


@pytest.fixture
def watch(bucket: Bucket, tmp_path: Path) -> Iterator[Watch]:
    made = Watch(bucket.uri, tmp_path / "cache")
    yield made
    made.watched.close()


def test_newer_versions_are_noticed(bucket: Bucket, versions: Versions, watch: Watch) -> None:
    one, two, _ = versions.names
    bucket.put(versions.directories[0])
    watch.first()
    assert (watch.served, watch.newest) == ({one}, one)
    assert watch.look() == Look(present={(NAME, one)})
    bucket.put(versions.directories[1])
    assert [each.pool.manifest.version for each in watch.look().loaded] == [two]
    assert (watch.served, watch.newest) == ({one, two}, two)


def test_a_parent_that_is_missing_or_late(bucket: Bucket, versions: Versions, watch: Watch) -> None:
    bucket.put(versions.directories[2])
    watch.first()
    for earlier in (0, 1):
        bucket.put(versions.directories[earlier])
        watch.look()
        assert watch.newest == versions.names[2]
    assert watch.served == set(versions.names)


def test_what_is_removed_is_served_but_not_offered(
    bucket: Bucket, versions: Versions, watch: Watch
) -> None:
    one, two, _ = versions.names
    bucket.put(versions.directories[0])
    folder = bucket.put(versions.directories[1])
    watch.first()
    assert watch.newest == two
    bucket.files.rm(folder, recursive=True)
    watch.look()
    assert (watch.served, watch.newest) == ({one, two}, one)
    assert watch.pools.of_session(NAME, two).manifest.version == two
    bucket.put(versions.directories[1])
    assert not watch.look().loaded
    assert watch.newest == two
    bucket.files.rm(bucket.path, recursive=True)
    with pytest.raises(FileNotFoundError):  # a root that is gone says nothing of versions
        watch.look()
    assert watch.newest == two


def test_uploads_under_way_are_awaited(bucket: Bucket, versions: Versions, watch: Watch) -> None:
    bucket.put(versions.directories[0])
    watch.first()
    folder = bucket.put(versions.directories[1], without=(layout.CLUSTERS,))
    look = watch.look()
    assert not look.failed
    assert len(look.awaited) == 1
    assert not watch.look(watching.INCOMPLETE_S - 1).failed
    assert len(watch.look(2).failed) == 1  # said after a while
    whole = (versions.directories[1] / layout.CLUSTERS).read_bytes()
    bucket.write(f"{folder}/{layout.CLUSTERS}", whole)
    assert len(watch.look().loaded) == 1


def test_failures_are_tried_again_less_and_less_often(
    bucket: Bucket, versions: Versions, watch: Watch
) -> None:
    bucket.put(versions.directories[0])
    watch.first()
    folder = bucket.put(versions.directories[1])
    path = f"{folder}/{layout.CLUSTERS}"
    whole = bucket.files.cat_file(path)
    bucket.write(path, bytes(len(whole)))
    outcomes = [bool(watch.look().failed) for _ in range(80)]
    assert outcomes[:8] == [True, True, False, True, False, False, False, True]
    tries = [index for index, failed in enumerate(outcomes) if failed]
    assert max(b - a for a, b in pairwise(tries)) == 20  # 600 s
    assert watch.served == {versions.names[0]}
    bucket.write(path, whole)
    assert len(watch.look(600).loaded) == 1


def test_a_new_manifest_is_tried_at_once(bucket: Bucket, versions: Versions, watch: Watch) -> None:
    bucket.put(versions.directories[0])
    watch.first()
    folder = bucket.put(versions.directories[1])
    manifest = bucket.files.cat_file(f"{folder}/{layout.MANIFEST}")
    bucket.write(f"{folder}/{layout.MANIFEST}", manifest[:-20])
    for _ in range(6):
        watch.look()
    bucket.write(f"{folder}/{layout.MANIFEST}", manifest)
    assert len(watch.look(0.0).loaded) == 1


def test_a_folder_whose_version_is_replaced(
    bucket: Bucket, versions: Versions, tmp_path: Path
) -> None:
    """The URI of a version itself: what was served stays, as it was downloaded."""
    folder = bucket.put(versions.directories[0])
    watch = Watch(f"memory:/{folder}", tmp_path / "cache")
    watch.first()
    for file in versions.directories[1].iterdir():
        if file.name != layout.MANIFEST:
            bucket.write(f"{folder}/{file.name}", file.read_bytes())
    watch.look()
    data = (versions.directories[1] / layout.MANIFEST).read_bytes()
    bucket.write(f"{folder}/{layout.MANIFEST}", data)
    watch.look()
    assert watch.served == set(versions.names[:2])
    assert watch.newest == versions.names[1]
    watch.watched.close()


def test_two_folders_with_the_same_version(
    bucket: Bucket, versions: Versions, watch: Watch, tmp_path: Path
) -> None:
    bucket.put(versions.directories[0])
    watch.first()
    for n in (1, 2):
        copied(bucket, versions, n)
        bucket.put(versions.directories[n])
    look = watch.look()
    assert {each.pool.manifest.version for each in look.loaded} == set(versions.names[1:])
    assert watch.served == set(versions.names)
    again = Watch(bucket.uri, tmp_path / "again")
    assert len(again.first().loaded) == 3
    again.watched.close()


def test_what_one_folder_raises_costs_the_others_nothing(
    bucket: Bucket, versions: Versions, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: torch and the drivers have exceptions of their own."""
    bucket.put(versions.directories[0])
    watch.first()
    for n in (1, 2):
        bucket.put(versions.directories[n])
    broken = min(versions.names[1:])
    [well] = set(versions.names[1:]) - {broken}
    failing = raising_at(monkeypatch, {broken})
    look = watch.look()
    assert [each.pool.manifest.version for each in look.loaded] == [well]
    assert [(found.place.name, str(problem)) for found, problem in look.failed] == [
        (broken, "CUDA error")
    ]
    watch.look()
    assert not watch.look(1.0).failed  # postponed, like every failure
    failing.clear()
    watch.look(600)
    assert watch.served == set(versions.names)


def test_what_was_opened_and_not_published_comes_again(
    bucket: Bucket, versions: Versions, watch: Watch
) -> None:
    bucket.put(versions.directories[0])
    watch.first()
    bucket.put(versions.directories[1])
    assert watch.watched.look().loaded  # and whoever looked was interrupted
    assert [each.pool.manifest.version for each in watch.look().loaded] == [versions.names[1]]
    assert not watch.look().loaded


def copied(bucket: Bucket, versions: Versions, n: int) -> str:
    """Put a version into a folder of another name; returns its path."""
    folder = f"{bucket.path}/copy-{n}"
    files = versions.directories[n].iterdir()
    for file in sorted(files, key=lambda file: file.name == layout.MANIFEST):
        bucket.write(f"{folder}/{file.name}", file.read_bytes())
    return folder


def raising_at(patch: pytest.MonkeyPatch, names: set[str]) -> set[str]:
    """Have the folders of these names raise what nobody foresaw; returns ``names``, to change."""
    read = PoolSource.read

    def failing(self: PoolSource, found: Found) -> RemoteVersion:
        if found.place.name in names:
            raise RuntimeError("CUDA error")
        return read(self, found)

    patch.setattr(PoolSource, "read", failing)
    return names


def test_a_root_has_one_pool(
    bucket: Bucket, versions: Versions, watch: Watch, tmp_path: Path
) -> None:
    bucket.put(versions.directories[0])
    watch.first()
    fields = json.loads((versions.directories[1] / layout.MANIFEST).read_bytes())
    folder = bucket.put(versions.directories[1], without=(layout.MANIFEST,))
    bucket.write(f"{folder}/{layout.MANIFEST}", with_checksum({**fields, "name": "other"}))
    [(_, problem)] = watch.look().failed
    assert "a root of its own" in str(problem)
    assert watch.served == {versions.names[0]}
    again = Watch(bucket.uri, tmp_path / "again")
    with pytest.raises(StartError, match="a root of its own"):
        again.first()
    again.watched.close()


def test_a_start_needs_one_version(bucket: Bucket, versions: Versions, watch: Watch) -> None:
    with pytest.raises(StartError, match="does not exist or is no pool"):
        watch.first()
    bucket.write(f"{bucket.path}/readme", b"")
    with pytest.raises(StartError, match="does not exist or is no pool"):
        watch.first()
    bucket.put(versions.directories[1], without=(layout.CLUSTERS,))
    with pytest.raises(StartError, match=f"has no {layout.CLUSTERS} yet"):
        watch.first()
    bucket.put(versions.directories[0])
    assert len(watch.first().loaded) == 1
    assert watch.served == {versions.names[0]}


def test_a_start_asks_some_times(
    bucket: Bucket,
    versions: Versions,
    watch: Watch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for directory in versions.directories[:2]:
        bucket.put(directory)
    ask, failures = Place.manifest, [2]

    def failing(self: Place) -> bytes:
        if versions.names[1] in self.path and failures[0]:
            failures[0] -= 1
            raise Unreachable(f"{self} is down")
        return ask(self)

    monkeypatch.setattr(Place, "manifest", failing)
    assert len(watch.first().loaded) == 2
    assert watch.served == set(versions.names[:2])
    again = Watch(bucket.uri, tmp_path / "again")
    failures[0] = 1_000
    with pytest.raises(StartError, match="is down"):
        again.first()
    again.watched.close()


def test_a_place_that_is_away_is_said(
    bucket: Bucket, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError("no route")

    monkeypatch.setattr(type(bucket.files), "info", away)
    with pytest.raises(StartError, match="cannot be reached: no route"):
        watch.first()
    watch.stop.set()
    with pytest.raises(Cancelled):
        watch.first()


def test_a_local_root_is_served_in_place(versions: Versions, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(versions.directories[0], root / "v1")
    (root / "lost+found").mkdir()
    watch = Watch(root, tmp_path / "cache")
    watch.first()
    os.symlink(versions.directories[1], root / "v2")
    shutil.copytree(versions.directories[2], root / "v3")
    (root / "v3" / layout.CLUSTERS).unlink()
    look = watch.look()
    assert len(look.awaited) == 1
    assert watch.newest == versions.names[1]
    shutil.copy(versions.directories[2] / layout.CLUSTERS, root / "v3")
    watch.look()
    assert watch.newest == versions.names[2]
    assert not (tmp_path / "cache").exists()
    watch.watched.close()


def test_one_local_directory_never_changes(versions: Versions, tmp_path: Path) -> None:
    for uri in (versions.directories[0], f"file://{versions.directories[0]}"):
        watch = Watch(uri, tmp_path / "cache")
        assert len(watch.first().loaded) == 1
        assert watch.watched.source.is_fixed()
        watch.watched.close()


def test_damage_of_the_cache_is_mended_at_the_next_start(
    bucket: Bucket, versions: Versions, tmp_path: Path
) -> None:
    bucket.put(versions.directories[0])
    for _ in range(2):
        watch = Watch(bucket.uri, tmp_path / "cache")
        watch.first()
        assert watch.served == {versions.names[0]}
        watch.watched.close()
        flip(tmp_path / "cache" / NAME / versions.names[0] / layout.stored(0))


def test_a_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(places.fsspec.core, "url_to_fs", missing)
    with pytest.raises(StartError, match=r"s3://bucket/photos needs .* coresift\[s3\]"):
        Place.at("s3://user:secret@bucket/photos?token=x")
    with pytest.raises(StartError, match=r"coresift\[gcs\]"):
        Place.at("gs://bucket/photos")


def test_a_scheme_that_nothing_speaks() -> None:
    with pytest.raises(StartError, match="Protocol not known"):
        Place.at("sea://bucket/photos")


Step = st.tuples(
    st.sampled_from(
        ["whole", "twice", "raising", "half", "damaged", "no manifest", "gone", "look"]
    ),
    st.integers(0, 2),
)
"""What becomes of a version."""


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(Step, max_size=14))
def test_whatever_arrives_in_whatever_order(
    versions: Versions, tmp_path: Path, steps: list[tuple[str, int]]
) -> None:
    """Served are the versions that were whole at a look, once or twice, and never fewer than
    before; new sessions take the longest lineage of those that are there, or of all."""
    with pytest.MonkeyPatch.context() as patch:
        follow(versions, tmp_path, steps, raising_at(patch, set()))


def follow(
    versions: Versions, tmp_path: Path, steps: list[tuple[str, int]], raising: set[str]
) -> None:
    bucket = Bucket()
    bucket.write(f"{bucket.path}/readme", b"")  # without any file there is no folder
    watch = Watch(bucket.uri, tmp_path / os.urandom(8).hex())
    state = ["gone"] * 3
    served: set[int] = set()
    for step, n in [("whole", 0), ("look", 0), *steps, ("look", 0)]:
        if step == "look":
            look = watch.look(601) if served else watch.first()
            served |= {n for n in range(3) if state[n] in ("whole", "twice")}
            present = {n for n in served if state[n] not in ("gone", "no manifest", "raising")}
            assert watch.served == {versions.names[n] for n in served}
            assert watch.newest == versions.names[max(present or served)]
            assert {v for _, v in look.present} == {versions.names[n] for n in present}
            continue
        folder, directory = f"{bucket.path}/{versions.names[n]}", versions.directories[n]
        for old in (folder, f"{bucket.path}/copy-{n}"):
            if bucket.files.exists(old):
                bucket.files.rm(old, recursive=True)
        (raising.add if step == "raising" else raising.discard)(versions.names[n])
        if step == "twice":
            copied(bucket, versions, n)
        if step != "gone":
            without = {"half": (layout.CLUSTERS,), "no manifest": (layout.MANIFEST,)}.get(step, ())
            bucket.put(directory, without=without)
        if step == "damaged":
            bucket.write(f"{folder}/{layout.CLUSTERS}", bytes(4 * (60 + 10 * n)))
        state[n] = step
    watch.watched.close()
    bucket.files.rm(bucket.path, recursive=True)
