"""Keys of one script must lie in one slot of a cluster."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from redis.cluster import key_slot

from coresift.server.state.keys import SessionKeys, SpaceKeys


@given(st.text(max_size=20), st.text(max_size=20), st.integers(1, 1000))
def test_a_sessions_keys_share_a_slot(request_id: str, annotator: str, k: int) -> None:
    keys = SessionKeys("0123456789abcdef")
    names = [*keys.of_script(request_id, annotator), keys.head, keys.neighbours(f"{k}@v1")]
    assert len({key_slot(name.encode()) for name in [*names, *keys.data([f"{k}@v1"])]}) == 1
    assert len(set(names)) == len(names)


def test_all_but_what_ends_by_itself_is_removed_with_a_session() -> None:
    keys = SessionKeys("0123456789abcdef")
    left = {*keys.of_script("request", "ann"), keys.head} - {*keys.data([])}
    assert {name.split(":")[2] for name in left} == {"hands", "answer"}


@given(st.text(min_size=1, max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_a_spaces_keys_share_a_slot(space: str, one: str, other: str) -> None:
    keys = SpaceKeys(space)
    names = (keys.index, keys.document(one), keys.document(other))
    assert len({key_slot(name.encode()) for name in names}) == 1
