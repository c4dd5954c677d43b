"""Metrics that look beyond activations: at gradients, optimizers, earlier decisions, and the loss itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.compose import assemble_parts
from plasticine.core.measure import Measurement
from plasticine.core.metric import Probe
from plasticine.core.optim import Adam
from plasticine.errors import UserError
from plasticine.methods.element_adam import ElementAdam
from plasticine.metrics.churn import PolicyChurn, churn
from plasticine.metrics.gradients import GradientNorm
from plasticine.metrics.grama import Grama, gradient_dormant
from plasticine.metrics.second_moment import AdamSecondMoment
from plasticine.metrics.steps import EffectiveRate, UpdateToWeight, relative_change, rotation
from plasticine.metrics.value import ExplainedVariance, explained_variance
from plasticine.testing import tiny_config
from tests.core.learnt import EVERY, Keep, learnt


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def gradients(agent: str) -> dict[str, np.ndarray]:
    """Of the agent's loss on its last minibatches, by automatic differentiation."""
    learner, probe = learnt(agent)
    found = {}
    for phase, batch in probe.lab.batches.items():
        names = [k for k in learner.state.params if k.split("/")[0] in learner.phases[phase]]
        loss, _ = learner.agent.loss(phase, batch)
        grads = torch.autograd.grad(loss, [learner.state.params[k] for k in names])
        found |= {k: numbers(g) for k, g in zip(names, grads, strict=True)}
    return found


# ---------------------------------------------------------------- gradients


@EVERY
def test_gradients_are_those_of_the_loss_for_every_parameter(agent):
    learner, probe = learnt(agent)
    expected = gradients(agent)
    assert set(probe.gradients) == set(learner.state.params) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(numbers(probe.gradients[name]), value, rtol=1e-6, atol=1e-9)
    assert any(np.abs(value).max() > 0 for value in expected.values())


@EVERY
def test_gradient_norm_of_layers_against_numpy(agent):
    _, probe = learnt(agent)
    squares: dict[tuple[str, str], float] = {}
    for name, value in gradients(agent).items():
        net, _, local = name.partition("/")
        layer = local.rpartition(".")[0] or local
        squares[net, layer] = squares.get((net, layer), 0.0) + float((value**2).sum())
    found = GradientNorm().layers(probe)
    assert {(n, layer) for n in found for layer in found[n]} == set(squares)
    for (net, layer), square in squares.items():
        assert found[net][layer] == pytest.approx(math.sqrt(square), rel=1e-6)


@EVERY
def test_grama_against_numpy(agent):
    _, probe = learnt(agent)
    grads, metric = gradients(agent), Grama(tau=0.6)
    for net in probe.nets:
        dormant, units = {}, {}
        for site in net.sites:
            size = np.abs(grads[f"{net.name}/{site.name}.weight"].reshape(site.pre.shape[1], -1)).mean(1)
            dormant[site.name], units[site.name] = int((size <= 0.6 * size.mean()).sum()), len(size)
        assert metric.compute(probe)[net.name] == sum(dormant.values()) / sum(units.values())
        assert metric.layers(probe)[net.name] == {k: dormant[k] / units[k] for k in dormant}


def test_dormant_gradients_by_hand():
    grad = torch.tensor([[4.0, -4.0], [1.0, 1.0], [0.0, 0.0], [-2.0, 4.0]])  # sizes 4, 1, 0, 3; mean 2
    assert [gradient_dormant(grad, tau) for tau in (0.0, 0.4, 0.5, 0.99)] == [1, 1, 2, 2]
    assert gradient_dormant(1e-12 * grad, 0.5) == 2, "the scale of the loss does not matter"
    assert gradient_dormant(grad[:, :, None, None].expand(4, 2, 3, 3), 0.5) == 2
    assert gradient_dormant(grad[torch.tensor([2, 0, 3, 1])], 0.5) == 2
    assert gradient_dormant(torch.zeros(3, 2), 0.01) == 3
    for bad in (math.nan, math.inf):
        assert gradient_dormant(torch.tensor([[bad, 1.0], [1.0, 1.0]]), 0.5) is None
    with pytest.raises(UserError, match="tau of the grama metric"):
        Grama(tau=1.0)


