"""The cache of pool versions: what is in it is whole, whatever was cut off, damaged or changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.pool_versions import BLOCK, NAME, Bucket, Versions

from coresift.server.errors import StartError
from coresift.server.pool import cache as of_cache
from coresift.server.pool import download, layout
from coresift.server.pool.cache import Cache
from coresift.server.pool.directory_lock import DirectoryLock
from coresift.server.pool.download import Incomplete, RemoteVersion
from coresift.server.pool.failures import Cancelled
from coresift.server.pool.manifest import parse_manifest
from coresift.server.pool.places import Place, Unreachable
from coresift.server.pool.pool import verify_pool

pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often blocks of each file were read from a place."""
    counted: Counter[str] = Counter()
    read = Place.read

    def counting(self: Place, name: str, start: int, end: int) -> bytes:
        counted[name] += 1
        return read(self, name, start, end)

    monkeypatch.setattr(Place, "read", counting)
    return counted


def remote(bucket: Bucket, directory: Path, **options: Any) -> RemoteVersion:
    folder = bucket.put(directory, **options)
    return RemoteVersion.at(bucket.place.below(folder.rpartition("/")[2]))


def hold(cache: Cache, version: RemoteVersion) -> Path:
    """Hold a version for a moment."""
    held = cache.hold(version, Event())
    held.release()
    return held.directory


def same(directory: Path, original: Path) -> bool:
    verify_pool(directory)
    return all(
        (directory / file.name).read_bytes() == file.read_bytes() for file in original.iterdir()
    )


