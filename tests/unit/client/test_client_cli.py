"""The command line without a server: parsing, errors, exit codes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coresift.client import (
    All,
    Anchors,
    Classes,
    Label,
    Mix,
    RandomSubset,
    Seals,
    Strategy,
    Task,
    TrainingDynamics,
)
from coresift.client.calls.coreset_messages import coreset_of, plan_of
from coresift.client.calls.progress import progress_of
from coresift.client.calls.session import session_of
from coresift.client.commands.coreset_text import (
    parse_class_budgets,
    plan_line,
    read_item_ids,
    read_targets,
    result_facts,
)
from coresift.client.commands.facts import progress_facts, session_facts
from coresift.client.commands.parse import (
    parse_candidates,
    parse_label,
    parse_params,
    parse_strategy,
    read_labels,
)
from coresift.client.commands.shared import Failure, plain
from coresift.client.commands.signal_files import read_columns
from coresift.v1 import selection_pb2 as pb


def coresift(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coresift.client", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_version_and_help() -> None:
    assert coresift("--version").stdout.startswith("coresift 0.")
    done = coresift("--help")
    families = "session next label consensus search coreset signals simulate"
    for family in families.split():
        assert family in done.stdout


def test_no_server_is_said_without_a_traceback() -> None:
    done = coresift("session", "list", "--server", "127.0.0.1:1")
    assert done.returncode == 4
    assert "no server answers at 127.0.0.1:1" in done.stderr
    assert "coresift serve" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("session", "create", "p", "--candidates", "ten"), "--candidates must be all"),
        (("session", "create", "p", "--param", "samples"), "--param must be NAME=VALUE"),
        (("session", "create", "p", "--mix", "bald"), "--mix must be NAME=SHARE"),
        (("session", "create", "p", "--one-label"), "need --group-column"),
        (("label", "s", "-a", "ann"), "at least one ITEM=CLASS"),
        (("session", "create", "p", "--task", "ranking"), "Task must be one of binary"),
        (("search", "p"), "either an item id or --vector"),
        (("coreset", "random", "5", "--out", "x.parquet"), "either --pool or --session"),
        (("coreset", "random", "5", "--out", "x.csv", "--pool", "p"), "a .parquet file"),
        (("coreset", "random", "5", "--out", "no/x.parquet", "--pool", "p"), "no folder no"),
        (
            ("coreset", "aum", "5", "--out", "x.parquet", "--pool", "p", "-p", "signal"),
            "--param must be NAME=VALUE",
        ),
        (
            ("coreset", "aum", "5", "--out", "x.parquet", "--pool", "p", "--sampler-param", "a=1"),
            "--sampler-param needs --sampler",
        ),
        (
            ("coreset", "aum", "5", "--out", "x.parquet", "--pool", "p", "--class-budgets", "even"),
            "--class-budgets must be balanced",
        ),
        (("signals", "put", "p", "loss", "nowhere.parquet"), "does not exist"),
        (("signals", "put", "p", "loss", __file__, "--kind", "text"), "--kind must be number"),
        (("signals", "put", "p", "loss", __file__), "as Parquet"),
        (("simulate", "nowhere"), "does not exist"),
        (("simulate", "nowhere", "--methods", "BALD-All"), "unknown method 'BALD-All'"),
    ],
)
def test_wrong_input(words: tuple[str, ...], message: str) -> None:
    done = coresift(*words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_parse_candidates() -> None:
    assert parse_candidates("all") == All()
    assert parse_candidates("seals") == Seals(100)
    assert parse_candidates("seals:7") == Seals(7)
    assert parse_candidates("random_subset:9") == RandomSubset(9)
    assert parse_candidates("anchors") == Anchors()
    for text in ("seals:x", "seals:", "all:3", "all:", "some", ""):
        with pytest.raises(Failure):
            parse_candidates(text)


def test_parse_strategy() -> None:
    assert parse_strategy("bald", ["samples=64"], []) == Strategy("bald", samples=64)
    mix = parse_strategy("", [], ["max_entropy=0.7", "signal:name=loss,descending=true=0.3"])
    signal = Strategy("signal", name="loss", descending=True)
    assert mix == Mix([("max_entropy", 0.7), (signal, 0.3)])
    for text in ("bald", "=1", "bald=much", "bald:x=1"):
        with pytest.raises(Failure, match="--mix must be"):
            parse_strategy("", [], [text])
    with pytest.raises(Failure, match="belongs to --strategy"):
        parse_strategy("", ["a=1"], ["bald=1"])


def test_parse_params() -> None:
    given = ["a=1", "b=0.5", "c=true", "d=word", 'e="1"', "f=null", "g=x=y", "h=[1]"]
    assert parse_params("--param", given) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "word",
        "e": "1",
        "f": "null",
        "g": "x=y",
        "h": "[1]",
    }


def test_read_labels(tmp_path: Path) -> None:
    lines = tmp_path / "labels.txt"
    lines.write_text("a=cat\n\nb=dog\n")
    assert list(read_labels(lines, Task.BINARY)) == [Label("a", "cat"), Label("b", "dog")]
    table = tmp_path / "labels.csv"
    table.write_bytes(b'\xef\xbb\xbfwho,item_id,label\nx,"a,1",cat\ny,b,"cat,-dog"\n')
    assert list(read_labels(table, Task.MULTILABEL)) == [
        Label("a,1", Classes(["cat"], [])),
        Label("b", Classes(["cat"], ["dog"])),
    ]
    for text, message in (
        ("item,label\na,cat\n", "the columns item_id and label"),
        ("item_id,label\na,cat\nb,\n", "line 3"),
        ("item_id,label\na\n", "line 2"),
    ):
        table.write_text(text)
        with pytest.raises(Failure, match=message):
            list(read_labels(table, Task.BINARY))
    table.write_bytes(b"item_id,label\n\xff,cat\n")
    with pytest.raises(Failure, match="cannot read"):
        list(read_labels(table, Task.BINARY))


def test_facts_leave_out_what_is_off() -> None:
    config = pb.SessionConfig(pool="p", pool_version="0123456789abcdef", task=pb.TASK_BINARY)
    facts = session_facts(session_of(pb.Session(session_id="s", config=config)))
    assert facts["candidates"] == "seals:100"
    assert not facts.keys() & {"filter", "groups", "explore", "validation", "target", "prior head"}
    facts = progress_facts(progress_of(pb.GetSessionProgressResponse()))
    assert not facts.keys() & {"validation", "random sample", "recall", "hidden", "rate"}


def test_facts_of_a_whole_session() -> None:
    config = pb.SessionConfig(
        pool="p",
        task=pb.TASK_MULTICLASS,
        classes=[f"c{n}" for n in range(22)],
        strategy=pb.Strategy(name="mix", shares=[share("bald", 1), share("random", 3)]),
        candidates=pb.CandidatePolicy(anchors=pb.CandidatePolicy.Anchors(size=5), filter="x == 1"),
        groups=pb.GroupRule(column="video", one_label=True),
        explore_fraction=0.1,
        validation_size=50,
        stop=pb.StopRule(target_recall=0.9, class_name="c1"),
    )
    facts = {k: str(v) for k, v in session_facts(session_of(pb.Session(config=config))).items()}
    assert facts["strategy"] == "1 bald + 3 random"
    assert facts["candidates"] == "anchors:5 (per class 10, neighbours 50)"
    assert facts["task"].endswith("c19 and 2 more")
    assert facts["groups"] == "by video: at most 1 a batch, one label"
    assert (facts["explore"], facts["validation"]) == ("10% of a batch", "50 items")
    assert facts["target"] == "recall 90% of c1 at confidence 0.95"
    assert facts["filter"] == "x == 1"


def test_facts_of_a_whole_progress() -> None:
    message = pb.GetSessionProgressResponse(
        labels_per_hour=61.2,
        validation=pb.ValidationScore(items=40, accuracy=0.9, accuracy_low=0.8, accuracy_high=1),
        head_agreement=[0.5, 0.975],
        random_sample=pb.RandomSample(
            class_name="c1",
            items=100,
            positives=3,
            confidence=0.95,
            prevalence=0.03,
            prevalence_low=0.01,
            prevalence_high=0.1,
            recall=0.7,
            recall_low=0.4,
            lift=4.25,
            labels_needed=90,
        ),
        stop_advice=pb.STOP_ADVICE_CONTINUE,
        stop_reason="nothing speaks for stopping",
    )
    facts = progress_facts(progress_of(message))
    assert facts["rate"] == "61 labels an hour"
    assert facts["validation"] == "accuracy 0.900 (0.800 to 1.000), on 40 items"
    assert facts["head agreement"] == "0.50 0.97"
    assert facts["random sample"] == "3 of 100 are c1"
    assert facts["prevalence"] == "0.030 (0.010 to 0.100)"
    assert facts["recall"] == "70.0%, at least 40.0% (confidence 0.95)"
    assert facts["lift"] == "4.2 times as many as at random"
    assert facts["to certify"] == "at least 90 more random labels"
    assert facts["advice"] == "continue: nothing speaks for stopping"


def share(name: str, weight: float) -> pb.StrategyShare:
    return pb.StrategyShare(strategy=pb.Strategy(name=name), share=weight)


def test_parse_label() -> None:
    assert parse_label("a=b=cat", Task.BINARY) == Label("a=b", "cat")
    expected = Label("a", Classes(["cat", "dog"], ["cow"]))
    assert parse_label("a=cat,-cow,dog", Task.MULTILABEL) == expected
    for line in ("a", "=cat", "a="):
        with pytest.raises(Failure, match="ITEM=CLASS"):
            parse_label(line, Task.BINARY)


def test_parse_class_budgets() -> None:
    assert parse_class_budgets("balanced") == "balanced"
    assert parse_class_budgets("proportional") == "proportional"
    assert parse_class_budgets("3=100, 4=50") == {3: 100, 4: 50}
    for text in ("", "even", "3", "3=", "=3", "a=3", "3=-1", "3=1,"):
        with pytest.raises(Failure, match="--class-budgets must be"):
            parse_class_budgets(text)
    with pytest.raises(Failure, match="class 3 twice"):
        parse_class_budgets("3=1,3=2")


def test_read_items_and_targets(tmp_path: Path) -> None:
    lines = tmp_path / "ids.txt"
    lines.write_text("a b\n\n é \n", encoding="utf-8")
    assert read_item_ids(lines) == ["a b", " é "]
    targets = read_targets(lines)
    assert targets is not None
    assert (targets.item_ids, targets.vectors) == (["a b", " é "], None)
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float16))
    targets = read_targets(tmp_path / "x.npy")
    assert targets is not None
    assert np.array_equal(targets.vectors, np.eye(2))  # type: ignore[arg-type]
    assert read_targets(None) is None
    (tmp_path / "bad.npy").write_bytes(b"\xff")
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "archive.npy").write_bytes(b"PK\x03\x04")
    for name in ("bad.npy", "bad.txt", "empty.npy", "archive.npy"):
        with pytest.raises(Failure, match="cannot read"):
            read_targets(tmp_path / name)


def test_read_columns(tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    columns = {"item_id": ["b", "é"], "loss": [0.5, math.inf], "class": [1, 0], "text": ["x", "y"]}
    pq.write_table(pa.table(columns | {"gap": [1, None]}), file)
    found = read_columns(file, "item_id", ["class", "loss"])
    assert (list(found.item_ids), found.names) == (["b", "é"], ("class", "loss"))
    assert found.values.tolist() == [[1, 0.5], [0, math.inf]]
    assert list(read_columns(file, "text", ["loss"]).item_ids) == ["x", "y"]
    for id_column, names, message in (
        ("id", [], "has no column 'id'; its columns are item_id, loss"),
        ("item_id", ["los"], "has no column 'los'"),
        ("item_id", [], "column 'text' .* holds string, not numbers"),
        ("item_id", ["gap"], "column 'gap' .* lacks 1 of 2 values"),
        ("class", ["loss"], "column 'class' .* holds int64, not item ids as text"),
    ):
        with pytest.raises(Failure, match=message):
            read_columns(file, id_column, names)
    pq.write_table(pa.table({"item_id": ["a"]}), file)
    with pytest.raises(Failure, match="no column besides 'item_id'"):
        read_columns(file, "item_id", [])
    file.write_text("item_id,loss\n")
    with pytest.raises(Failure, match=r"cannot read .* as Parquet"):
        read_columns(file, "item_id", [])


def test_read_columns_of_a_recording(tmp_path: Path) -> None:
    dynamics = TrainingDynamics(["a", "b"])
    dynamics.record([0, 1], [[0, 1], [1, 0]], [1, 1])
    dynamics.save(tmp_path / "run.parquet")
    found = read_columns(tmp_path / "run.parquet", "item_id", [])
    assert list(found.item_ids) == ["a", "b"]
    assert found.names == tuple(dynamics.columns())
    assert found.values.T.tolist() == [list(scores) for scores in dynamics.columns().values()]
    dynamics = TrainingDynamics(["a", "b"])
    dynamics.record([0], [[0, 1]], [1])
    dynamics.save(tmp_path / "run.parquet")
    with pytest.raises(Failure, match="is NaN for 1 of 2 items: items that were never recorded"):
        read_columns(tmp_path / "run.parquet", "item_id", [])


def test_files_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Failure, match=r"pip install 'coresift\[simulate\]'"):
        read_columns(tmp_path / "items.parquet", "item_id", [])


def test_the_line_of_a_plan() -> None:
    plan = pb.CoresetPlan(method="aum", pool_items=90, budget=30, notes=["one", "two"])
    plan.expected_time.FromMilliseconds(1234)
    plan.expected_bytes = 2_500_000
    assert plan_line(plan_of(plan)) == (
        "30 of 90 items by aum: about 1.2 s and 2.5 MB at the server; one; two"
    )
    plan = pb.CoresetPlan(method="semdedup", pool_items=90, expected_bytes=999)
    assert plan_line(plan_of(plan)) == (
        "as many as the method decides of 90 items by semdedup: about 0 s and 999 B at the server"
    )


def test_facts_of_a_coreset() -> None:
    plan = pb.CoresetPlan(method="aum", sampler="ccs", pool_items=90, notes=["one", "two"])
    plan.params.update({"signal": "run"})
    summary = pb.CoresetSummary(
        count=30,
        covering_radius=0.5,
        mean_max_similarity=0.75,
        measured_items=60,
        objective=1234.5,
        class_counts={number: 20 - number for number in range(14)},
        details={"kept_share": 0.25},
    )
    summary.durations["select"].FromMilliseconds(250)
    facts = {k: str(v) for k, v in result_facts(coreset_of(plan_of(plan), [], summary)).items()}
    assert facts == {
        "core-set": "30 of 90 items",
        "method": "aum(signal='run')",
        "sampler": "ccs",
        "notes": "one; two",
        "covering radius": "0.5000",
        "mean max similarity": "0.7500 (over a sample of 60 items)",
        "objective": "1234.5",
        "items by class": "0: 20, 1: 19, 2: 18, 3: 17, 4: 16, 5: 15, 6: 14, 7: 13, 8: 12, 9: 11, "
        "10: 10, 11: 9 and 2 more with 7 to 8",
        "kept share": "0.25",
        "time": "select 0.25 s",
    }
    little = pb.CoresetSummary(count=30, class_counts={1: 30})
    plan = pb.CoresetPlan(method="random", pool_items=90)
    facts = {k: str(v) for k, v in result_facts(coreset_of(plan_of(plan), [], little)).items()}
    assert facts == {
        "core-set": "30 of 90 items",
        "method": "random",
        "items by class": "1: 30",
        "time": "",
    }


def test_plain_is_json() -> None:
    value = {
        "time": datetime(2026, 1, 2, tzinfo=UTC),
        "duration": timedelta(seconds=1.5),
        "token": b"\x00",
        "scores": np.array([1.0, np.nan]),
        "label": Label("a", "b"),
    }
    assert json.loads(json.dumps(plain(value))) == {
        "time": "2026-01-02T00:00:00+00:00",
        "duration": 1.5,
        "token": "AA==",
        "scores": [1.0, None],
        "label": {"item_id": "a", "value": "b", "lease_token": ""},
    }