# ---------------------------------------------------------------- decisions


@EVERY
def test_churn_against_numpy(agent):
    learner, probe = learnt(agent)
    found = PolicyChurn().compute(probe)
    (name,) = found
    net = next(n for n in probe.nets if n.name == name)
    assert name in {"actor", "shared", "q"}
    outputs = []
    for params in (net.anchors["update"], net.params):
        local = {k.split("/", 1)[1]: v for k, v in params.items()}
        with torch.no_grad():
            (out,) = (v for k, v in learner.networks[name](net.inputs, local).items() if k != "value")
        outputs.append(numbers(out))
    before, now = outputs
    if agent == "c51":
        a = learner.agent
        z = np.linspace(a.v_min, a.v_max, a.atoms)
        before, now = (
            (np.exp(x.reshape(len(x), -1, a.atoms)) * z).sum(-1)
            / np.exp(x.reshape(len(x), -1, a.atoms)).sum(-1)
            for x in outputs
        )
    if agent == "td3":
        expected = np.abs(np.tanh(now) - np.tanh(before)).mean() / 2
    elif agent == "ppo continuous":
        expected = (np.abs(now - before) / np.exp(numbers(net.anchors["update"]["actor/log_std"]))).mean()
    else:
        expected = (now.argmax(1) != before.argmax(1)).mean()
    assert found[name] == pytest.approx(expected, rel=1e-5)
    assert np.abs(now - before).max() > 0


def test_churn_by_hand():
    a, b = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])
    assert churn(a, b, None) == churn(b, a, None) == 0.5
    assert churn(a, a, None) == 0.0
    mu, old = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert churn(mu, old, torch.tensor([0.5, 9.0])) == pytest.approx(0.5)
    assert math.isnan(churn(mu * math.nan, old, torch.ones(2)))


def test_a_network_that_has_blown_up_has_no_greedy_action(monkeypatch):
    _, probe = learnt("pqn")
    net = probe.nets[0]
    monkeypatch.setitem(net.outputs, "q", net.outputs["q"] * math.nan)
    assert math.isnan(PolicyChurn().compute(probe)["q"])


def test_networks_that_do_not_decide_and_probes_without_a_learner_have_no_churn(make_net):
    assert set(PolicyChurn().compute(learnt("td3")[1])) == {"actor"}
    assert PolicyChurn().compute(Probe((make_net(),))) == {}


# ---------------------------------------------------------------- steps


@pytest.mark.parametrize("agent", ["ppo images", "td3"])
def test_update_to_weight_against_numpy(agent):
    _, probe = learnt(agent)
    metric = UpdateToWeight()
    for net in probe.nets:
        weights = [k for k in net.params if k.endswith(".weight")]
        pairs = {k: (numbers(net.params[k]), numbers(net.anchors["update"][k])) for k in weights}
        layers = metric.layers(probe)[net.name]
        assert set(layers) == {k.split("/", 1)[1].removesuffix(".weight") for k in weights}
        for k, (now, before) in pairs.items():
            expected = np.linalg.norm(now - before) / np.linalg.norm(before)
            assert layers[net.layer_of(k)] == pytest.approx(expected, rel=1e-9)
        moved = math.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs.values()))
        length = math.sqrt(sum(np.sum(b**2) for _, b in pairs.values()))
        assert metric.compute(probe)[net.name] == pytest.approx(moved / length, rel=1e-9)


def test_relative_change_and_rotation_by_hand():
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert relative_change([(a, b)]) == pytest.approx(5 / 4)
    assert relative_change([(1e-20 * a, 1e-20 * b)]) == pytest.approx(5 / 4)
    assert relative_change([(a, b), (b, b)]) == pytest.approx(5 / math.sqrt(32))
    assert relative_change([(a, a)]) == 0.0
    assert relative_change([(a, 0 * a)]) is None
    assert relative_change([]) is None
    assert math.isnan(relative_change([(a * math.nan, b)]))
    assert rotation(a, b) == pytest.approx(math.pi / 2)
    assert rotation(a, -7 * a) == pytest.approx(math.pi)
    assert rotation(a, 5 * a) == 0.0
    assert rotation(a, 0 * a) is None
    assert math.isnan(rotation(a, b / 0.0))
    small = torch.tensor([[3.0, 3e-12]], dtype=torch.float64)
    assert rotation(small, a) == pytest.approx(1e-12, rel=1e-6), "an arc cosine would say 0"


