"""Lease tokens hold for one session, row and annotator."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from coresift.server.session.setup.lease_tokens import (
    SALT_BYTES,
    TOKEN_BYTES,
    is_lease_token,
    lease_token,
)

secrets = st.binary(min_size=32, max_size=32)
salts = st.binary(min_size=SALT_BYTES, max_size=SALT_BYTES)
rows = st.integers(0, 2**31 - 1)
names = st.text(min_size=1, max_size=20)


@given(secret=secrets, salt=salts, row=rows, name=names)
def test_a_token_holds_where_it_was_made(secret: bytes, salt: bytes, row: int, name: str) -> None:
    token = lease_token(secret, salt, row, name)
    assert len(token) == TOKEN_BYTES
    assert is_lease_token(token, secret, row, name)


@given(
    secret=secrets,
    salt=salts,
    row=rows,
    name=names,
    other_secret=secrets,
    other_row=rows,
    other_name=names,
)
def test_a_token_holds_nowhere_else(
    secret: bytes,
    salt: bytes,
    row: int,
    name: str,
    other_secret: bytes,
    other_row: int,
    other_name: str,
) -> None:
    token = lease_token(secret, salt, row, name)
    assert is_lease_token(token, other_secret, row, name) == (other_secret == secret)
    assert is_lease_token(token, secret, other_row, name) == (other_row == row)
    assert is_lease_token(token, secret, row, other_name) == (other_name == name)


@given(secret=secrets, salt=salts, at=st.integers(0, TOKEN_BYTES - 1), bit=st.integers(0, 7))
def test_no_bit_of_a_token_may_differ(secret: bytes, salt: bytes, at: int, bit: int) -> None:
    token = bytearray(lease_token(secret, salt, 5, "ann"))
    token[at] ^= 1 << bit
    assert not is_lease_token(bytes(token), secret, 5, "ann")


@given(st.binary(max_size=40))
def test_other_bytes_are_no_token(token: bytes) -> None:
    assert not is_lease_token(token, b"k" * 32, 5, "ann")
    assert not is_lease_token(token + b"x", b"k" * 32, 5, "ann")


@given(secret=st.binary(max_size=100), salt=salts, row=rows, name=names)
def test_a_token_is_an_hmac(secret: bytes, salt: bytes, row: int, name: str) -> None:
    message = salt + row.to_bytes(4, "little") + name.encode()
    expected = salt + hmac.digest(secret, message, "sha256")[:16]
    assert lease_token(secret, salt, row, name) == expected
