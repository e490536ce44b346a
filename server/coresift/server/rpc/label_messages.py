"""Labels as they come: checked, and packed as the log keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coresift.server.errors import CoresiftError, Reason, invalid
from coresift.server.head import Task
from coresift.server.rpc import checks
from coresift.server.session.live.live import LiveSession
from coresift.server.session.setup.config import SessionConfig
from coresift.server.session.setup.config_checks import check_class
from coresift.server.session.setup.lease_tokens import is_lease_token
from coresift.server.session.view.labels import UNSURE, ClassSets, pack_class, pack_sets
from coresift.server.state.values import RETRACTION, LabelWrite
from coresift.v1 import selection_pb2 as pb


def checked_labels(
    live: LiveSession, annotator: str, labels: Sequence[pb.Label]
) -> list[LabelWrite]:
    """Checked labels. CONFLICTING_LABELS, UNKNOWN_CLASS, LEASE_TOKEN_FOREIGN."""
    config = live.config
    numbers = {name: i for i, name in enumerate(config.classes)}
    item_ids = [label.item_id for label in labels]
    rows = checks.rows(live.pool, "labels[{}].item_id", item_ids).tolist()
    first: dict[int, bytes] = {}
    writes = []
    for i, (label, item_id, row) in enumerate(zip(labels, item_ids, rows, strict=True)):
        value = _value(i, config, numbers, label)
        if first.setdefault(row, value) != value:
            raise CoresiftError(
                Reason.CONFLICTING_LABELS,
                f"labels[{i}]: item {item_id!r} stands twice with different labels",
                field=f"labels[{i}]",
                item_id=item_id,
            )
        token = label.lease_token
        if token and not is_lease_token(token, live.secret, row, annotator):
            raise CoresiftError(
                Reason.LEASE_TOKEN_FOREIGN,
                f"labels[{i}].lease_token was not made for this session, item and annotator",
                field=f"labels[{i}].lease_token",
            )
        writes.append(LabelWrite(row, item_id, value, bool(token)))
    return writes


def _value(i: int, config: SessionConfig, numbers: Mapping[str, int], label: pb.Label) -> bytes:
    """The packed value of ``labels[i]``."""
    kind = label.WhichOneof("value")
    if kind == "unsure":
        return UNSURE
    if kind == "retraction":
        return RETRACTION
    wanted = "classes" if config.task is Task.MULTILABEL else "class_name"
    if kind != wanted:
        if kind is None:
            given = "is required: class_name, classes, unsure or retraction"
            raise invalid(f"labels[{i}].value", given)
        raise invalid(f"labels[{i}].{kind}", f"does not fit the task; use {wanted}")
    if kind == "class_name":
        return pack_class(_number(i, "class_name", numbers, label.class_name))
    present, absent = (
        {_number(i, f"classes.{side}", numbers, name) for name in names}
        for side, names in (("present", label.classes.present), ("absent", label.classes.absent))
    )
    if not present and not absent:
        raise invalid(f"labels[{i}].classes", "must name at least one class present or absent")
    if present & absent:
        both = config.classes[min(present & absent)]
        raise invalid(f"labels[{i}].classes", f"calls {both!r} both present and absent")
    return pack_sets(ClassSets(tuple(sorted(present)), tuple(sorted(absent))))


def _number(i: int, part: str, numbers: Mapping[str, int], name: str) -> int:
    if name not in numbers:
        check_class(f"labels[{i}].{part}", name, list(numbers))
    return numbers[name]
