"""Entries as they stand on disk: every later release must read these bytes."""

from __future__ import annotations

import msgpack
import pytest

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.entries import (
    ConfigEntry,
    Entry,
    ExpiryEntry,
    GrantEntry,
    LabelsEntry,
    ReleaseEntry,
    unpack_entry,
)

RECORDED: list[tuple[str, Entry]] = [
    (
        "86a171d92b6372656174652d30616233636432612d363263302d343639362d386465642d343835366161613532"
        "393561a163a6636f6e666967a16dcf000001a2044e1a85a174a143a16ea876019e4946e40e01a17601",
        ConfigEntry(
            1,
            1795368557189,
            "create-0ab3cd2a-62c0-4696-8ded-4856aaa5295a",
            1,
            b"config",
            bytes.fromhex("76019e4946e40e01"),
        ),
    ),
    (
        "8ca171a9726571756573742d30a17001a16301a1729205cd012ca165cf000001a204574252a174a147a17600"
        "a178a7636f6e74657874a17acd03e8a16dcf000001a2044e1a92a161a4c3a46e6ea16ea819bb1a1dc5937ec2",
        GrantEntry(
            2,
            1795368557202,
            "request-0",
            "änn",
            (5, 300),
            1000,
            1795369157202,
            1,
            0,
            1,
            b"context",
            False,
            bytes.fromhex("19bb1a1dc5937ec2"),
        ),
    ),
    (
        "89a161a4c3a46e6ea172a29105a175a101a174a14ca176a391a101a169a891a66974656d2035a16dcf000001a2"
        "044e1a9da171a76c6162656c2d31a16ea859ba713ffceebfeb",
        LabelsEntry(
            3,
            1795368557213,
            "label-1",
            bytes.fromhex("59ba713ffceebfeb"),
            "änn",
            (5,),
            ("item 5",),
            (b"\x01",),
            (1,),
        ),
    ),
    (
        "87a171a972656c656173652d31a161a4c3a46e6ea17291cd012ca16dcf000001a2044e1aa4a174a152a17702a1"
        "6ea8acd3e88eb514598e",
        ReleaseEntry(
            4,
            1795368557220,
            "release-1",
            "änn",
            (300,),
            2,
            bytes.fromhex("acd3e88eb514598e"),
        ),
    ),
    (
        "8da171a7636c61696d2d32a17004a16301a1729105a165cf000001a2044e1aada174a147a17603a178a7636f6e"
        "74657874a16bc3a17acd03e8a16dcf000001a2044e1aaca161a3626f62a16ea8f307343f2f6c8861",
        GrantEntry(
            5,
            1795368557228,
            "claim-2",
            "bob",
            (5,),
            1000,
            1795368557229,
            4,
            3,
            1,
            b"context",
            True,
            bytes.fromhex("f307343f2f6c8861"),
        ),
    ),
    (
        "84a16dcf000001a2044e1abda174a158a16c91a5353a626f62a16ea9fab74c1e362d4b0778",
        ExpiryEntry(6, 1795368557245, ((5, "bob"),), bytes.fromhex("fab74c1e362d4b0778")),
    ),
]


@pytest.mark.parametrize(("recorded", "entry"), RECORDED)
def test_recorded_entries_are_read(recorded: str, entry: Entry) -> None:
    assert unpack_entry(entry.offset, bytes.fromhex(recorded)) == entry


@pytest.mark.parametrize(("recorded", "entry"), RECORDED)
def test_fields_of_a_newer_release_are_passed_over(recorded: str, entry: Entry) -> None:
    fields = msgpack.unpackb(bytes.fromhex(recorded), raw=True)
    fields |= {b"zz": 1, b"y": [{b"a": b"\xff"}]}
    blob = msgpack.packb(fields, use_bin_type=False)
    assert unpack_entry(entry.offset, blob) == entry


def test_kinds_of_a_newer_release_are_refused() -> None:
    blob = msgpack.packb({"t": "Z", "m": 5, "n": b"nonce"})
    with pytest.raises(CoresiftError) as caught:
        unpack_entry(7, blob)
    assert caught.value.reason is Reason.FORMAT_TOO_NEW
    assert "entry 7" in caught.value.message
