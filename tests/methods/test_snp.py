from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from plasticine.core.noise import Streams
from plasticine.errors import UserError
from plasticine.methods.snp import accumulated
from tests.methods import lab


def steps(p, count, name="snp"):
    """Call the per-step hook so many times without any optimizer step in between."""
    m, state, generator = lab.method(p, name), p.learner.state, p.learner.streams[f"method/{name}"]
    with torch.no_grad():
        for _ in range(count):
            m.after_step(state.params, state.slots[name], generator)


def scheduled(**changes):
    return lab.nodes("snp_hard", **changes)


# -- soft ----------------------------------------------------------------------------------------------------
def test_soft_identity_at_one_and_zero():
    p = lab.parts(lab.nodes("snp", shrink=1.0, noise=0.0), network={"bias_init": "uniform_fan_in"})
    before = lab.params(p)
    steps(p, 25)
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())


def test_soft_shrinks_at_every_step():
    p = lab.parts(lab.nodes("snp", shrink=0.9, noise=0.0))
    before = lab.params(p)
    steps(p, 7)
    for name, value in lab.params(p).items():
        np.testing.assert_allclose(value.numpy(), 0.9**7 * before[name].double().numpy(), rtol=1e-5)


@pytest.mark.parametrize("noise_every", [1, 4])
def test_soft_noise_has_the_accumulated_variance_of_the_initialiser(noise_every):
    """theta_12 - shrink^12 theta_0 is a sum of 12 draws of scale noise * sigma, shrunk by their age."""
    shrink, noise, n = 0.8, 0.3, 12
    changes = {"shrink": shrink, "noise": noise, "noise_every": noise_every}
    p = lab.parts(lab.nodes("snp", **changes), network={"hidden": [64, 64], "bias_init": "uniform_fan_in"})
    before = lab.params(p)
    steps(p, n)
    gain = np.sqrt(2.0)  # orthogonal: every entry has variance gain^2 / max(rows, columns)
    sigma = {
        "actor/body.0.weight": gain / np.sqrt(64),
        "actor/body.1.weight": gain / np.sqrt(64),
        "critic/body.1.weight": gain / np.sqrt(64),
    }
    sizes = [shrink**j * noise for j in range(n)]
    for name, s in sigma.items():
        left = lab.params(p)[name].double().numpy() - shrink**n * before[name].double().numpy()
        expected = s * np.sqrt(sum(x * x for x in sizes))
        assert left.std() == pytest.approx(expected, rel=0.08), name
        assert abs(left.mean()) < 5 * expected / np.sqrt(left.size), name
    left = (
        lab.params(p)["actor/body.1.bias"].double().numpy()
        - shrink**n * before["actor/body.1.bias"].double().numpy()
    )
    expected = 1 / np.sqrt(3 * 64) * np.sqrt(sum(x * x for x in sizes))
    assert left.std() == pytest.approx(expected, rel=0.4)


@pytest.mark.parametrize("shrink", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("n", [1, 2, 9])
def test_accumulated_factors_against_explicit_sums(shrink, n):
    powers = np.array([shrink**j for j in range(n)])
    spread, drift = accumulated(shrink, 0.25, n)
    assert spread == pytest.approx(0.25 * np.sqrt((powers**2).sum()), rel=1e-12)
    assert drift == pytest.approx(0.25 * powers.sum(), rel=1e-12)


def test_soft_noise_comes_every_so_many_steps():
    p = lab.parts(lab.nodes("snp", shrink=1.0, noise=0.1, noise_every=3))
    changed = []
    for _ in range(7):
        before = lab.params(p)["actor/body.0.weight"]
        steps(p, 1)
        changed.append(not torch.equal(before, lab.params(p)["actor/body.0.weight"]))
    assert changed == [False, False, True, False, False, True, False]


def test_soft_leaves_zero_biases_without_noise_and_norm_and_log_std_alone():
    methods = {**lab.nodes("snp", shrink=0.5, noise=0.5, noise_every=1), **lab.nodes("layer_norm")}
    p = lab.parts(methods, actions="continuous", agent={"log_std": -0.7})
    p.learner.state.params["actor/body.0.bias"].data.fill_(4.0)
    before = lab.params(p)
    steps(p, 2)
    after = lab.params(p)
    assert torch.equal(after["actor/body.0.bias"], torch.full((8,), 1.0))
    for name in before:
        untouched = name.endswith(("norm_scale", "norm_offset", "log_std"))
        assert torch.equal(before[name], after[name]) == (untouched or not bool(before[name].any())), name


def test_soft_adds_the_mean_of_a_constant_initialiser():
    p = lab.parts(lab.nodes("snp", shrink=0.5, noise=0.5, noise_every=2))
    m = lab.method(p, "snp")
    group = m._group(tuple(m._index))
    position = group.names.index("actor/body.0.bias")
    group.means[position] = 3.0
    with torch.no_grad():
        p.learner.state.params["actor/body.0.bias"].fill_(8.0)
    steps(p, 2)
    expected = 0.25 * 8.0 + 0.5 * 3.0 * (1 + 0.5)
    torch.testing.assert_close(
        p.learner.state.params["actor/body.0.bias"].detach(), torch.full((8,), expected)
    )


def test_initial_draw_pulls_to_the_start_without_randomness():
    p = lab.parts(lab.nodes("snp", shrink=0.9, noise=0.1, draw="initial"))
    start = lab.params(p)
    for v in p.learner.state.params.values():
        v.data.add_(1.0)
    moved = lab.params(p)
    generator = p.learner.streams["method/snp"].get_state()
    steps(p, 1)
    for name, value in lab.params(p).items():
        torch.testing.assert_close(value, 0.9 * moved[name] + 0.1 * start[name])
    assert torch.equal(generator, p.learner.streams["method/snp"].get_state())


# -- at the moments of a rule --------------------------------------------------------------------------------
def test_scheduled_by_hand():
    p = lab.parts(scheduled(shrink=0.3, noise=0.6), network={"bias_init": "uniform_fan_in"})
    before = lab.params(p)
    facts = lab.act(p, "snp_hard")
    generator = Streams(0).once("method/snp_hard")
    moved = total = 0.0
    for name, value in lab.params(p).items():
        draw = p.learner.anatomy.fresh(name, generator).double().numpy()
        expected = 0.3 * before[name].double().numpy() + 0.6 * draw
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-6)
        moved += ((expected - before[name].double().numpy()) ** 2).sum()
        total += (before[name].double().numpy() ** 2).sum()
    assert facts["relative_change"] == pytest.approx(np.sqrt(moved / total), rel=1e-4)


