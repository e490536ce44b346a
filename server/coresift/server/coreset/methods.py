"""Every core-set method by its name on the wire, and methods from parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coresift.server.coreset.correctness import Aum, El2n, Forgetting, Grand
from coresift.server.coreset.facility_location import FacilityLocation
from coresift.server.coreset.herding import Herding
from coresift.server.coreset.k_center import KCenter
from coresift.server.coreset.k_means_medoids import KMeansMedoids
from coresift.server.coreset.moderate import Moderate
from coresift.server.coreset.problem import Rater, Sampler, Selector
from coresift.server.coreset.query import Query
from coresift.server.coreset.random import Random
from coresift.server.coreset.samplers import SAMPLERS
from coresift.server.coreset.semdedup import SemDeDup
from coresift.server.coreset.uncertainty import LeastConfidence, Margin, MaxEntropy
from coresift.server.errors import CoresiftError, Reason
from coresift.server.selection.parameters import Params, read

METHODS: Mapping[str, type[Selector] | type[Rater]] = {
    "random": Random,
    "k_center": KCenter,
    "facility_location": FacilityLocation,
    "query": Query,
    "herding": Herding,
    "k_means_medoids": KMeansMedoids,
    "semdedup": SemDeDup,
    "moderate": Moderate,
    "max_entropy": MaxEntropy,
    "margin": Margin,
    "least_confidence": LeastConfidence,
    "forgetting": Forgetting,
    "el2n": El2n,
    "grand": Grand,
    "aum": Aum,
}


def method_of(name: str, params: Params) -> Selector | Rater:
    """The frozen method of a name and parameters. UNKNOWN_METHOD, INVALID_FIELD."""
    if name in SAMPLERS:
        raise CoresiftError(
            Reason.UNKNOWN_METHOD,
            f"{name!r} is a sampler: name it as such, beside a method that scores items",
            field="method",
        )
    if name not in METHODS:
        raise _unknown("core-set method", name, METHODS, "method")
    return read(METHODS[name], dict(params), "params")


def sampler_of(name: str, params: Params) -> Sampler:
    """The frozen sampler of a name and parameters. UNKNOWN_METHOD, INVALID_FIELD."""
    if name not in SAMPLERS:
        raise _unknown("sampler", name, SAMPLERS, "sampler")
    return read(SAMPLERS[name], dict(params), "sampler_params")


def _unknown(what: str, name: str, valid: Iterable[str], field: str) -> CoresiftError:
    return CoresiftError(
        Reason.UNKNOWN_METHOD,
        f"no {what} {name!r}; valid are {', '.join(valid)}",
        field=field,
        valid=",".join(valid),
    )
