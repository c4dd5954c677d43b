from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from plasticine.core.optim import Adam
from plasticine.errors import UserError
from plasticine.methods.l2 import Decaying, decayed_kind
from tests.methods import lab

LOG_STD, SCALE = "actor/log_std", "actor/body.0.norm_scale"


def covered(params, tensors):
    return {k for k in params if decayed_kind(k, tensors)}


def test_kinds_of_tensors():
    params = lab.params(lab.parts({}, actions="continuous", network={"norm": "layer_norm"}))
    assert covered(params, "all") == set(params)
    weights = {k for k in params if k.endswith(".weight")}
    assert len(weights) == 6
    assert covered(params, "weights") == weights
    assert covered(params, "weights_and_biases") == weights | {k.replace(".weight", ".bias") for k in weights}
    assert {LOG_STD, SCALE} < set(params)


@pytest.mark.parametrize("tensors", ["weights", "weights_and_biases", "all"])
def test_penalty_in_closed_form(tensors):
    nodes = lab.nodes("l2", coef=0.3, tensors=tensors, scope=["actor/*"])
    p = lab.parts(nodes, actions="continuous", network={"norm": "layer_norm", "bias_init": "uniform_fan_in"})
    m, state = lab.method(p, "l2"), p.learner.state
    inside = m.select(state.params)
    exact = {k: v.detach().double().numpy() for k, v in inside.items()}
    grads = {k: torch.full_like(v, 0.5) for k, v in inside.items()}
    with torch.no_grad():
        m.gradient_term(inside, state.slots["l2"])(grads)
    chosen = covered(inside, tensors)
    for name, g in grads.items():
        pull = 0.3 * exact[name] if name in chosen else 0.0 * exact[name]
        np.testing.assert_allclose(g.numpy(), 0.5 + pull, rtol=1e-5, atol=1e-7)


def test_gradient_is_that_of_the_penalty():
    """Numerically, in float64: d/dp of coef / 2 * |p|^2."""
    p = lab.parts(lab.nodes("l2", coef=0.3, tensors="all"))
    params = {k: v.detach().double().requires_grad_(True) for k, v in p.learner.state.params.items()}
    penalty = 0.15 * sum(v.square().sum() for v in params.values())
    expected = torch.autograd.grad(penalty, list(params.values()))
    grads = {k: torch.zeros_like(v) for k, v in params.items()}
    with torch.no_grad():
        lab.method(p, "l2").gradient_term(params, {})(grads)
    for g, e in zip(grads.values(), expected, strict=True):
        torch.testing.assert_close(g, e)


def test_a_phase_without_such_tensors_has_no_term():
    p = lab.parts(lab.nodes("l2"), actions="continuous")
    alone = {LOG_STD: p.learner.state.params[LOG_STD]}
    assert lab.method(p, "l2").gradient_term(alone, {}) is None


def two_tensors():
    g = torch.Generator().manual_seed(0)
    return {
        "q/body.0.weight": torch.randn(3, 2, generator=g).requires_grad_(True),
        "q/body.0.bias": torch.randn(3, generator=g).requires_grad_(True),
    }


def gradients(count):
    g = torch.Generator().manual_seed(1)
    return [[torch.randn(3, 2, generator=g), torch.randn(3, generator=g)] for _ in range(count)]


