"""What is compared: methods, their samplers, budgets by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coresift.client import CoresetMethod, Sampler

SHARES = (0.01, 0.05, 0.1, 0.3, 0.5)
BASELINE = "random"


@dataclass(frozen=True)
class Case:
    """A way to select.

    Attributes:
        classes: it is given the classes of the items.
        class_budgets: how the budget is divided; None: it is not.
    """

    method: CoresetMethod
    sampler: Sampler | None = None
    classes: bool = False
    class_budgets: str | None = None


def _proxy(name: str, sampler: Sampler | None = None, class_budgets: str | None = None) -> Case:
    return Case(CoresetMethod(name, source="proxy"), sampler, True, class_budgets)


CCS = Sampler("ccs")
D2 = Sampler("d2")
EASIEST = Sampler("top", first="easiest")

CASES: Mapping[str, Case] = {
    BASELINE: Case(CoresetMethod("random")),
    "random, balanced": Case(CoresetMethod("random"), None, True, "balanced"),
    "k_center": Case(CoresetMethod("k_center")),
    "k_center, balanced": Case(CoresetMethod("k_center"), None, True, "balanced"),
    "facility_location": Case(CoresetMethod("facility_location")),
    "facility_location, balanced": Case(CoresetMethod("facility_location"), None, True, "balanced"),
    "herding": Case(CoresetMethod("herding")),
    "herding, balanced": Case(CoresetMethod("herding"), None, True, "balanced"),
    "k_means_medoids": Case(CoresetMethod("k_means_medoids")),
    "semdedup": Case(CoresetMethod("semdedup")),
    "moderate": Case(CoresetMethod("moderate"), None, True),
    "max_entropy": _proxy("max_entropy"),
    "max_entropy, balanced": _proxy("max_entropy", None, "balanced"),
    "max_entropy, easiest": _proxy("max_entropy", EASIEST),
    "max_entropy, ccs": _proxy("max_entropy", CCS),
    "max_entropy, d2": _proxy("max_entropy", D2),
    "margin": _proxy("margin"),
    "least_confidence": _proxy("least_confidence"),
    "forgetting": _proxy("forgetting"),
    "forgetting, ccs": _proxy("forgetting", CCS),
    "forgetting, d2": _proxy("forgetting", D2),
    "el2n": _proxy("el2n"),
    "el2n, ccs": _proxy("el2n", CCS),
    "el2n, d2": _proxy("el2n", D2),
    "aum": _proxy("aum"),
    "aum, ccs": _proxy("aum", CCS),
    "aum, d2": _proxy("aum", D2),
}

LEFT_OUT: Mapping[str, str] = {
    "grand": "is refused on unit rows, where it equals el2n",
    "query": "needs targets: it does not aim at the whole",
}