def test_scheduled_identity_and_complete_replacement():
    p = lab.parts(scheduled(shrink=1.0, noise=0.0))
    before = lab.params(p)
    lab.act(p, "snp_hard")
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())

    p = lab.parts(scheduled(shrink=0.0, noise=1.0))
    p.learner.state.params["actor/body.0.weight"].data.fill_(float("nan"))
    lab.act(p, "snp_hard")
    generator = Streams(0).once("method/snp_hard")
    for name, value in lab.params(p).items():
        assert torch.equal(value, p.learner.anatomy.fresh(name, generator)), name


def test_scheduled_draws_are_new_each_time_and_centred():
    p = lab.parts(scheduled(shrink=0.0, noise=1.0, moments="keep"), network={"hidden": [4, 4]})
    draws = []
    for _ in range(500):
        lab.act(p, "snp_hard")
        draws.append(p.learner.state.params["critic/body.1.weight"].detach().clone())
    stacked = torch.stack(draws)
    assert not torch.equal(stacked[0], stacked[1])
    assert float(stacked.mean(0).abs().max()) < 5 * np.sqrt(2.0 / 4 / 500)
    assert float(stacked.std()) == pytest.approx(np.sqrt(2.0 / 4), rel=0.02)


@pytest.mark.parametrize("moments", ["reset", "keep"])
def test_scheduled_moments(moments):
    p = lab.parts(scheduled(moments=moments), experience=True, actions="continuous")
    lab.learn(p)
    before = {k: v.clone() for k, v in p.learner.state.opt["update"].items()}
    lab.act(p, "snp_hard")
    for name, value in p.learner.state.opt["update"].items():
        cleared = moments == "reset" and not name.endswith("log_std")
        assert torch.equal(value, torch.zeros_like(value) if cleared else before[name]), name


@pytest.mark.parametrize("targets", ["copy", "keep"])
def test_scheduled_targets(targets):
    p = lab.parts(scheduled(targets=targets))
    online = p.learner.state.params["critic/body.0.weight"]
    slow = p.learner.state.targets["critic/body.0.weight"] = torch.zeros_like(online, requires_grad=False)
    lab.act(p, "snp_hard")
    assert torch.equal(slow, online.detach() if targets == "copy" else torch.zeros_like(slow))


def test_rules_switch_the_soft_form_off():
    p = lab.parts(scheduled())
    before = lab.params(p)
    steps(p, 5, "snp_hard")
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())


# -- refusals ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "word"),
    [({"shrink": 1.1}, "shrink"), ({"noise": -0.1}, "noise"), ({"noise_every": 0}, "noise_every"),
     ({"moments": "reset"}, "rule"), ({"targets": "copy"}, "rule")],
)  # fmt: skip
def test_refuses_what_makes_no_sense(changes, word):
    with pytest.raises(UserError, match=word):
        lab.parts(lab.nodes("snp", **changes))


def test_refuses_a_stream_without_the_event():
    from plasticine.compose import assemble_parts
    from plasticine.testing import tiny_config

    config = tiny_config(scheduled())
    config["env"]["num_tasks"] = 1
    with pytest.raises(UserError, match="task_switch"):
        assemble_parts(config)
    config["method"] = copy.deepcopy(lab.nodes("snp"))
    assemble_parts(config)
