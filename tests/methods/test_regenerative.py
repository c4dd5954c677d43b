from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from tests.methods import lab


def term(p, name):
    """Gradient of the penalty by name; what is left alone is not in it."""
    m, state = lab.method(p, name), p.learner.state
    grads = {k: torch.full_like(v, math.pi) for k, v in state.params.items()}
    with torch.no_grad():
        m.gradient_term(state.params, state.slots[name])(grads)
    return {k: g - math.pi for k, g in grads.items() if not bool((g == math.pi).all())}


def perturbed(method, **kw):
    p = lab.parts({**lab.nodes(method), **lab.nodes("layer_norm")}, actions="continuous", **kw)
    start = lab.params(p)
    generator = torch.Generator().manual_seed(3)
    for v in p.learner.state.params.values():
        v.data.add_(torch.randn(v.shape, generator=generator))
    difference = {k: v.double().numpy() - start[k].double().numpy() for k, v in lab.params(p).items()}
    return p, {k: v for k, v in difference.items() if k.endswith(("weight", "bias"))}


@pytest.mark.parametrize("method", ["regenerative", "regenerative_reference"])
def test_gradient_is_zero_at_the_start(method):
    assert term(lab.parts(lab.nodes(method)), method) == {}


def numerical(difference, penalty):
    """Derivative of `penalty` (of all differences) by central differences, for one entry of each tensor."""
    found = {}
    for name, d in difference.items():
        index = (0,) * d.ndim
        values = []
        for step in (1e-6, -1e-6):
            moved = {k: v.copy() for k, v in difference.items()}
            moved[name][index] += step
            values.append(penalty(moved.values()))
        found[name] = (values[0] - values[1]) / 2e-6
    return found


def test_squared_form_in_closed_form():
    p, difference = perturbed("regenerative")
    grads = term(p, "regenerative")
    assert set(grads) == set(difference)
    for name, d in difference.items():
        np.testing.assert_allclose(grads[name].numpy(), 1e-3 * d, rtol=1e-3, atol=1e-6)
    slopes = numerical(difference, lambda ds: 0.5e-3 * sum((d**2).sum() for d in ds))
    for name, slope in slopes.items():
        assert float(grads[name].flatten()[0]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_unsquared_form_pulls_with_constant_strength_over_all_tensors_jointly():
    p, difference = perturbed("regenerative_reference")
    norm = np.sqrt(sum((d**2).sum() for d in difference.values()))
    grads = term(p, "regenerative_reference")
    assert set(grads) == set(difference)
    for name, d in difference.items():
        np.testing.assert_allclose(grads[name].numpy(), 1e-2 * d / norm, rtol=1e-3, atol=1e-6)
    slopes = numerical(difference, lambda ds: 1e-2 * np.sqrt(sum((d**2).sum() for d in ds)))
    for name, slope in slopes.items():
        assert float(grads[name].flatten()[0]) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_normalisation_and_log_std_are_excluded_and_scope_is_kept():
    p = lab.parts(
        {**lab.nodes("regenerative", scope=["actor/*"]), **lab.nodes("layer_norm")}, actions="continuous"
    )
    kept = {k.removeprefix("start/") for k in p.learner.state.slots["regenerative"]}
    layers = ("body.0", "body.1", "head.policy")
    assert kept == {f"actor/{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_initial_values_are_copies_that_stay():
    p = lab.parts(lab.nodes("regenerative"), experience=True)
    before = {k: v.clone() for k, v in p.learner.state.slots["regenerative"].items()}
    lab.learn(p, 2)
    assert all(torch.equal(v, before[k]) for k, v in p.learner.state.slots["regenerative"].items())
    assert not torch.equal(p.learner.state.params["actor/body.0.weight"], before["start/actor/body.0.weight"])


def test_a_phase_without_weights_adds_nothing():
    p = lab.parts(lab.nodes("regenerative"), actions="continuous")
    alone = {"actor/log_std": p.learner.state.params["actor/log_std"]}
    assert lab.method(p, "regenerative").gradient_term(alone, p.learner.state.slots["regenerative"]) is None


def test_refuses_a_negative_strength():
    with pytest.raises(UserError, match="coef"):
        lab.parts(lab.nodes("regenerative", coef=-1.0))
