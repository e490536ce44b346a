"""Core-set requests that make no sense: refused before there is a job, naming the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from coresift.server.coreset.problem import Method, Needs
from coresift.server.errors import invalid
from coresift.server.session.coresets.coreset_requests import Asked


def check_meaning(asked: Asked, method: Method) -> None:
    """Refuse what is missing, and what would silently play no part. INVALID_FIELD."""
    needs = method.needs()
    if not asked.session_id:
        _check_pool_suffices(asked, method, needs)
    _check_classes(asked, needs)
    starts = bool(asked.start_item_ids) or asked.start_from_labels
    if starts and not needs.start:
        field = "start_item_ids" if asked.start_item_ids else "start_from_labels"
        raise invalid(field, f"has no meaning for {asked.method}")
    if asked.query and not needs.query:
        raise invalid("query", f"has no meaning for {asked.method}")
    if asked.avoid and not needs.query:
        raise invalid("avoid", f"has no meaning for {asked.method}")
    if needs.query and not asked.query:
        raise invalid("query", f"is required: {asked.method} selects what is like it")
    if needs.budget and asked.budget is None:
        raise invalid("budget", "is required")
    if not needs.budget and asked.budget is not None:
        raise invalid("budget", f"contradicts the parameters of {asked.method}: they decide it")
    _check_class_budgets(asked)


def check_counts(asked: Asked, sizes: Mapping[int, int] | None) -> None:
    """Refuse class budgets that classes of these sizes cannot give; of predicted classes, whose
    sizes only the run knows, the run does. INVALID_FIELD."""
    if asked.class_budgets is not None and asked.budget is not None and sizes is not None:
        asked.class_budgets.divide(sizes, asked.budget)


def _check_pool_suffices(asked: Asked, method: Method, needs: Needs) -> None:
    if asked.predicted_classes:
        raise invalid(
            "session_id",
            "is required: a session's head predicts predicted_classes; give a session instead of "
            "a pool, or a class_signal",
        )
    if needs.head:
        ways = "give a session instead of a pool"
        if others := _other_sources(method):
            ways += f", or source {' or '.join(others)}"
        raise invalid("session_id", f"is required: {asked.method} reads a session's head; {ways}")
    if asked.start_from_labels:
        raise invalid(
            "session_id",
            "is required: start_from_labels reads a session's labels; give a session instead of "
            "a pool, or start_item_ids",
        )


def _other_sources(method: Method) -> list[str]:
    """Where the method's scores may come from, but a head."""
    own = {one.name: one for one in fields(method)}  # type: ignore[arg-type]
    choices = own["source"].metadata["choices"] if "source" in own else ()
    return [choice for choice in choices if choice != "head"]


def _check_classes(asked: Asked, needs: Needs) -> None:
    given = bool(asked.class_signal or asked.predicted_classes)
    wanted = needs.classes or needs.true_classes or asked.class_budgets is not None
    if wanted and not given:
        what = asked.method if needs.classes or needs.true_classes else "class_budgets"
        instead = "" if needs.true_classes else "; predicted_classes of a session will do too"
        raise invalid(
            "class_signal", f"is required: {what} needs the classes of the pool's items{instead}"
        )
    if needs.true_classes and asked.predicted_classes:
        raise invalid("predicted_classes", f"mean nothing to {asked.method}: give a class_signal")


def _check_class_budgets(asked: Asked) -> None:
    given = asked.class_budgets
    if given is None:
        return
    if asked.budget is None:
        raise invalid("class_budgets", "need a budget to divide")
    given.check_total(asked.budget)
