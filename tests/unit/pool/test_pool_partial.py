"""A build that is killed while it makes the neighbour table goes on there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.pools import write_inputs

from coresift.server.pool import neighbours, partial
from coresift.server.pool.builder import AppendOptions, BuildOptions, append_pool, build_pool
from coresift.server.pool.directory_lock import DirectoryLock
from coresift.server.pool.failures import BuildError
from coresift.server.pool.input_files import InputFiles
from coresift.server.pool.partial import PartialTable, partial_table
from coresift.server.pool.pool import verify_pool

X = np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32)

BUILD = """
import os, signal, sys
from pathlib import Path
from coresift.server.pool import list_join, neighbours, partial
from coresift.server.pool.builder import BuildOptions, build_pool
from coresift.server.pool.input_files import InputFiles

folder, out, recall, chunks, moment = sys.argv[1:]
partial.CHECKPOINT_S = 0.0
neighbours.QUERY_ROWS = 16
list_join.ROWS = 16
add, checkpoint = partial.PartialTable.add, partial.PartialTable.checkpoint
computed = []


def die():
    if len(computed) == int(chunks):
        print(sum(computed), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def counted(self, rows, found):
    computed.append(len(rows))
    if moment == "before":
        die()
    add(self, rows, found)


def written(self):
    if moment == "between":
        self._table.flush()
        die()
    checkpoint(self)
    if moment == "after":
        die()


partial.PartialTable.add, partial.PartialTable.checkpoint = counted, written
files = InputFiles(Path(folder, "in.npy"), Path(folder, "in.txt"))
build_pool(
    BuildOptions(files, Path(folder, out), "x", neighbours=5, neighbours_recall=float(recall))
)
print(sum(computed))
"""


def run(folder: Path, out: str, recall: float, chunks: int = -1, moment: str = "-") -> int:
    """Rows whose neighbours were computed; killed after so many chunks, if any."""
    words = [str(folder), out, str(recall), str(chunks), moment]
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if chunks < 0 else -signal.SIGKILL), done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("recall", [1.0, 0.8])
def test_a_killed_build_goes_on(tmp_path: Path, recall: float) -> None:
    write_inputs(tmp_path, X)
    assert run(tmp_path, "whole", recall) == 400
    computed = [run(tmp_path, "p", recall, 4, "after")]
    assert not (tmp_path / "p").exists()
    done = computed[0]
    # The chunk of which no number was written is computed again, and no other.
    lost = run(tmp_path, "p", recall, 3, "before")
    again = run(tmp_path, "p", recall, 1, "between")
    rest = run(tmp_path, "p", recall)
    assert 0 < again <= 16
    assert done < done + lost - 16 <= 400 - rest <= done + lost
    assert not list(tmp_path.glob(".*.neighbours"))
    for file in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "p" / file.name).read_bytes() == file.read_bytes(), file.name
    verify_pool(tmp_path / "p")


def test_a_table_that_was_whole_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_inputs(tmp_path, X)

    def stop(phase: str, share: float) -> None:
        if phase == "checksums":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pool(BuildOptions(files, tmp_path / "p", neighbours=5), stop)
    assert [path.name for path in tmp_path.glob(".*")] == [".p.neighbours"]
    monkeypatch.setattr(neighbours, "exact_search", None)
    told: list[tuple[str, float]] = []
    build_pool(
        BuildOptions(files, tmp_path / "p", neighbours=5),
        lambda phase, share: told.append((phase, share)),
    )
    assert ("neighbours", 1.0) in told
    assert not list(tmp_path.glob(".*"))


def test_a_stopped_append_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_pool(BuildOptions(write_inputs(tmp_path, X), tmp_path / "p", neighbours=5))
    monkeypatch.setattr(neighbours, "QUERY_ROWS", 50)
    given = write_inputs(tmp_path, X[:60] + 1, [f"n{row}" for row in range(60)], "more")
    options = AppendOptions(tmp_path / "p", InputFiles(given.embeddings, given.ids), tmp_path / "q")

    def stop(phase: str, share: float) -> None:
        if phase == "neighbours" and share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append_pool(options, stop)
    shares: list[float] = []
    append_pool(
        options, lambda phase, share: shares.append(share) if phase == "neighbours" else None
    )
    assert shares[1] > 0.5
    whole = append_pool(
        AppendOptions(tmp_path / "p", InputFiles(given.embeddings, given.ids), tmp_path / "r")
    )
    assert whole.files == verify_pool(tmp_path / "q").files


@pytest.mark.parametrize("change", ["vectors", "k", "metric", "recall"])
def test_other_inputs_begin_anew(tmp_path: Path, change: str) -> None:
    files = write_inputs(tmp_path, X)

    def stop(phase: str, share: float) -> None:
        if phase == "checksums":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pool(BuildOptions(files, tmp_path / "p", neighbours=5), stop)
    if change == "vectors":
        files = write_inputs(tmp_path, -X[::-1])
    options = BuildOptions(
        files,
        tmp_path / "p",
        name="x",
        neighbours=6 if change == "k" else 5,
        metric="l2" if change == "metric" else "cosine",
        neighbours_recall=0.5 if change == "recall" else 1.0,
    )
    build_pool(options)
    fresh = BuildOptions(**{**vars(options), "out": tmp_path / "q"})
    assert build_pool(fresh).files == verify_pool(tmp_path / "p").files


STATE = '{"key": "key", "chunks": %d}'


def test_what_is_half_written_is_not_believed(tmp_path: Path) -> None:
    rows, found = np.arange(2, dtype=np.int32), np.ones((2, 3), np.int32)
    with partial_table(tmp_path / "t", "key", (4, 3), 4) as table:
        table.add(rows, found)
    for key, spoil in (
        ("other", lambda: None),
        ("key", lambda: (tmp_path / "t" / "state.json").write_text("{")),
        ("key", lambda: (tmp_path / "t" / "state.json").write_text('{"key": "key"}')),
        ("key", lambda: (tmp_path / "t" / "state.json").write_text(STATE % -1)),
        ("key", lambda: (tmp_path / "t" / "state.json").write_text(STATE % 5)),
        ("key", lambda: (tmp_path / "t" / "table").write_bytes(b"short")),
        ("key", (tmp_path / "t" / "table").unlink),
    ):
        with partial_table(tmp_path / "t", "key", (4, 3), 4) as table:
            table.add(rows, found)
            assert table.done
        spoil()
        with partial_table(tmp_path / "t", key, (4, 3), 4) as table:
            assert table.done == 0
    assert json.loads((tmp_path / "t" / "state.json").read_text()) == {"key": "key", "chunks": 0}


def test_a_number_is_not_believed_of_another_table(tmp_path: Path) -> None:
    """One table, then the beginning of another of the same size, then the first again."""
    with partial_table(tmp_path / "t", "key", (4, 3), 4) as table:
        table.add(np.arange(2, dtype=np.int32), np.ones((2, 3), np.int32))
    PartialTable(tmp_path / "t", "other", (4, 3), 4)  # and killed
    assert PartialTable(tmp_path / "t", "key", (4, 3), 4).done == 0


def test_a_pools_own_table_is_not_written_to(tmp_path: Path) -> None:
    """The finished table and the partial one are one file, until the build has ended."""
    with partial_table(tmp_path / "t", "key", (4, 3), 4) as table:
        table.add(np.arange(4, dtype=np.int32), np.ones((4, 3), np.int32))
    (tmp_path / "linked").hardlink_to(tmp_path / "t" / "table")
    before = (tmp_path / "linked").read_bytes()
    other = PartialTable(tmp_path / "t", "other", (4, 3), 4)
    other.add(np.arange(4, dtype=np.int32), np.full((4, 3), 7, np.int32))
    other.checkpoint()
    assert (tmp_path / "linked").read_bytes() == before


def test_one_build_at_a_time(tmp_path: Path) -> None:
    (tmp_path / ".p.neighbours").mkdir()
    lock = DirectoryLock(tmp_path / ".p.neighbours")
    assert lock.try_alone()
    options = BuildOptions(write_inputs(tmp_path, X), tmp_path / "p", neighbours=5)
    with pytest.raises(BuildError, match="another process builds the same pool"):
        build_pool(options)
    lock.release()
    build_pool(options)


def test_numbers_are_written_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "CHECKPOINT_S", 1e9)
    table = PartialTable(tmp_path, "key", (4, 3), 4)
    table.add(np.arange(2, dtype=np.int32), np.ones((2, 3), np.int32))
    assert PartialTable(tmp_path, "key", (4, 3), 4).done == 0
    table = PartialTable(tmp_path, "key", (4, 3), 4)
    monkeypatch.setattr(partial, "CHECKPOINT_S", 0.0)
    table.add(np.arange(2, dtype=np.int32), np.ones((2, 3), np.int32))
    assert PartialTable(tmp_path, "key", (4, 3), 4).done == 1
