"""How old the labels are that a head lacks; and whose expiries a replica counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coresift.server.session.view.label_times import KEPT, LabelTimes
from coresift.server.state.own_writes import KEPT as KEPT_NONCES
from coresift.server.state.own_writes import OwnWrites


def test_age_of_the_oldest_label_that_a_head_lacks() -> None:
    times = LabelTimes()
    assert times.age_s(0, 5_000) == 0
    for offset, time_ms in ((2, 1_000), (3, 2_500), (7, 4_000)):
        times.add(offset, time_ms)
    assert times.age_s(1, 5_000) == 4.0
    assert times.age_s(2, 5_000) == 2.5
    assert times.age_s(6, 5_000) == 1.0
    assert times.age_s(7, 5_000) == 0


def test_entries_may_come_twice_and_clocks_may_differ() -> None:
    times = LabelTimes()
    for offset in (1, 2, 1, 2, 3):
        times.add(offset, 1_000 * offset)
    assert times.age_s(1, 2_500) == 0.5
    assert times.age_s(2, 2_500) == 0


@given(gaps=st.lists(st.integers(0, 5), min_size=1, max_size=3 * KEPT), share=st.floats(0, 1))
def test_many_labels_take_bounded_memory_and_look_no_younger_than_they_are(
    gaps: list[int], share: float
) -> None:
    times, at, truth = LabelTimes(), 0, []
    for offset, gap in enumerate(gaps, 1):
        at += gap
        times.add(offset, at)
        truth.append(at)
        assert len(times._offsets) <= KEPT
    revision = int(share * len(gaps))
    exact = (at - truth[revision]) / 1e3 if revision < len(truth) else 0.0
    age = times.age_s(revision, at)
    assert age >= exact
    assert (age == 0) if revision == len(truth) else (age <= at / 1e3)


def test_an_expiry_is_counted_once_by_the_replica_that_wrote_it() -> None:
    ours, theirs = OwnWrites(), OwnWrites()
    nonce = ours.nonce()
    assert not theirs.expired_here(nonce + b"x")
    assert not ours.expired_here(nonce)  # the entry itself is no expiry
    assert ours.expired_here(nonce + b"x")
    assert not ours.expired_here(nonce + b"x")


def test_nonces_are_remembered_in_bounded_memory() -> None:
    ours = OwnWrites()
    first = ours.nonce()
    newest = [ours.nonce() for _ in range(KEPT_NONCES)]
    assert len(ours._nonces) == KEPT_NONCES
    assert not ours.expired_here(first + b"x")
    assert ours.expired_here(newest[0] + b"x")
