"""The comparison on real data leaves no method out without saying why."""

from __future__ import annotations

from tests.benchmarks.coresets.cases import CASES, LEFT_OUT

from coresift.server.coreset.methods import METHODS, method_of, sampler_of
from coresift.server.coreset.samplers import SAMPLERS


def test_every_method_and_sampler_is_compared_or_left_out_with_a_reason() -> None:
    compared = {case.method.name for case in CASES.values()}
    assert compared | set(LEFT_OUT) == set(METHODS)
    assert not compared & set(LEFT_OUT)
    samplers = {case.sampler.name for case in CASES.values() if case.sampler is not None}
    assert samplers == set(SAMPLERS)


def test_every_case_is_one_that_the_server_takes() -> None:
    for case in CASES.values():
        method_of(case.method.name, tuple(case.method.params.items()))
        if case.sampler is not None:
            sampler_of(case.sampler.name, tuple(case.sampler.params.items()))
