"""Observers are shown the very activations and gradients of the step, and cost nothing when there are none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from plasticine.core.method import Method
from plasticine.errors import UserError
from plasticine.testing import method_nodes, record, tiny_config
from tests.methods import lab

LOOKED: list[dict[str, Any]] = []


class Looks(Method):
    """Keeps copies of what it is shown."""

    def __init__(self, *, units: bool, **common: Any) -> None:
        super().__init__(**common)
        self.unit_gradients = units

    def observe(self, seen, slot, generator):
        assert not torch.is_grad_enabled()
        LOOKED.append(
            {
                "params": {k: v.detach().clone() for k, v in seen.params.items()},
                "grads": {k: v.clone() for k, v in seen.grads.items()},
                "sites": {n: [s._replace(pre=s.pre.clone(), post=s.post.clone()) for s in sites]
                          for n, sites in seen.sites.items()},
                "unit_grads": {n: [g.clone() for g in grads] for n, grads in seen.unit_grads.items()},
                "attached": [t.requires_grad for sites in seen.sites.values() for s in sites for t in s[1:3]],
            }
        )  # fmt: skip


def looks(scope=("*",), units=False):
    target = {"_target_": "tests.core.test_observe.Looks", "scope": list(scope), "when": [], "units": units}
    return {"looks": target}


@dataclass
class Step:
    """One update of a learner, with what was known before and after it."""

    p: Any
    phase: str
    batch: Any
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    looked: dict[str, Any] | None = field(default=None)


def steps(methods, count=1, **config):
    """The first updates of a learner."""
    LOOKED.clear()
    p = lab.parts(methods, experience=True, **config)
    taken = []
    while len(taken) < count:
        for phase, lr, batch in p.learner.agent.batches(0.0):
            before, seen = lab.params(p), len(LOOKED)
            p.learner.updates[phase](batch, lr)
            looked = LOOKED[seen] if len(LOOKED) > seen else None
            taken.append(Step(p, phase, batch, before, lab.params(p), looked))
            if len(taken) == count:
                break
        else:
            lab.collect(p)
    return taken


def recomputed(step, units=False):
    """Loss gradients and activations at the parameters before the step, on the batch of the step."""
    state, agent = step.p.learner.state, step.p.learner.agent
    nets = {k.split("/", 1)[0] for k in step.looked["params"]}
    with torch.no_grad():
        for name, value in step.before.items():
            state.params[name].copy_(value)
    names = [k for k in state.params if k.split("/", 1)[0] in nets]
    loss, _ = agent.loss(step.phase, step.batch)
    grads = torch.autograd.grad(
        loss, [state.params[k] for k in names], allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, grads, strict=True))


@pytest.mark.parametrize("network", ["mlp", "nature_cnn", "impala"])
@pytest.mark.parametrize("shared", [False, True])
def test_observers_see_the_activations_and_raw_gradients_of_the_step(network, shared):
    (step,) = steps(looks(), network_name=network, shared=shared, agent={"max_grad_norm": 1e-3})
    looked = step.looked
    assert set(looked["sites"]) == ({"shared"} if shared else {"actor", "critic"})
    assert not any(looked["attached"])
    for name, value in recomputed(step).items():
        torch.testing.assert_close(looked["grads"][name], value, rtol=1e-5, atol=1e-8)
    for net, sites in looked["sites"].items():
        with torch.no_grad():
            captured = step.p.learner.networks[net].capture(step.batch.obs).sites
        assert [s.name for s in sites] == [s.name for s in captured]
        for mine, theirs in zip(sites, captured, strict=True):
            torch.testing.assert_close(mine.pre, theirs.pre)
            torch.testing.assert_close(mine.post, theirs.post)
            assert (mine.act, mine.expansion) == (theirs.act, theirs.expansion)
    assert all(torch.equal(looked["params"][k], step.after[k]) for k in looked["params"])
    assert not all(torch.equal(step.before[k], step.after[k]) for k in step.before)


@pytest.mark.parametrize("network", ["mlp", "impala"])
def test_gradients_of_units(network):
    """Summed over rows (and positions), the gradient of a pre-activation is that of its bias."""
    (step,) = steps(looks(units=True), network_name=network, shared=True)
    looked = step.looked
    groups = {g.site: g for g in step.p.learner.anatomy.units}
    checked = 0
    for site, grad in zip(looked["sites"]["shared"], looked["unit_grads"]["shared"], strict=True):
        assert grad.shape == site.pre.shape
        group = groups[site.name]
        if not group.residual:
            others = [d for d in range(grad.dim()) if d != 1]
            torch.testing.assert_close(grad.sum(others), looked["grads"][group.bias], rtol=1e-4, atol=1e-7)
            checked += 1
    assert checked >= 2


def test_asking_for_gradients_of_units_does_not_change_those_of_parameters():
    runs = [
        record(tiny_config(m, shared=True, network_name="impala")) for m in ({}, looks(), looks(units=True))
    ]
    for other in runs[1:]:
        for mine, theirs in zip(runs[0].iterations, other.iterations, strict=True):
            assert all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_with_two_phases_each_network_is_shown_when_it_is_trained():
    """The actor's loss evaluates a critic too: that is not among the critic's statistics."""
    taken = steps(looks(), 5, agent_name="td3", actions="continuous")
    phases = {s.phase for s in taken}
    assert phases == {"critic", "actor"}
    for step in taken:
        nets = {"actor"} if step.phase == "actor" else {"critic.0", "critic.1"}
        assert set(step.looked["sites"]) == nets
        for net in nets:
            inputs = step.batch.obs if net == "actor" else step.batch.pairs
            assert step.looked["sites"][net][0].pre.shape[0] == len(inputs)


def test_an_observer_sees_its_scope_only():
    (step,) = steps(looks(["critic/body.0.*"]))
    assert set(step.looked["sites"]) == {"critic"}
    assert set(step.looked["grads"]) == {"critic/body.0.weight", "critic/body.0.bias"}


def test_frozen_copies_and_foreign_parameters_are_not_seen():
    p = lab.parts({**lab.nodes("plasticity_injection"), **looks()}, experience=True, shared=True)
    lab.act(p, "plasticity_injection")
    network = p.learner.networks["shared"]
    assert network.active == 2
    tap = network.tap()
    x = lab.observations(6)
    tap.begin()
    network(x, {k: v.detach() for k, v in network.params.items()})
    assert tap.end() == ()
    tap.begin()
    network(x)
    network(2 * x)
    sites = tap.end()
    assert [s.name for s in sites] == ["body.0", "body.1"]
    torch.testing.assert_close(sites[1].post, torch.cat((network.capture(x).sites[1].post,
                                                         network.capture(2 * x).sites[1].post)))  # fmt: skip
    network(x)
    tap.begin()
    assert tap.end() == (), "only what happens in between is seen"


def test_sharpness_aware_steps_show_the_gradient_that_is_used():
    (step,) = steps({**lab.nodes("sam", rho=0.5), **looks()}, agent={"max_grad_norm": None})
    raw = recomputed(step)
    assert not all(torch.allclose(step.looked["grads"][k], raw[k], rtol=1e-3) for k in raw)


def test_activations_do_not_outlive_the_step():
    p = lab.parts(looks(units=True), experience=True)
    lab.learn(p)
    watches = [c.cell_contents for c in p.learner.updates["update"].__closure__ or ()]
    (watch,) = [w for w in watches if type(w).__name__ == "Watch"]
    assert watch.sites == {}
    assert watch.unit_grads == {}


def test_untapped_networks_run_the_bare_layers():
    p = lab.parts(method_nodes("vanilla"))
    network = p.learner.networks["actor"]
    bare = [layer.fn for layer in network._layers]
    assert [fn for fn, _ in network._trunk + network._tail] == bare
    before = network(lab.observations(5))["policy"]
    assert network.tap() is network.tap()
    assert torch.equal(network(lab.observations(5))["policy"], before)


def test_a_compiled_loss_does_not_reveal_gradients_of_units():
    config = tiny_config(looks(units=True))
    config["compute"]["compile"] = True
    with pytest.raises(UserError, match="does not reveal"):
        record(config)