def test_effective_rate_of_normalised_layers_only():
    learner, probe = learnt("pqn", "layer_norm")
    (net,) = probe.nets
    rate, turned = EffectiveRate(of="rate"), EffectiveRate(of="rotation")
    assert set(rate.layers(probe)["q"]) == set(turned.layers(probe)["q"]) == {"body.0", "body.1"}
    expected, angles = [], []
    for layer in ("body.0", "body.1"):
        now, before = (numbers(p[f"q/{layer}.weight"]).ravel() for p in (net.params, net.anchors["update"]))
        expected.append(learner.agent.lr / np.linalg.norm(now))
        angles.append(np.arccos(now @ before / np.linalg.norm(now) / np.linalg.norm(before)))
    assert rate.compute(probe)["q"] == pytest.approx(np.mean(expected), rel=1e-9)
    assert turned.compute(probe)["q"] == pytest.approx(np.mean(angles), rel=1e-4)
    assert 0 < np.mean(angles) < 1
    assert list(turned.layers(probe)["q"].values()) == pytest.approx(angles, rel=1e-4)
    for metric in (rate, turned):
        assert metric.compute(learnt("pqn")[1]) == {}
    with pytest.raises(UserError, match="of of the effective rate metric"):
        EffectiveRate(of="rates")


# ---------------------------------------------------------------- optimizers


@pytest.mark.parametrize(
    ("agent", "methods"),
    [("ppo", ()), ("td3", ()), ("pqn", ()), ("ppo", ("trac",)), ("c51", ("adam_rel",)), ("ppo", ("cbp",))],
)
def test_second_moments_against_the_optimizers_state(agent, methods):
    learner, probe = learnt(agent, *methods)
    assert set(probe.second_moments) == set(learner.state.params)
    roots: dict[str, list[np.ndarray]] = {}
    for state in learner.state.opt.values():
        for name in learner.state.params:
            if f"exp_avg_sq/{name}" not in state:
                continue
            v = numbers(state[f"exp_avg_sq/{name}"])
            if f"step/{name}" in state:
                correction = 1 - 0.999 ** float(state[f"step/{name}"])
            else:
                correction = numbers(state[f"element_c2/{name}"])
            roots.setdefault(name.split("/")[0], []).append(np.sqrt(v / correction).ravel())
    means, shares = (AdamSecondMoment(of=of).compute(probe) for of in ("root", "below_eps"))
    assert set(means) == set(roots)
    for net, parts in roots.items():
        root = np.concatenate(parts)
        assert means[net] == pytest.approx(root.mean(), rel=1e-5)
        assert shares[net] == pytest.approx((root < learner.agent.adam_eps).mean(), abs=2 / len(root))
        assert means[net] > 0
    layers = AdamSecondMoment(of="root").layers(probe)
    assert {k.split("/")[0] for k in learner.state.params} == set(layers)


def test_an_adam_that_counts_entry_by_entry_says_the_same_as_adam():
    start = {"a": torch.randn(4, 3), "b": torch.randn(3)}
    found = []
    for kind in (Adam, ElementAdam):
        params = {k: v.clone() for k, v in start.items()}
        optimizer = kind(betas=(0.9, 0.99), eps=1e-5)
        optimizer.bind(params)
        assert optimizer.second_moments() == {}
        for i in range(3):
            optimizer.step([torch.full_like(p, i - 0.5) for p in params.values()], 1e-3)
        found.append(optimizer.second_moments())
    for name in start:
        torch.testing.assert_close(found[0][name].value, found[1][name].value)
        mean = (0.01 * (0.99**2 * 0.25 + 0.99 * 0.25 + 2.25)) / (1 - 0.99**3)
        torch.testing.assert_close(found[0][name].value, torch.full_like(start[name], mean))
        assert found[0][name].eps == found[1][name].eps == 1e-5