def test_a_version_is_downloaded_once(
    bucket: Bucket, versions: Versions, cache: Cache, tmp_path: Path, reads: Counter[str]
) -> None:
    version = remote(bucket, versions.directories[0])
    directory = hold(cache, version)
    assert directory == tmp_path / "cache" / NAME / versions.names[0]
    assert same(directory, versions.directories[0])
    assert reads[layout.stored(0)] == -(-60 * 4 * 4 // BLOCK)  # in ranges, each block once
    before = reads.copy()
    assert hold(cache, version) == directory
    assert reads == before


def test_files_of_another_version_are_shared(
    bucket: Bucket, versions: Versions, cache: Cache, reads: Counter[str]
) -> None:
    one = hold(cache, remote(bucket, versions.directories[0]))
    first = reads[layout.stored(0)]
    two = hold(cache, remote(bucket, versions.directories[1]))
    assert same(two, versions.directories[1])
    assert reads[layout.stored(0)] == first
    assert (one / layout.stored(0)).samefile(two / layout.stored(0))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the vectors": lambda d: flip(d / layout.stored(0)),
    "vectors cut off": lambda d: os.truncate(d / layout.stored(0), 100),
    "vectors with more behind": lambda d: lengthen(d / layout.stored(0)),
    "a file gone": lambda d: (d / layout.ID_HASHES).unlink(),
    "the list of checksums": lambda d: flip(d / layout.CHECKSUMS),
    "the manifest": lambda d: flip(d / layout.MANIFEST),
    "no manifest": lambda d: (d / layout.MANIFEST).unlink(),
    "an empty directory": lambda d: [file.unlink() for file in d.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_mended(
    bucket: Bucket, versions: Versions, cache: Cache, damage: str
) -> None:
    version = remote(bucket, versions.directories[0])
    DAMAGES[damage](hold(cache, version))
    assert same(hold(cache, version), versions.directories[0])


def test_only_what_is_damaged_is_read_again(
    bucket: Bucket, versions: Versions, cache: Cache, reads: Counter[str]
) -> None:
    version = remote(bucket, versions.directories[0])
    flip(hold(cache, version) / layout.DISTANCES)
    reads.clear()
    hold(cache, version)
    assert set(reads) == {layout.DISTANCES, layout.CHECKSUMS}


def test_surplus_files_do_no_harm(bucket: Bucket, versions: Versions, cache: Cache) -> None:
    folder = bucket.put(versions.directories[0])
    bucket.write(f"{folder}/README.txt", b"hello")
    version = RemoteVersion.at(bucket.place.below(versions.names[0]))
    directory = hold(cache, version)
    assert not (directory / "README.txt").exists()
    (directory / "notes").write_text("mine")
    assert hold(cache, version) == directory
    assert (directory / "notes").exists()


def test_files_that_are_not_there_yet(bucket: Bucket, versions: Versions, cache: Cache) -> None:
    version = remote(bucket, versions.directories[0], without=(layout.ID_ORDER,))
    with pytest.raises(Incomplete, match=layout.ID_ORDER):
        hold(cache, version)
    whole = (versions.directories[0] / layout.ID_ORDER).read_bytes()
    bucket.write(f"{version.place.path}/{layout.ID_ORDER}", whole[:-1])
    with pytest.raises(Incomplete, match=f"{len(whole) - 1} bytes of {len(whole)}"):
        hold(cache, version)
    bucket.write(f"{version.place.path}/{layout.ID_ORDER}", whole)
    assert same(hold(cache, version), versions.directories[0])


def test_what_is_not_what_the_manifest_says_is_refused(
    bucket: Bucket, versions: Versions, cache: Cache, tmp_path: Path
) -> None:
    version = remote(bucket, versions.directories[0])
    path = f"{version.place.path}/{layout.stored(0)}"
    data = bytearray(bucket.files.cat_file(path))
    data[-1] ^= 1
    bucket.write(path, bytes(data))
    with pytest.raises(StartError, match="is not what its manifest says"):
        hold(cache, version)
    assert not (tmp_path / "cache" / NAME / versions.names[0]).exists()
    bucket.put(versions.directories[0])
    assert same(hold(cache, version), versions.directories[0])


def test_another_build_of_the_same_version_takes_its_place(
    bucket: Bucket, versions: Versions, cache: Cache
) -> None:
    """Derived files and the name do not count for the version: they may differ."""
    version = remote(bucket, versions.directories[0])
    in_use = cache.hold(version, Event())
    before = (in_use.directory / layout.MANIFEST).read_bytes()
    document = with_checksum({**json.loads(before), "probes": 1})
    bucket.write(f"{version.place.path}/{layout.MANIFEST}", document)
    directory = hold(cache, RemoteVersion.at(version.place))
    assert (directory / layout.MANIFEST).read_bytes() == document
    in_use.release()


@pytest.mark.parametrize(
    "name",
    ["../outside", "..", ".", "", "/etc/passwd", "a/b", "a\\b", ".lock", "manifest.json", "a\0b"],
)
def test_no_file_leaves_its_directory(versions: Versions, name: str) -> None:
    fields = json.loads((versions.directories[0] / layout.MANIFEST).read_bytes())
    fields["files"][name] = [4, "0" * 64]
    with pytest.raises(StartError, match="not a valid manifest"):
        parse_manifest(with_checksum(fields), "m")


@pytest.mark.parametrize(
    "change",
    [{"version": "../" * 10 + "ab"}, {"version": "a" * 31}, {"name": "a\nb"}, {"name": ""},
     {"name": 7}, {"version": None}],
)  # fmt: skip
def test_no_name_that_could_be_a_path(versions: Versions, change: dict[str, Any]) -> None:
    fields = json.loads((versions.directories[0] / layout.MANIFEST).read_bytes()) | change
    fields["lineage"] = [fields["version"]]
    with pytest.raises(StartError, match="not a valid manifest"):
        parse_manifest(with_checksum(fields), "m")


@pytest.mark.parametrize("name", ["../up", "..", ".", "a/b", "é" * 64, " ", ".hidden"])
def test_any_pool_name_stays_below_the_cache(
    bucket: Bucket, versions: Versions, tmp_path: Path, name: str
) -> None:
    version = remote(bucket, versions.directories[0])
    fields = {**json.loads(version.document), "name": name}
    bucket.write(f"{version.place.path}/{layout.MANIFEST}", with_checksum(fields))
    root = tmp_path / "deep" / "cache"
    directory = hold(Cache(root), RemoteVersion.at(version.place))
    assert directory.resolve().parent.parent == root.resolve()
    assert [path.name for path in root.parent.iterdir()] == ["cache"]


def with_checksum(fields: dict[str, Any]) -> bytes:
    fields = {key: value for key, value in fields.items() if key != "checksum"}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    return json.dumps({**fields, "checksum": digest}).encode()


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(stops=st.lists(st.integers(0, 60), max_size=4), breaks=st.booleans())
def test_a_download_that_is_cut_off_goes_on(
    bucket: Bucket,
    versions: Versions,
    tmp_path: Path,
    stops: list[int],
    breaks: bool,
) -> None:
    """However often and wherever: nothing half is ever taken for whole, and no block that came
    well is read twice."""
    root = tmp_path / os.urandom(8).hex()
    version = remote(bucket, versions.directories[2])
    asked: Counter[tuple[str, int]] = Counter()
    left = [0]
    stop = [Event()]
    read = Place.read

    def failing(self: Place, name: str, start: int, end: int) -> bytes:
        if left[0] <= 0:
            if not breaks:
                stop[0].set()
            raise Unreachable("cut off")
        left[0] -= 1
        asked[name, start] += 1
        return read(self, name, start, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "read", failing)
        patch.setattr(download, "AT_ONCE", 1)
        for blocks in stops:
            left[0], stop[0] = blocks, Event()
            try:
                Cache(root).hold(version, stop[0]).release()
            except (Unreachable, Cancelled):
                assert not (root / NAME / version.manifest.version).exists()
        left[0], stop[0] = 1_000, Event()
        directory = Cache(root).hold(version, stop[0])
        directory.release()
    assert same(directory.directory, versions.directories[2])
    assert max(asked.values()) == 1


def test_two_at_once_download_once(
    bucket: Bucket, versions: Versions, tmp_path: Path, reads: Counter[str]
) -> None:
    version = remote(bucket, versions.directories[0])
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(hold(Cache(tmp_path / "c"), version)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert same(found[0], versions.directories[0])
    assert reads[layout.stored(0)] == -(-60 * 4 * 4 // BLOCK)


def test_a_waiter_can_leave(bucket: Bucket, versions: Versions, tmp_path: Path) -> None:
    partial = tmp_path / NAME / f".{versions.names[0]}.partial"
    partial.mkdir(parents=True)
    other = DirectoryLock(partial)
    assert other.acquire(alone=True, stop=Event())
    stop = Event()
    stop.set()
    with pytest.raises(Cancelled):
        Cache(tmp_path).hold(remote(bucket, versions.directories[0]), stop)
    other.release()


def test_what_is_used_stays_and_one_spare(
    bucket: Bucket, versions: Versions, cache: Cache, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / NAME
    one, two, three = (remote(bucket, directory) for directory in versions.directories)
    held = cache.hold(one, Event())
    for version in (two, three):
        hold(cache, version)
    lock = folder / versions.names[1] / ".lock"
    os.utime(lock, (1, 1))  # used long ago
    (folder / ".gone-long-ago").mkdir()
    (folder / f".{'0' * 32}.partial").mkdir()
    assert versions.names[1] in cache.evict(NAME, set())
    assert {path.name for path in folder.iterdir()} == {versions.names[0], versions.names[2]}
    held.release()
    assert cache.evict(NAME, {versions.names[2]}) == []  # the other one is the spare
    assert cache.evict("unknown", set()) == []
    assert same(hold(cache, two), versions.directories[1])


def test_no_room_is_said_before_anything_is_read(
    bucket: Bucket,
    versions: Versions,
    cache: Cache,
    reads: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = remote(bucket, versions.directories[0])
    reads.clear()
    usage = shutil.disk_usage("/")._replace(free=download.SPARE_BYTES + 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StartError, match="bytes more in"):
        hold(cache, version)
    assert not reads


def test_no_read_goes_on_after_its_file_is_closed(
    bucket: Bucket,
    versions: Versions,
    cache: Cache,
    reads: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number of a closed descriptor may be another file's by then."""
    version = remote(bucket, versions.directories[0])
    read, write = Place.read, os.pwrite
    under_way, may_go_on, failed = Event(), Event(), Event()
    late: list[int] = []

    def failing(self: Place, name: str, start: int, end: int) -> bytes:
        if name == layout.stored(0) and start == 0:
            assert under_way.wait(10)
            failed.set()
            raise FileNotFoundError
        if name == layout.stored(0) and start == BLOCK:
            under_way.set()
            assert may_go_on.wait(10)
        return read(self, name, start, end)

    def writing(file: int, data: bytes, start: int) -> int:
        try:
            os.fstat(file)
        except OSError:
            late.append(start)
        return write(file, data, start)

    monkeypatch.setattr(Place, "read", failing)
    monkeypatch.setattr(os, "pwrite", writing)
    caught: list[BaseException] = []

    def load() -> None:
        try:
            hold(cache, version)
        except Incomplete as problem:
            caught.append(problem)

    loading = threading.Thread(target=load)
    loading.start()
    assert failed.wait(10)
    loading.join(0.2)  # long enough for a download that does not wait to close its file
    may_go_on.set()
    loading.join()
    assert len(caught) == 1
    assert late == []


def test_what_never_stays_whole_is_given_up(
    bucket: Bucket,
    versions: Versions,
    cache: Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = remote(bucket, versions.directories[0])
    stop, looks = Event(), []

    def never(*_: Any) -> bool:
        looks.append(1)
        if len(looks) == 20:
            stop.set()  # ends what would go on for ever
        return False

    monkeypatch.setattr(of_cache, "_is_whole", never)
    with pytest.raises(StartError, match="does not stay as it was downloaded"):
        cache.hold(version, stop)
    assert len(looks) == of_cache.ROUNDS
    assert not list((tmp_path / "cache" / NAME).glob("*.aside-*"))
    stop.set()
    with pytest.raises(Cancelled):
        cache.hold(version, stop)


def on_disk(root: Path) -> int:
    files = {path.stat().st_ino: path for path in root.rglob("*") if path.is_file()}
    return sum(path.stat().st_blocks * 512 for path in files.values())


def test_a_cache_of_a_given_size_keeps_to_it(
    bucket: Bucket, versions: Versions, tmp_path: Path, reads: Counter[str]
) -> None:
    """What is held stays, and what would not fit beside it is refused; what is unused goes."""
    root = tmp_path / "cache"
    one, two, three = (remote(bucket, directory) for directory in versions.directories)
    held = Cache(root).hold(one, Event())
    alone = on_disk(root)
    bounded = Cache(root, alone + 4_096)
    reads.clear()
    with pytest.raises(StartError, match=r"do not fit into .*--pool-cache-bytes"):
        hold(bounded, two)
    assert not reads
    assert hold(bounded, one) == held.directory
    held.release()
    roomy = Cache(root, 2 * alone)
    kept = roomy.hold(three, Event())
    assert not held.directory.exists() or on_disk(root) <= 2 * alone
    assert same(kept.directory, versions.directories[2])
    kept.release()
    tight = Cache(root, int(1.3 * alone))
    assert same(hold(tight, two), versions.directories[1])
    assert not kept.directory.exists()  # nobody used it
    assert on_disk(root) <= int(1.3 * alone)
