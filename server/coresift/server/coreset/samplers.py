"""How a core-set is taken by scores: every sampler by its name on the wire."""

from __future__ import annotations

from collections.abc import Mapping

from coresift.server.coreset.ccs import Ccs
from coresift.server.coreset.d2 import D2
from coresift.server.coreset.problem import Sampler
from coresift.server.coreset.top import Top

SAMPLERS: Mapping[str, type[Sampler]] = {
    "top": Top,
    "ccs": Ccs,
    "d2": D2,
}
