"""Strings in Arrow's layout: between Arrow, which takes and compares, and NumPy, which hashes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from coresift.server.arrays import Bytes, Hashes, Int64s

PADDING = 8
"""Zero bytes after the last string, so that its last word can be read whole."""

_CHUNK = 2**18


def from_layout(data: Bytes, offsets: Int64s) -> pa.LargeStringArray:
    """The strings data[offsets[i] : offsets[i + 1]], without a copy."""
    memory: list[Any] = [offsets, data]
    buffers = [None, *map(pa.py_buffer, memory)]
    array = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
    return cast("pa.LargeStringArray", array)


def to_layout(strings: pa.LargeStringArray) -> tuple[Bytes, Int64s]:
    """Bytes, padded, and int64 offsets from 0 of an array without nulls."""
    buffers: list[Any] = strings.buffers()
    if len(strings) == 0:
        return np.zeros(PADDING, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(buffers[1], np.int64)
    offsets = offsets[strings.offset : strings.offset + len(strings) + 1]
    data = np.frombuffer(buffers[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    return np.concatenate([data, np.zeros(PADDING, np.uint8)]), offsets - offsets[0]


def joined_strings(parts: list[pa.LargeStringArray]) -> pa.LargeStringArray:
    """Arrays one after the other."""
    return pa.concat_arrays(parts)


def to_numpy(array: Any) -> npt.NDArray[Any]:
    """A column of numbers or booleans without nulls."""
    return np.asarray(array.to_numpy(zero_copy_only=False))


def hash_strings(data: Bytes, offsets: Int64s) -> Hashes:
    """64-bit hashes of strings in (padded) Arrow layout, uint64 [n].

    Eight bytes at a time over all strings of a chunk. Not keyed: whoever finds equal hashes
    must compare the strings too.
    """
    hashes = np.empty(len(offsets) - 1, np.uint64)
    words = np.ndarray((len(data) - PADDING + 1,), "<u8", buffer=data, strides=(1,))
    for first in range(0, len(hashes), _CHUNK):
        starts = offsets[first : first + _CHUNK + 1]
        lengths = np.diff(starts)
        state = _mix(lengths.astype(np.uint64))
        for place in range(0, int(lengths.max(initial=0)), 8):
            live = np.flatnonzero(lengths > place)
            word = words[starts[live] + place]
            spare = np.maximum(8 - (lengths[live] - place), 0).astype(np.uint64) * np.uint64(8)
            word &= np.uint64(2**64 - 1) >> spare
            state[live] = _mix(state[live] ^ word)
        hashes[first : first + _CHUNK] = state
    return hashes


def hash_string(text: bytes) -> int:
    """The same of one string, without NumPy, which takes 50 us to begin."""
    state = _mix_one(len(text))
    for place in range(0, len(text), 8):
        state = _mix_one(state ^ int.from_bytes(text[place : place + 8], "little"))
    return state


_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ALL_BITS = 2**64 - 1


def _mix(x: Hashes) -> Hashes:
    x = (x + np.uint64(_STEP)) * np.uint64(_FIRST)
    x ^= x >> np.uint64(29)
    x *= np.uint64(_SECOND)
    x ^= x >> np.uint64(32)
    return x


def _mix_one(x: int) -> int:
    x = (x + _STEP) * _FIRST & _ALL_BITS
    x = (x ^ x >> 29) * _SECOND & _ALL_BITS
    return x ^ x >> 32