def test_an_optimizer_without_second_moments_and_a_parameter_never_updated_have_no_value():
    assert AdamSecondMoment(of="root").compute(learnt("ppo", "kron")[1]) == {}
    config = tiny_config({})
    learner = assemble_parts(config).learner
    assert learner.laboratory(1).second_moments() == {}


# ---------------------------------------------------------------- values


def test_explained_variance_of_minibatches_against_numpy():
    for agent in ("td3", "c51"):
        learner, probe = learnt(agent)
        with torch.no_grad():
            if agent == "td3":
                batch = probe.lab.batches["critic"]
                v = learner.networks["critic.0"](batch.pairs)["value"][:, 0]
                r = numbers(batch.targets)
            else:
                batch, a = probe.lab.batches["update"], learner.agent
                logits = learner.networks["q"](batch.obs)["atoms"].view(len(batch.obs), -1, a.atoms)
                z = torch.linspace(a.v_min, a.v_max, a.atoms)
                v = (logits.softmax(-1) * z).sum(-1)[range(len(batch.obs)), batch.actions]
                r = numbers((batch.targets * z).sum(-1))
        expected = 1 - np.var(r - numbers(v)) / np.var(r)
        assert ExplainedVariance().compute(probe)[""] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_explained_variance_by_hand():
    r = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(r, r) == explained_variance(r - 7, r) == 1.0
    assert explained_variance(torch.zeros(4), r) == pytest.approx(0.0)
    assert explained_variance(-r, r) == pytest.approx(-3.0)
    assert math.isnan(explained_variance(r, torch.ones(4)))
    assert math.isnan(explained_variance(r * math.nan, r))


def test_what_the_agent_reports_comes_first():
    _, probe = learnt("ppo")
    assert ExplainedVariance().compute(probe) == {"": probe.scalars["explained_variance"]}
    assert ExplainedVariance().compute(Probe((), {})) == {}


# ---------------------------------------------------------------- before the first step, and with broken weights

LATE = [
    Grama(tau=0.01),
    AdamSecondMoment(of="root"),
    EffectiveRate(of="rate"),
    ExplainedVariance(),
    PolicyChurn(),
]


def test_before_the_first_optimizer_step():
    config = tiny_config({}, agent_name="c51")
    config["agent"]["learning_starts"] = 64
    parts = assemble_parts(config)
    learner, collector = parts.learner, parts.collector
    keep = Keep()
    watch = Measurement(learner, {"keep": keep}, every=1, probe_size=32)
    collector.enter(parts.level.enter(parts.level.tasks()[0], 0), 0, switch=False)
    watch.anchor("update")
    collector.collect(learner.agent.collect_steps)
    learner.agent.prepare(collector.obs)
    learner.learn(0.0)
    watch.take({}, iteration=1, env_steps=8, task_end=False)
    assert [m.compute(keep.probe) for m in LATE] == [{}, {}, {}, {}, {"q": 0.0}]
    assert GradientNorm().layers(keep.probe) == {}


def test_minibatches_are_kept_only_if_a_metric_wants_them():
    class Careless(Keep):
        needs_batch = False

    parts = assemble_parts(tiny_config({}))
    careless = Careless()
    watch = Measurement(parts.learner, {"careless": careless}, every=1, probe_size=8)
    parts.collector.enter(parts.level.enter(parts.level.tasks()[0], 0), 0, switch=False)
    watch.anchor("update")
    parts.collector.collect(parts.learner.agent.collect_steps)
    parts.learner.agent.prepare(parts.collector.obs)
    parts.learner.learn(0.0)
    assert parts.learner.recent is None
    watch.take({}, iteration=1, env_steps=32, task_end=False)
    with pytest.raises(RuntimeError, match="needs_batch = True"):
        _ = careless.probe.gradients


def test_nothing_is_kept_after_a_measurement():
    learner, _ = learnt("ppo")
    assert learner.recent is None
