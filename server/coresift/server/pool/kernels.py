"""Which kernels the BLAS libraries of this process have taken for the processor."""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

_VARIABLE = "OPENBLAS_CORETYPE"
_WIDE = frozenset({"SkylakeX", "Cooperlake", "SapphireRapids"})


@cache
def has_wide_kernels() -> bool:
    """Whether NumPy multiplies by AVX-512."""
    return numpys_kernels() in _WIDE


def import_faiss() -> ModuleType:
    """FAISS, on the kernels that NumPy has taken.

    The OpenBLAS that its wheels bring is some years older. Processors that it does not know it
    takes for very old ones: k-means then takes four times as long.
    """
    kernels = numpys_kernels()
    if kernels is None or _VARIABLE in os.environ:
        return _faiss()
    os.environ[_VARIABLE] = kernels  # read once, when the library is loaded
    try:
        return _faiss()
    finally:
        del os.environ[_VARIABLE]


def _faiss() -> ModuleType:
    import faiss

    module: ModuleType = faiss
    return module


@cache
def numpys_kernels() -> str | None:
    """OpenBLAS's name of them; None where NumPy stands on another library."""
    np.dot(np.ones(1), np.ones(1))
    for library in threadpool_info():
        found: dict[str, Any] = library
        if found["internal_api"] == "openblas" and "numpy" in found["filepath"]:
            return str(found["architecture"])
    return None