@pytest.mark.parametrize("coupled", [True, False])
def test_equals_pytorchs_weight_decay(coupled):
    mine, theirs = two_tensors(), two_tensors()
    optimizer = Decaying(
        Adam(betas=(0.9, 0.999), eps=1e-5), lambda k: k.endswith("weight"), 0.1, coupled=coupled
    )
    optimizer.bind(mine)
    kind = torch.optim.Adam if coupled else torch.optim.AdamW
    groups = [
        {"params": [theirs["q/body.0.weight"]], "weight_decay": 0.1},
        {"params": [theirs["q/body.0.bias"]], "weight_decay": 0.0},
    ]
    reference = kind(groups, lr=0.05, eps=1e-5)
    for grads in gradients(20):
        for p, g in zip(theirs.values(), grads, strict=True):
            p.grad = g.clone()
        reference.step()
        with torch.no_grad():
            optimizer.step([g.clone() for g in grads], 0.05)
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_decoupled_decay_without_a_gradient_multiplies():
    params = two_tensors()
    before = {k: v.detach().clone() for k, v in params.items()}
    optimizer = Decaying(Adam(betas=(0.9, 0.999), eps=1e-5), lambda k: True, 0.25, coupled=False)
    optimizer.bind(params)
    with torch.no_grad():
        optimizer.step([torch.zeros_like(p) for p in params.values()], 0.5)
    for name, p in params.items():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.5 * 0.25), rtol=1e-6, atol=0)


def test_coupled_decay_comes_after_clipping_and_the_penalty_before():
    """With a strength that dwarfs the gradient: the first moment shows what was clipped."""
    norms = {}
    for name, changes in (("l2_decoupled", {"coupled": True, "coef": 1e4}), ("l2", {"coef": 1e4})):
        p = lab.parts(lab.nodes(name, **changes), experience=True, agent={"max_grad_norm": 0.5})
        phase, lr, batch = next(p.learner.agent.batches(0.0))
        p.learner.updates[phase](batch, lr)
        moments = [v for k, v in p.learner.state.opt["update"].items() if k.startswith("exp_avg/")]
        norms[name] = float(torch.cat([m.flatten() for m in moments]).norm()) / 0.1
    assert norms["l2"] == pytest.approx(0.5, rel=1e-3)
    assert norms["l2_decoupled"] > 1e3


def test_overwritten_reaches_the_base():
    params = two_tensors()
    optimizer = Decaying(Adam(betas=(0.9, 0.999), eps=1e-5), lambda k: True, 0.1, coupled=True)
    state = optimizer.bind(params)
    with torch.no_grad():
        optimizer.step(gradients(1)[0], 0.1)
    optimizer.overwritten("q/body.0.bias", None, moments=True)
    assert not state["exp_avg/q/body.0.bias"].any()
    assert bool(state["exp_avg/q/body.0.weight"].any())


def test_scope_and_the_order_with_other_optimizers():
    p = lab.parts(lab.nodes("l2_decoupled", coef=1e3, scope=["critic/*"]), experience=True)
    before = lab.params(p)
    with torch.no_grad():
        zeros = [torch.zeros_like(v) for v in p.learner.state.params.values()]
        p.learner.surgeon._optimizers[0].step(zeros, 1e-3)
    changed = {k for k, v in lab.params(p).items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if k.startswith("critic/") and k.endswith("weight")}
    lab.parts({**lab.nodes("l2_decoupled"), **lab.nodes("trac")})
    lab.parts({**lab.nodes("trac"), **lab.nodes("l2_decoupled")})


def test_presets_of_the_reference():
    m = lab.method(lab.parts(lab.nodes("l2_reference")), "l2_reference")
    assert (m.coupled, m.tensors, m.coef) == (True, "all", 1e-3)
    nodes = lab.nodes("snp_reference", shrink=0.9, noise=0.1)
    p = lab.parts(nodes, actions="continuous")
    start = lab.params(p)
    with torch.no_grad():
        for v in p.learner.state.params.values():
            v.add_(1.0)
    moved = copy.deepcopy(lab.params(p))
    snp = lab.method(p, "snp_reference")
    with torch.no_grad():
        snp.after_step(
            snp.select(p.learner.state.params), p.learner.state.slots["snp_reference"], torch.Generator()
        )
    for name, v in lab.params(p).items():
        expected = moved[name] if name == LOG_STD else 0.9 * moved[name] + 0.1 * start[name]
        torch.testing.assert_close(v, expected)


@pytest.mark.parametrize("name", ["l2", "l2_decoupled"])
def test_refuses_a_negative_strength(name):
    with pytest.raises(UserError, match="coef"):
        lab.parts(lab.nodes(name, coef=-1.0))
