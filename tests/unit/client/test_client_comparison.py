"""A comparison of strategies: its campaigns, its statistics, its page, and that it goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.benchmarks import strategies as benchmark

from coresift.client.calls.config import Mix, Strategy
from coresift.client.simulation import methods, page, paired, protocol, publish, studies
from coresift.client.simulation.campaign import Plan, Run
from coresift.client.simulation.comparison import Comparison, compared
from coresift.client.simulation.dataset import Dataset, load
from coresift.client.simulation.results import Results, ResultsError
from coresift.server.selection.registry import BATCH_POLICIES, STRATEGIES


@pytest.fixture(scope="module")
def data(clinc150: Path) -> Dataset:
    return load(clinc150)


def invented(plan: Plan) -> Run:
    """A run of a plan, with figures that depend on all that it says."""
    seed = [*plan.method.name.encode(), plan.concept.number, plan.seed, plan.draw, plan.budget]
    rng = np.random.default_rng(seed)
    start = 0 if plan.cold else studies.SEEDED
    n = sorted({*range(start, plan.budget, plan.batch), plan.budget} - {0})
    better = 0.0 if plan.method.name == studies.BASELINE else 0.3
    run = Run(plan, n)
    run.ap = (0.5 + better + 0.1 * rng.random(len(n))).tolist()
    run.recall = (np.linspace(0.04, 0.2 + better, len(n)) + 0.1 * rng.random(len(n))).tolist()
    run.considered = [1.0] * len(n)
    run.next_batch_s = rng.random(max(1, len(n) - 1)).tolist()
    run.add_labels_s = rng.random(len(n)).tolist()
    return run


def invent(data: Dataset, names: Sequence[str], concepts: int = 2, seeds: int = 2) -> Comparison:
    wanted = protocol.concepts(data)[:concepts]
    chosen = [methods.method(name) for name in names]
    study = studies.comparison(chosen, wanted, seeds, 1_000, 100)
    return compared(data, wanted, study, [invented(plan) for plan in study.plans], {})


def names_of(chosen: Sequence[methods.Method]) -> tuple[set[str], set[str]]:
    """Strategies, those within mixes among them, and batch policies."""
    parts = [
        own.strategy.shares if isinstance(own.strategy, Mix) else ((own.strategy, 1.0),)
        for own in chosen
    ]
    assert all(isinstance(part, Strategy) for shares in parts for part, _ in shares)
    return {part.name for shares in parts for part, _ in shares}, {own.batch.name for own in chosen}


def test_nothing_is_left_out_silently() -> None:
    strategies, batches = names_of(studies.everything())
    assert strategies | studies.LEFT_OUT.keys() == STRATEGIES.keys()
    assert not strategies & studies.LEFT_OUT.keys()
    assert batches == BATCH_POLICIES.keys()
    names = [own.name for own in studies.everything()]
    assert len(names) == len(set(names))
    for strategy in studies.STRATEGIES:
        assert {f"{strategy}@{policy}" for policy in studies.POLICIES} <= set(names)


def test_the_benchmark_measures_every_strategy_and_batch_policy() -> None:
    names = (*benchmark.BINARY, *benchmark.NEEDS_TABLE)
    strategies, batches = names_of([methods.method(name) for name in names])
    assert strategies == STRATEGIES.keys()
    assert batches == BATCH_POLICIES.keys()


def test_campaigns_of_a_comparison(data: Dataset) -> None:
    study = studies.comparison(
        [methods.method(name) for name in ("MaxEnt-All", "ens@seals:10", "typiclust@all")],
        protocol.concepts(data)[:3],
        2,
        600,
        100,
    )
    names = [own.name for own in study.methods]
    assert names == ["random@all", "max_entropy@all", "ens@seals:10", "typiclust@all"]
    assert len(study.main) == 3 * 2 * (5 + 3)
    assert {(plan.budget, plan.batch, plan.cold) for plan in study.main} == {(600, 100, False)}
    of_ens = {plan.budget for plan in study.search if plan.method.name == "ens@all"}
    assert of_ens == {200, 300, 400}
    assert {plan.batch for plan in study.search} == {10}
    assert {plan.cold for plan in study.cold} == {True}
    plain = studies.comparison(
        [methods.method("bald@all")], protocol.concepts(data)[:1], 1, 200, 100
    )
    assert not plain.search
    assert not plain.cold


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 14, 29, 30, 101])
def test_quantiles_of_students_t(freedom: int) -> None:
    for confidence in (0.8, 0.95, 0.99):
        expected = stats.t.ppf((1 + confidence) / 2, freedom)
        assert paired.t_quantile(freedom, confidence) == pytest.approx(expected, rel=1e-10)


def test_paired_differences_are_scipys(data: Dataset) -> None:
    found = invent(data, ["max_entropy@all"], concepts=4, seeds=3)
    own = found.against("max_entropy@all", "random@all", "ap", 500)

    def values(name: str, concept: int, seed: int) -> list[float]:
        return [
            run.ap[run.n.index(500)]
            for run in found.main[name]
            if (run.plan.concept.number, run.plan.seed) == (concept, seed)
        ]

    pairs = [(concept, seed) for concept in range(4) for seed in range(3)]
    ours = np.array([np.mean(values("max_entropy@all", *pair)) for pair in pairs])
    theirs = np.array([np.mean(values("random@all", *pair)) for pair in pairs])
    test = stats.ttest_rel(ours, theirs)
    interval = test.confidence_interval(0.95)
    assert own.pairs == 12
    assert len(values("random@all", 0, 0)) == 5
    assert own.mean == pytest.approx((ours - theirs).mean())
    assert (own.low, own.high) == pytest.approx((interval.low, interval.high))
    assert own.verdict == "better"
    mean, sd = found.spread("random@all", "ap", 500)
    by_seed = theirs.reshape(4, 3).mean(axis=0)
    assert (mean, sd) == pytest.approx((theirs.mean(), by_seed.std(ddof=1)))


def test_verdicts() -> None:
    assert paired.interval([0.1, 0.2, 0.15]).verdict == "better"
    assert paired.interval([-0.1, -0.2, -0.15]).verdict == "worse"
    assert paired.interval([-0.1, 0.2, 0.15]).verdict == "not told apart"
    assert paired.interval([0.5]).verdict == "not told apart"


def test_a_page_names_what_does_not_win(data: Dataset, tmp_path: Path) -> None:
    found = invent(data, ["bald@all", "bald@seals:10", "ens@all", "k_center@all"])
    for run in found.main["k_center@all"]:
        run.recall = [0.01 * share for share in run.recall]
    against = {
        "reference": "reference_curves.json",
        "worst": [
            {"method": "MaxEnt-All", "measure": "ap", "n": 200, "agrees": True},
            {"method": "MLP-All", "measure": "recall", "n": 300, "agrees": False},
        ],
    }
    publish.publish(found, tmp_path, "coresift simulate x --compare", against)
    text = (tmp_path / "RESULTS.md").read_text()
    [sentence] = [line for line in text.splitlines() if line.startswith("- `k_center@all`")]
    assert "does not beat random in recall at 200 (" in sentence
    assert "mAP" not in sentence
    assert "| `bald` | `seals:10` |" in text
    assert "not the same: `MLP-All` in recall at 300 is outside" in text
    assert "`coresift simulate x --compare`" in text
    for picture in ("map.png", "recall.png", "differences.png", "search.png"):
        assert f"({picture})" in text
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert set(curves["mean"]) == set(found.main)
    assert {tuple(run["n"]) for run in curves["runs"]} == {studies.MARKS}
    assert len(curves["mean"]["bald@all"]["ap"]) == 10
    assert len(curves["search"]) == 5
    assert set(curves["cold"]) == set(studies.COLD)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith(" |") for line in rows)


def test_a_page_of_a_single_pair_has_no_intervals(data: Dataset) -> None:
    found = invent(data, ["bald@all"], concepts=1, seeds=1)
    text = page.page(found, "again", None)
    assert "nan" not in text
    assert "[" not in text.split("## Against random@all")[1].split("![Paired")[0]


def test_a_simulation_goes_on(data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    [concept] = protocol.concepts(data)[:1]
    plans = studies.campaigns([methods.method("random@all")], [concept], 2, 300, 100)
    first = Results(path, data, resume=True)
    for plan in plans[:4]:
        first.add(invented(plan))
    first.add_full(concept.name, 0.75)
    with path.open("a") as file:
        file.write('{"key":"cut off')
    again = Results(path, data, resume=True)
    assert [again.run(plan) is not None for plan in plans] == [True] * 4 + [False] * 6
    kept, run = again.run(plans[2]), invented(plans[2])
    assert kept is not None
    assert kept.n == run.n
    assert kept.ap == pytest.approx(run.ap, abs=1e-6)
    assert again.full(concept.name) == 0.75
    again.add(invented(plans[4]))
    assert Results(path, data, resume=True).run(plans[4]) is not None
    other = Plan(concept, plans[0].method, 0, 0, 300, 100, cold=True)
    assert again.run(other) is None
    assert Results(path, data, resume=False).run(plans[0]) is None


def test_results_of_something_else_are_refused(data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"dataset":"another"}\n')
    with pytest.raises(ResultsError, match="name another --out"):
        Results(path, data, resume=True)
    path.write_text("no json\n")
    with pytest.raises(ResultsError, match="cannot be read"):
        Results(path, data, resume=True)
