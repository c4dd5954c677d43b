from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from plasticine.methods.wasserstein_reg import assign_
from tests.methods import lab


def term(p):
    """Value of the penalty, ``|gradient|^2 / (2 coef)``, and its gradient by name, for all parameters it pulls."""
    m, state = lab.method(p, "wasserstein_reg"), p.learner.state
    grads = {k: torch.zeros_like(v) for k, v in state.params.items()}
    with torch.no_grad():
        m.gradient_term(state.params, state.slots[m.name])(grads)
    return sum(float(g.double().square().sum()) for g in grads.values()) / (2 * m.coef), grads


@torch.no_grad()
def sort(p):
    m, state = lab.method(p, "wasserstein_reg"), p.learner.state
    m.after_step(state.params, state.slots[m.name], torch.Generator())


def disturb(p, size=1.0, seed=3):
    generator = torch.Generator().manual_seed(seed)
    for v in p.learner.state.params.values():
        v.data.add_(size * torch.randn(v.shape, generator=generator))


def built(**changes):
    methods = {**lab.nodes("wasserstein_reg", **{"sort_every": 1, **changes}), **lab.nodes("layer_norm")}
    return lab.parts(methods, actions="continuous", network={"bias_init": "uniform_fan_in"})


def regularised(params):
    return {k: v for k, v in params.items() if k.endswith(("weight", "bias"))}


def test_value_and_gradient_against_sorted_float64():
    p = built(coef=0.3)
    start = {k: v.double().numpy() for k, v in lab.params(p).items()}
    disturb(p)
    sort(p)
    now = {k: v.double().numpy() for k, v in lab.params(p).items()}
    value, grads = term(p)
    expected, l2_init = 0.0, 0.0
    for name in regularised(now):
        a, b = np.sort(now[name].ravel()), np.sort(start[name].ravel())
        expected += 0.15 * ((a - b) ** 2).sum()
        l2_init += 0.15 * ((now[name] - start[name]) ** 2).sum()
        rank = now[name].ravel().argsort().argsort()
        gradient = 0.3 * (now[name] - b[rank].reshape(now[name].shape))
        np.testing.assert_allclose(grads[name].numpy(), gradient, rtol=1e-4, atol=1e-6)
    assert value == pytest.approx(expected, rel=1e-5)
    assert 0 < value < 0.9 * l2_init
    assert all(bool(g.any()) == (k in regularised(now)) for k, g in grads.items())


def test_zero_at_the_start_and_after_any_permutation_within_a_tensor():
    p = built(coef=1.0)
    assert term(p)[0] == 0.0
    generator = torch.Generator().manual_seed(0)
    before = lab.params(p)
    for v in regularised(p.learner.state.params).values():
        v.data.copy_(v.flatten()[torch.randperm(v.numel(), generator=generator)].view_as(v))
    assert not torch.equal(lab.params(p)["actor/body.0.weight"], before["actor/body.0.weight"])
    stale, _ = term(p)
    assert stale > 0.1  # an upper bound until the entries are paired again
    sort(p)
    value, grads = term(p)
    assert value == 0.0
    assert not any(bool(g.any()) for g in grads.values())


def test_an_old_pairing_is_an_upper_bound():
    p = built(coef=1.0)
    disturb(p)
    sort(p)
    disturb(p, 0.3, seed=4)
    stale = term(p)[0]
    sort(p)
    assert term(p)[0] < stale


def test_pairs_anew_every_so_many_steps_in_place():
    p = built(sort_every=3)
    slot = p.learner.state.slots["wasserstein_reg"]
    places = {k: v.data_ptr() for k, v in slot.items()}
    disturb(p)
    renewed = []
    for _ in range(7):
        before = slot["aim/actor/body.0.weight"].clone()
        disturb(p, 0.5)
        sort(p)
        renewed.append(not torch.equal(before, slot["aim/actor/body.0.weight"]))
    assert renewed == [False, False, True, False, False, True, False]
    assert places == {k: v.data_ptr() for k, v in slot.items()}


def test_each_tensor_is_paired_with_its_own_values():
    start = [torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([10.0, 20.0])]
    params = [torch.tensor([3.0, -2.0, 1.0]), torch.tensor([[4.0], [3.0]])]
    aims = [torch.zeros(3), torch.zeros(2, 1)]
    assign_(aims, params, start, (torch.empty(3), torch.empty(3, dtype=torch.int64)))
    assert aims[0].tolist() == [5.0, -1.0, 0.0]
    assert aims[1].tolist() == [[20.0], [10.0]]


def test_training_is_pulled_towards_the_distribution():
    def distance(coef):
        nodes = lab.nodes("wasserstein_reg", coef=coef, sort_every=1)
        p = lab.parts(nodes, experience=True, agent={"lr": 1e-2, "epochs": 10})
        start = lab.params(p)
        lab.learn(p)
        return sum(float((v.flatten().sort().values - start[k].flatten().sort().values).square().sum())
                   for k, v in lab.params(p).items())  # fmt: skip

    assert distance(10.0) < 0.3 * distance(0.0)


def test_scope_and_refusals():
    p = lab.parts(lab.nodes("wasserstein_reg", scope=["actor/*"]))
    slot = p.learner.state.slots["wasserstein_reg"]
    assert {k.removeprefix("aim/") for k in slot if k.startswith("aim/")} == {
        k for k in lab.params(p) if k.startswith("actor/")
    }
    for changes in ({"coef": -1.0}, {"sort_every": 0}):
        with pytest.raises(UserError, match=next(iter(changes))):
            built(**changes)
