from __future__ import annotations

import copy

import pytest
import torch

from plasticine.compose import assemble_parts
from plasticine.errors import UserError
from plasticine.testing import record, tiny_config
from tests.methods import lab

NAME = "plasticity_injection"
X = lab.observations(100)


def built(depth=2, injections=3, **kw):
    changes = {k: kw.pop(k) for k in ("scope", "when") if k in kw}
    method = lab.nodes(NAME, depth=depth, max_injections=injections, **changes)
    return lab.parts({**method, **kw.pop("others", {})}, **kw)


def randomise(p, seed=0):
    """Trained-looking parameters: no tensor equal to what a fresh draw would give, no zero bias."""
    generator = torch.Generator().manual_seed(seed)
    for v in p.learner.state.params.values():
        v.data.add_(0.3 * torch.randn(v.shape, generator=generator))


def trunk_gradient(p, net="shared"):
    network = p.learner.networks[net]
    names = [k for k in network.params if k.startswith("body.0")]
    loss = sum((y - 0.3).square().sum() for y in network(X).values())
    return torch.autograd.grad(loss, [network.params[k] for k in names])


@pytest.mark.parametrize("others", [{}, lab.nodes("layer_norm")], ids=["plain", "layer_norm"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
def test_output_and_gradient_before_the_tail_are_unchanged(depth, shared, others):
    p = built(depth, shared=shared, others=others)
    net = "shared" if shared else "critic"
    for injection in range(3):
        randomise(p, injection)
        outputs, gradient, params = lab.outputs(p, X), trunk_gradient(p, net), lab.params(p)
        lab.act(p, NAME)
        for key, value in lab.outputs(p, X).items():
            torch.testing.assert_close(value, outputs[key], rtol=1e-5, atol=2e-6)
        for new, old in zip(trunk_gradient(p, net), gradient, strict=True):
            torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4 * float(old.abs().max()))
        after = lab.params(p)
        tail = ("head.", "body.1.") if depth == 2 else ("head.",)
        for name in after:
            in_tail = name.split("/")[1].startswith(tail)
            assert torch.equal(after[name], params[name]) != in_tail, name


def test_the_parts_by_hand():
    """live = fresh draw, first copy = old tail (+), second copy = the same fresh draw (-)."""
    p = built(shared=True)
    randomise(p)
    before = lab.params(p)
    lab.act(p, NAME)
    net = p.learner.networks["shared"]
    assert net.active == 2
    assert net.signs.tolist() == [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]
    for local in net.frozen[0]:
        assert torch.equal(net.frozen[0][local], before[f"shared/{local}"])
        assert torch.equal(net.frozen[1][local], net.params[local].detach())
    spread = net.params["body.1.weight"].detach().square().sum(1)
    torch.testing.assert_close(spread, torch.full((8,), 2.0))  # rows of an orthogonal draw of gain sqrt(2)
    lab.act(p, NAME)
    assert net.active == 4
    assert not torch.equal(net.frozen[1]["body.1.weight"], net.frozen[3]["body.1.weight"])


def test_linear_tails_are_folded_into_one_copy():
    p = built(1, shared=True)
    net = p.learner.networks["shared"]
    total = torch.zeros_like(net.params["head.value.weight"], requires_grad=False, dtype=torch.float64)
    for i in range(4):
        randomise(p, i)
        total += net.params["head.value.weight"].detach().double()
        lab.act(p, NAME)
        total -= net.params["head.value.weight"].detach().double()
        assert (len(net.frozen), net.active, net.signs.tolist()) == (1, 1, [1.0])
    torch.testing.assert_close(net.frozen[0]["head.value.weight"].double(), total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2])
def test_only_the_new_tail_and_the_trunk_learn_afterwards(depth):
    p = built(depth, experience=True, actions="continuous")
    plain = lab.parts({}, actions="continuous")
    lab.learn(p)
    lab.act(p, NAME)
    frozen = {k: v.clone() for k, v in p.learner.state.frozen.items()}
    before = lab.params(p)
    lab.learn(p, 2)
    assert all(torch.equal(v, frozen[k]) for k, v in p.learner.state.frozen.items())
    assert not any(v.requires_grad for v in p.learner.state.frozen.values())
    after = lab.params(p)
    assert not [k for k in after if torch.equal(after[k], before[k])]
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in lab.params(plain).items()}
    assert p.learner.state.opt["update"].keys() == plain.learner.state.opt["update"].keys()


def test_the_clipped_norm_is_that_of_the_trained_tensors():
    p = built(experience=True, agent={"max_grad_norm": None})
    lab.act(p, NAME)
    phase, lr, batch = next(iter(p.learner.agent.batches(0.0)))
    loss, _ = p.learner.agent.loss(phase, batch)
    grads = torch.autograd.grad(loss, list(p.learner.state.params.values()))
    expected = sum(float(g.double().square().sum()) for g in grads) ** 0.5
    p.learner.updates[phase](batch, lr)
    assert p.learner.flush()["grad_norm"] == pytest.approx(expected, rel=1e-5)


def test_moments_of_the_new_tail_start_at_zero_and_others_are_kept():
    p = built(experience=True, shared=True)
    lab.learn(p)
    before = {k: v.clone() for k, v in p.learner.state.opt["update"].items()}
    lab.act(p, NAME)
    for key, value in p.learner.state.opt["update"].items():
        new = key.split("/")[2].startswith(("head.", "body.1."))
        assert torch.equal(value, torch.zeros_like(value) if new else before[key]), key


def test_slow_copies_of_the_tail_take_the_same_values():
    p = built(shared=True)
    state = p.learner.state
    state.targets.update({k: v.detach().clone() for k, v in state.params.items()})
    randomise(p)
    trunk = state.targets["shared/body.0.weight"].clone()
    lab.act(p, NAME)
    for local in p.learner.networks["shared"].frozen[0]:
        assert torch.equal(state.targets[f"shared/{local}"], state.params[f"shared/{local}"].detach())
    assert torch.equal(state.targets["shared/body.0.weight"], trunk)


def test_scope_selects_networks():
    p = built(scope=["critic/*"])
    actor = {k: v for k, v in lab.params(p).items() if k.startswith("actor")}
    assert lab.act(p, NAME) == {"networks": 1.0, "copies": 2.0}
    assert all(torch.equal(lab.params(p)[k], v) for k, v in actor.items())
    assert not p.learner.networks["actor"].frozen
    with pytest.raises(UserError, match="only a part of the tail"):
        built(scope=["*/head.*"])
    assert lab.act(built(1, scope=["*/head.*"]), NAME)["networks"] == 2.0


def test_fires_in_the_middle_of_the_run_by_default():
    run = record(tiny_config(lab.nodes(NAME)))
    wrote = [i for i, names in enumerate(run.overwritten, 1) if names]
    assert wrote == [4]
    assert [int(t["frozen:actor/frozen.active"]) for t in run.iterations] == [0] * 3 + [2] * 6


def test_refuses_more_injections_than_allocated_before_the_run():
    at_every_switch = {"when": {"on": "task_switch"}}
    built(injections=2, **at_every_switch)
    built(1, injections=1, **at_every_switch)
    with pytest.raises(UserError, match="max_injections=2"):
        built(injections=1, **at_every_switch)
    p = built(injections=1)
    lab.act(p, NAME)
    before = copy.deepcopy(lab.params(p))
    with pytest.raises(UserError, match="used up"):
        lab.act(p, NAME)
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())
    config = tiny_config(lab.nodes(NAME, **at_every_switch))
    config["env"]["num_tasks"] = 1
    with pytest.raises(UserError, match="never acts"):
        assemble_parts(config)
