"""Brings pool versions to an object store and back."""

from __future__ import annotations

from pathlib import Path
from threading import Event

from coresift.server.pool import layout
from coresift.server.pool.cache import Cache
from coresift.server.pool.checksums import check_all, read_checksums
from coresift.server.pool.download import RemoteVersion
from coresift.server.pool.failures import BuildError
from coresift.server.pool.manifest import Manifest, read_manifest
from coresift.server.pool.places import Place
from coresift.server.pool.progress import Counter, Progress
from coresift.server.pool.sources import Found, PoolSource


def push_pool(directory: Path, root: str, report: Progress) -> Place:
    """Copy a pool directory to ``<root>/<version>``, the manifest last; nothing if it is there.

    Raises:
        StartError: the directory is no pool, or damaged.
        BuildError: ``root`` is itself a version, has another build of this one, or has no bucket.
        Unreachable: the root does not answer.
    """
    manifest = read_manifest(directory)
    document = (directory / layout.MANIFEST).read_bytes()
    place = Place.at(root)
    if place.stamp(layout.MANIFEST) is not None:
        raise BuildError(f"{place} is a pool version: name the folder above it")
    target = place.below(manifest.version)
    if target.stamp(layout.MANIFEST) is not None:
        if target.manifest() != document:
            raise BuildError(f"{target} holds another build of this version: remove it first")
        return target
    size = sum(size for size, _ in manifest.files.values())
    check_all(
        directory,
        read_checksums(directory, manifest.files),
        Counter(report, "checksums", size).add,
    )
    counter = Counter(report, "upload", size)
    try:
        for name, (of_file, _) in manifest.files.items():
            target.write(name, directory / name)
            counter.add(of_file)
        target.write(layout.MANIFEST, directory / layout.MANIFEST)
    except FileNotFoundError:
        raise BuildError(f"{place} is not there: make the bucket first") from None
    return target


def pull_pool(uri: str, out: Path, version: str | None, report: Progress) -> tuple[Path, Manifest]:
    """Bring a version, by default the newest, to ``<out>/<pool>/<version>``, verified.

    What is there already is checked and kept, what was cut off goes on.

    Raises:
        BuildError: the place has no such version.
        Incomplete, Unreachable, StartError: as `Cache.hold`.
    """
    source = PoolSource(uri, cache := Cache(out), "cpu", stop := Event())
    versions = [source.read(found) for found in _found(source)]
    if version is not None:
        versions = [each for each in versions if each.manifest.version == version]
    if not versions:
        raise BuildError(f"{source.place} holds no pool" + f" version {version}" * bool(version))
    newest = max(versions, key=_age)
    size = sum(size for size, _ in newest.manifest.files.values())
    held = cache.hold(newest, stop, Counter(report, "download", size).add)
    held.release()
    return held.directory, newest.manifest


def _found(source: PoolSource) -> list[Found]:
    try:
        return source.look()
    except FileNotFoundError:
        return []


def _age(version: RemoteVersion) -> tuple[int, str]:
    return len(version.manifest.lineage), version.manifest.version
