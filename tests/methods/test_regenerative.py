from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from tests.methods import lab


def term(p, name):
    """Value and gradient by name of the penalty."""
    m, state = lab.method(p, name), p.learner.state
    value = m.loss_term(state.params, state.slots[name])
    grads = torch.autograd.grad(value, list(state.params.values()), allow_unused=True)
    return float(value.detach()), dict(zip(state.params, grads, strict=True))


def perturbed(method, **kw):
    p = lab.parts({**lab.nodes(method), **lab.nodes("layer_norm")}, actions="continuous", **kw)
    start = lab.params(p)
    generator = torch.Generator().manual_seed(3)
    for v in p.learner.state.params.values():
        v.data.add_(torch.randn(v.shape, generator=generator))
    difference = {k: v.double().numpy() - start[k].double().numpy() for k, v in lab.params(p).items()}
    return p, {k: v for k, v in difference.items() if k.endswith(("weight", "bias"))}


@pytest.mark.parametrize("method", ["regenerative", "regenerative_reference"])
def test_value_and_gradient_are_zero_at_the_start(method):
    value, grads = term(lab.parts(lab.nodes(method)), method)
    assert value == 0.0
    assert all(bool((g == 0).all()) for g in grads.values())


def test_squared_form_in_closed_form():
    p, difference = perturbed("regenerative")
    value, grads = term(p, "regenerative")
    assert value == pytest.approx(0.5e-3 * sum((d**2).sum() for d in difference.values()), rel=1e-5)
    for name, g in grads.items():
        if name in difference:
            np.testing.assert_allclose(g.numpy(), 1e-3 * difference[name], rtol=1e-4, atol=1e-9)
        else:
            assert g is None, f"{name} is not regularised"


def test_unsquared_form_pulls_with_constant_strength_over_all_tensors_jointly():
    p, difference = perturbed("regenerative_reference")
    norm = np.sqrt(sum((d**2).sum() for d in difference.values()))
    value, grads = term(p, "regenerative_reference")
    assert value == pytest.approx(1e-2 * norm, rel=1e-5)
    for name, d in difference.items():
        np.testing.assert_allclose(grads[name].numpy(), 1e-2 * d / norm, rtol=1e-4, atol=1e-9)


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
    assert float(lab.method(p, "regenerative").loss_term(alone, p.learner.state.slots["regenerative"])) == 0.0


def test_refuses_a_negative_strength():
    with pytest.raises(UserError, match="coef"):
        lab.parts(lab.nodes("regenerative", coef=-1.0))
