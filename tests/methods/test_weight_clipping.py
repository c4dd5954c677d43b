from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from plasticine.methods.weight_clipping import clip_
from tests.methods import lab

DEFAULT = {"init": "uniform_fan_in", "gain": 1.0, "bias_init": "uniform_fan_in"}


def step(p, times=1):
    m, state = lab.method(p, "weight_clipping"), p.learner.state
    with torch.no_grad():
        for _ in range(times):
            m.after_step(state.params, state.slots[m.name], p.learner.streams["method/weight_clipping"])


def fan_in(params, name):
    """Inputs of the layer that a weight or bias belongs to."""
    weight = params[name.rsplit(".", 1)[0] + ".weight"]
    return math.prod(weight.shape[1:])


def test_clips_each_entry_alone():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=s) for s in ((3, 4), (5,))]
    tensors = [torch.tensor(v) for v in values]
    places = [t.data_ptr() for t in tensors]
    clip_(tensors, [0.5, 0.1])
    for tensor, value, bound in zip(tensors, values, (0.5, 0.1), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), np.clip(value, -bound, bound))
    assert [t.data_ptr() for t in tensors] == places


@pytest.mark.parametrize("bound", ["init", "fan_in"])
def test_bounds_are_those_of_the_default_initialiser(bound):
    """Which then cuts nothing that was just drawn, and everything beyond kappa times its range."""
    p = lab.parts(lab.nodes("weight_clipping", kappa=1.0, bound=bound), network=DEFAULT, agent_name="pqn",
                  agent={"head_init": "uniform_fan_in"})  # fmt: skip
    before = lab.params(p)
    step(p)
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())
    for value in p.learner.state.params.values():
        value.data.mul_(10.0)
    scaled = lab.params(p)
    step(p)
    for name, value in lab.params(p).items():
        limit = 1 / math.sqrt(fan_in(before, name))
        np.testing.assert_allclose(value.numpy(), np.clip(scaled[name].numpy(), -limit, limit), rtol=1e-6)
    once = lab.params(p)
    step(p)
    assert all(torch.equal(v, once[k]) for k, v in lab.params(p).items())


def test_a_wider_initialiser_widens_the_bound_and_a_narrow_one_does_not():
    p = lab.parts(lab.nodes("weight_clipping", kappa=2.0))  # orthogonal, gain sqrt(2); policy head 0.01
    for value in p.learner.state.params.values():
        value.data.fill_(100.0)
    step(p)
    after = lab.params(p)
    for name, width in (("actor/body.0", 8), ("actor/body.1", 8)):  # max(rows, columns)
        limit = 2.0 * math.sqrt(3.0) * math.sqrt(2.0) / math.sqrt(width)
        assert float(after[f"{name}.weight"].min()) == pytest.approx(limit, rel=1e-6)
        assert float(after[f"{name}.bias"].max()) == pytest.approx(limit, rel=1e-6)
    head = 2.0 / math.sqrt(8)
    assert float(after["actor/head.policy.weight"].max()) == pytest.approx(head, rel=1e-6)
    narrow = lab.parts(lab.nodes("weight_clipping", kappa=2.0, bound="fan_in"))
    for value in narrow.learner.state.params.values():
        value.data.fill_(-100.0)
    step(narrow)
    assert float(lab.params(narrow)["actor/body.0.weight"].min()) == pytest.approx(
        -2.0 / math.sqrt(5), rel=1e-6
    )


def test_bounds_of_convolutions_count_the_kernel():
    p = lab.parts(
        lab.nodes("weight_clipping", kappa=1.0, bound="fan_in"), network_name="nature_cnn", shared=True
    )
    for value in p.learner.state.params.values():
        value.data.fill_(100.0)
    step(p)
    after = lab.params(p)
    weight = after["shared/body.0.weight"]
    assert weight.dim() == 4
    assert float(weight.max()) == pytest.approx(1 / math.sqrt(math.prod(weight.shape[1:])), rel=1e-6)


def test_every_step_ends_within_the_bounds():
    p = lab.parts(lab.nodes("weight_clipping", kappa=0.5), agent={"lr": 0.1}, experience=True)
    lab.learn(p)
    limits = lab.method(p, "weight_clipping")._bounds
    reached = 0
    for name, value in lab.params(p).items():
        assert float(value.abs().max()) <= limits[name] * (1 + 1e-6)
        reached += int((value.abs() >= limits[name] * (1 - 1e-6)).sum())
    assert reached > 10


def test_normalisation_and_log_std_are_not_clipped():
    p = lab.parts({**lab.nodes("weight_clipping", kappa=0.01), **lab.nodes("layer_norm")}, actions="continuous",
                  agent={"log_std": -3.0})  # fmt: skip
    step(p)
    after = lab.params(p)
    assert bool((after["actor/body.0.norm_scale"] == 1.0).all())
    assert bool((after["actor/log_std"] == -3.0).all())


def test_scope_and_moments():
    p = lab.parts(lab.nodes("weight_clipping", scope=["*/body.*"], kappa=1e-3), experience=True)
    before = lab.params(p)
    moments = {k: v.clone() for k, v in p.learner.state.opt["update"].items()}
    step(p)
    changed = {k for k, v in lab.params(p).items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if "/body." in k and k.endswith("weight")}  # biases are zero
    assert all(torch.equal(v, moments[k]) for k, v in p.learner.state.opt["update"].items())


def test_refuses_what_makes_no_sense():
    for kappa in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="kappa"):
            lab.parts(lab.nodes("weight_clipping", kappa=kappa))
    with pytest.raises(UserError, match="whose range bounds both"):
        lab.parts(lab.nodes("weight_clipping", scope=["*.bias"]))
