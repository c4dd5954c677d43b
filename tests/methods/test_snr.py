"""Self-normalised resets against a unit-by-unit account of silences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.watch import Seen
from plasticine.errors import UserError
from plasticine.methods.snr import adapted, ended_silences, silent
from plasticine.networks.network import Site
from plasticine.testing import record, tiny_config
from tests.methods import lab


def built(*, network=None, **options):
    return lab.parts(lab.nodes("snr", **options), shared=True, network=network)


def show(p, fires):
    """Let the method see minibatches; `fires` is bool [minibatches, 16], for the units of both layers."""
    method, learner = lab.method(p, "snr"), p.learner
    params = method.select(learner.state.params)
    for row in fires:
        post = torch.zeros(3, 16)
        post[1] = torch.as_tensor(row).float()
        sites = (
            Site("body.0", post[:, :8], post[:, :8], "relu", 1),
            Site("body.1", post[:, 8:], post[:, 8:], "relu", 1),
        )
        seen = Seen(params, {}, {"shared": sites}, {}, learner.surgeon)
        method.observe(seen, learner.state.slots["snr"], learner.streams["method/snr"])


def reset_units(before, after):
    """Units of both layers whose incoming weights have changed."""
    changed = [(after[k] != before[k]).any(1) for k in ("shared/body.0.weight", "shared/body.1.weight")]
    first, second = (c.numpy() for c in changed)
    return first, second


# -- firing and silence --------------------------------------------------------------------------------------
def test_one_row_or_position_is_enough_to_fire():
    post = torch.zeros(5, 4)
    post[3, 1] = 1e-20
    post[:, 2] = 1.0
    assert silent(post).tolist() == [True, False, False, True]
    images = torch.zeros(2, 3, 4, 4)
    images[1, 2, 3, 0] = 0.5
    assert silent(images).tolist() == [True, True, False]
    assert silent(torch.full((2, 1), torch.nan)).tolist() == [False]


def test_with_a_tolerance_a_few_rows_do_not_count():
    post = torch.zeros(10, 3)
    post[:2, 1] = 1.0
    post[:3, 2] = 1.0
    assert silent(post, 0.2).tolist() == [True, True, False]


def by_hand(fires, longest):
    """Lengths of the silences that ended, and the ages at the end, unit by unit."""
    lengths, ages = [], []
    for column in np.asarray(fires).T:
        own, age = [], 0
        for fired in column:
            if fired and age:
                own.append(min(age, longest))
            age = 0 if fired else age + 1
        lengths.append(own)
        ages.append(age)
    return lengths, ages


def test_silences_are_counted_as_by_hand():
    fires = np.random.default_rng(0).random((300, 16)) < np.linspace(0.05, 1.0, 16)
    p = built(longest=20, shortest=1, first_threshold=20)
    show(p, fires)
    slot = p.learner.state.slots["snr"]
    lengths, ages = by_hand(fires, 20)
    assert slot["age/shared"].tolist() == ages
    counts = [np.bincount(own, minlength=21)[1:] for own in lengths]
    np.testing.assert_array_equal(slot["silences/shared"], counts)
    assert not slot["silences/shared"][-1].any(), "a unit that always fires was never silent"


def test_a_real_forward_pass_is_what_is_counted():
    p = lab.parts(lab.nodes("snr"), shared=True, experience=True)
    with torch.no_grad():
        p.learner.state.params["shared/body.1.bias"][[2, 5]] = -1e3
        p.learner.state.params["shared/body.0.bias"][0] = 1e3
    lab.learn(p)
    age = p.learner.state.slots["snr"]["age/shared"]
    assert age[[10, 13]].tolist() == [4, 4]
    assert int(age[0]) == 0


# -- thresholds ----------------------------------------------------------------------------------------------
def test_thresholds_shrink_to_the_percentile_or_grow():
    rng = np.random.default_rng(3)
    samples = [rng.geometric(q, 400).clip(max=64) for q in (0.9, 0.5, 0.1, 0.03)]
    silences = torch.tensor(np.stack([np.bincount(s, minlength=65)[1:] for s in samples]), dtype=torch.int32)
    for rejection in (0.02, 0.2, 0.5):
        exact = [np.quantile(s, 1 - rejection, method="inverted_cdf") for s in samples]
        got = adapted(silences, torch.full((4,), 60), rejection, 2.0, 1)
        expected = [int(e) if e < 60 else 64 for e in exact]
        assert got.tolist() == expected
    few = torch.zeros(2, 64, dtype=torch.int32)
    few[1, 9] = 3  # three silences of 10
    assert adapted(few, torch.tensor([10, 10]), 0.02, 2.0, 4).tolist() == [4, 20]
    assert adapted(few, torch.tensor([50, 8]), 0.02, 20.0, 4).tolist() == [4, 64]


def test_ended_silences_go_to_their_column():
    silences = torch.zeros(3, 5, dtype=torch.int32)
    ended_silences(silences, torch.tensor([0, 2, 9]), torch.tensor([True, True, True]))
    ended_silences(silences, torch.tensor([4, 2, 1]), torch.tensor([False, True, False]))
    assert silences.tolist() == [[0, 0, 0, 0, 0], [0, 2, 0, 0, 0], [0, 0, 0, 0, 1]]


# -- resets --------------------------------------------------------------------------------------------------
def test_a_unit_is_reset_when_its_silence_reaches_its_threshold():
    p = built(first_threshold=6, shortest=2, adapt_every=100)
    dead = [3, 9]
    fires = np.ones((6, 16), bool)
    fires[:, dead] = False
    before = lab.params(p)
    show(p, fires[:5])
    assert lab.act(p, "snr")["recycled"] == 0.0
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())
    show(p, fires[5:])
    for value in p.learner.state.opt["update"].values():
        value.fill_(5.0)
    facts = lab.act(p, "snr")
    assert facts["recycled"] == facts["recycled/shared"] == 2.0
    assert facts["hidden_units"] == 16.0
    after = lab.params(p)
    first, second = reset_units(before, after)
    assert first.nonzero()[0].tolist() == [3]
    assert second[1]
    assert not after["shared/body.1.weight"][:, 3].any()
    assert not after["shared/head.policy.weight"][:, 1].any()
    assert not after["shared/head.value.weight"][:, 1].any()
    assert after["shared/body.1.weight"][1, [0, 1, 2, 4, 5, 6, 7]].all()
    moments = p.learner.state.opt["update"]["exp_avg_sq/shared/body.0.weight"]
    assert (moments == 0).all(1).nonzero().flatten().tolist() == [3]
    slot = p.learner.state.slots["snr"]
    assert slot["age/shared"].sum() == 0
    assert slot["silences/shared"][dead, 5].tolist() == [1, 1], "a reset ends a silence"
    show(p, fires)
    assert slot["age/shared"][3] == 6, "and the next one begins"


def test_a_unit_that_always_fires_is_never_reset_and_one_that_never_fires_always_is():
    p = built(rejection=0.5, first_threshold=4, shortest=1, longest=50, adapt_every=2)
    fires = np.ones((5, 16), bool)
    fires[:, 7] = False
    for _ in range(6):
        before = lab.params(p)
        show(p, fires)
        lab.act(p, "snr")
        first, _ = reset_units(before, lab.params(p))
        assert not first[:7].any()
    assert int(p.learner.state.slots["snr"]["acted"]) == 6


def test_thresholds_are_adapted_from_what_was_counted_since():
    p = built(rejection=0.1, first_threshold=30, shortest=3, longest=40, expansion=1.5, adapt_every=2)
    slot = p.learner.state.slots["snr"]
    fires = np.random.default_rng(5).random((400, 16)) < np.linspace(0.02, 1.0, 16)
    fires[[199, 399]] = True  # nobody is silent when it acts
    show(p, fires[:200])
    assert lab.act(p, "snr")["recycled"] == 0.0
    assert slot["threshold/shared"].tolist() == [30] * 16
    show(p, fires[200:])
    lab.act(p, "snr")
    lengths, _ = by_hand(fires, 40)
    exact = [int(np.quantile(own, 0.9, method="inverted_cdf")) if own else 1 for own in lengths]
    assert slot["threshold/shared"].tolist() == [max(3, e) if e < 30 else 40 for e in exact]
    assert len(set(exact)) > 4
    assert not slot["silences/shared"].any()


def test_neither_a_rejection_of_zero_nor_a_short_silence_does_anything():
    p = built(rejection=0.0, first_threshold=1, shortest=1)
    before = lab.params(p)
    show(p, np.zeros((50, 16), bool))
    assert lab.act(p, "snr")["recycled"] == 0.0
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())


@pytest.mark.parametrize(
    ("agent", "network", "actions"),
    [("ppo", "impala", "discrete"), ("c51", "nature_cnn", "discrete"), ("td3", "mlp", "continuous")],
)
def test_acts_in_every_kind_of_run(agent, network, actions):
    node = lab.nodes("snr", rejection=0.5, first_threshold=1, shortest=1, tolerance=0.6, adapt_every=2)
    shared = {"shared": True} if agent == "ppo" else {}
    run = record(tiny_config(node, agent_name=agent, network_name=network, actions=actions, **shared))
    assert any(run.overwritten)
    assert not run.moved
    assert not run.draws


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"when": []}, "no rule"),
        ({"when": [{"on": "task_start"}]}, "task_start"),
        ({"rejection": 1.0}, "rejection"),
        ({"shortest": 0}, "at least 1"),
        ({"first_threshold": 5000}, "between"),
        ({"expansion": 0.5}, "expansion"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"scope": ["shared/head.*"]}, "nothing to reset"),
    ],
)
def test_refuses(changes, what):
    with pytest.raises(UserError, match=what):
        lab.parts(lab.nodes("snr", **changes), shared=True)


@pytest.mark.parametrize("act", ["tanh", "crelu", "fourier", "leaky_relu"])
def test_refuses_units_that_cannot_fall_silent(act):
    with pytest.raises(UserError, match="ReLU"):
        built(network={"act": act})
