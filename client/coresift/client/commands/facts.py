"""A session and its progress, as names and values for a person."""

from __future__ import annotations

from dataclasses import asdict

from coresift.client.calls.config import Candidates
from coresift.client.calls.config_messages import POLICIES
from coresift.client.calls.progress import Estimate, Progress, RandomSample, ValidationScore
from coresift.client.calls.session import Session
from coresift.client.commands.shared import plain


def session_facts(session: Session) -> dict[str, object]:
    """What a session is configured with; what is off is left out."""
    facts: dict[str, object] = {
        "session": session.session_id,
        "pool": f"{session.pool} @ {session.pool_version[:12]}",
        "task": f"{session.task}: {_listed(session.classes)}",
        "strategy": session.strategy,
        "candidates": _candidates(session.candidates),
        "filter": session.filter,
        "batch": session.batch,
        "groups": _groups(session),
        "head": f"C = {session.head.c:g}, class weight {session.head.class_weight}",
        "prior head": session.prior_head[:12],
        "seed": session.seed,
        "votes per item": session.votes_per_item,
        "label budget": "none" if session.label_budget is None else session.label_budget,
        "explore": f"{session.explore_fraction:.0%} of a batch" * (session.explore_fraction > 0),
        "validation": f"{session.validation_size} items" * (session.validation_size > 0),
        "target": _target(session),
        "lease": f"{session.lease_duration.total_seconds():g} s",
        "annotators": "kept under pseudonyms" * session.pseudonymous,
        "created": plain(session.create_time),
    }
    return {name: value for name, value in facts.items() if value != ""}


def progress_facts(progress: Progress) -> dict[str, object]:
    """How far a session is; what is not known is left out."""
    counts = sorted(progress.classes, key=lambda count: -count.positive)
    listed = _listed([f"{count.class_name} {count.positive}" for count in counts])
    facts: dict[str, object] = {
        "labelled": f"{progress.labelled_items} of {progress.eligible_items} items ({listed})",
        "votes": f"{progress.votes} ({progress.unsure_votes} unsure)",
        "rate": f"{progress.labels_per_hour:.0f} labels an hour" * (progress.labels_per_hour > 0),
        "live leases": progress.live_leases,
        "hidden": f"{progress.hidden_items} items cannot be labelled" * (progress.hidden_items > 0),
        "candidates": progress.candidates,
        "considered": f"{progress.considered_share:.1%} of the pool",
        "not fitted": _listed(progress.unfitted_classes),
        "validation": _validation(progress.validation) if progress.validation else "",
        "head agreement": " ".join(f"{kappa:.2f}" for kappa in progress.head_agreement),
    }
    if progress.random_sample is not None:
        facts |= _random_sample(progress.random_sample)
    reason = f": {progress.stop_reason}" if progress.stop_reason else ""
    facts |= {"revision": progress.basis.revision, "advice": f"{progress.stop_advice}{reason}"}
    return {name: value for name, value in facts.items() if value != ""}


def _candidates(candidates: Candidates) -> str:
    [name] = [name for name, kind in POLICIES.items() if type(candidates) is kind]
    numbers = list(asdict(candidates).items())
    first = f":{numbers[0][1]}" if numbers else ""
    more = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in numbers[1:])
    return name + first + (f" ({more})" if more else "")


def _groups(session: Session) -> str:
    groups = session.groups
    if groups is None:
        return ""
    rules = [f"at most {groups.max_per_batch} a batch"]
    rules += ["one lease"] * groups.one_lease + ["one label"] * groups.one_label
    return f"by {groups.column}: {', '.join(rules)}"


def _target(session: Session) -> str:
    stop = session.stop
    if stop is None or stop.target_recall is None:
        return ""
    of = f" of {stop.class_name}" if stop.class_name else ""
    return f"recall {stop.target_recall:.0%}{of} at confidence {stop.confidence:g}"


def _validation(score: ValidationScore) -> str:
    measures = {"accuracy": score.accuracy, "average precision": score.average_precision}
    found = [f"{name} {_interval(e)}" for name, e in measures.items() if e is not None]
    return ", ".join([*found, f"on {score.items} items"])


def _random_sample(sample: RandomSample) -> dict[str, object]:
    facts: dict[str, object] = {
        "random sample": f"{sample.positives} of {sample.items} are {sample.class_name}"
    }
    if sample.prevalence is not None:
        facts["prevalence"] = _interval(sample.prevalence)
    if sample.recall is not None:
        facts["recall"] = (
            f"{sample.recall:.1%}, at least {sample.recall_low:.1%} "
            f"(confidence {sample.confidence:g})"
        )
    if sample.lift is not None:
        facts["lift"] = f"{sample.lift:.1f} times as many as at random"
    if sample.labels_needed:
        facts["to certify"] = f"at least {sample.labels_needed} more random labels"
    return facts


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more
