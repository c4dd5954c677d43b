from __future__ import annotations

import math

import pytest

from plasticine.core.metric import Probe
from plasticine.metrics.gradients import GradientNorm
from plasticine.metrics.policy import PolicyEntropy

METRICS = pytest.mark.parametrize(
    ("metric", "name"), [(GradientNorm(), "grad_norm"), (PolicyEntropy(), "policy_entropy")]
)


@METRICS
def test_value_of_the_whole_agent_under_the_empty_name(metric, name, make_net):
    scalars = {"grad_norm": 0.0, "policy_entropy": 0.0, name: 1.25}
    assert metric.compute(Probe(nets=(make_net(),), scalars=scalars)) == {"": 1.25}


@METRICS
def test_negative_entropy_of_a_narrow_gaussian_is_kept(metric, name):
    assert metric.compute(Probe(nets=(), scalars={name: -3.5})) == {"": -3.5}


@METRICS
def test_no_value_if_the_agent_reports_none(metric, name):
    assert metric.compute(Probe(nets=(), scalars={"other": 1.0})) == {}


@METRICS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_number_gives_nan(metric, name, bad):
    assert math.isnan(metric.compute(Probe(nets=(), scalars={name: bad}))[""])
