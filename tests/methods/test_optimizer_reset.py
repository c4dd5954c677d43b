from __future__ import annotations

import pytest
import torch

from plasticine.errors import UserError
from plasticine.testing import record, tiny_config
from tests.methods import lab


def trained(methods, **config):
    p = lab.parts(methods, experience=True, **config)
    lab.learn(p)
    return p


def fresh_state(methods, **config):
    return lab.parts(methods, **config).learner.state.opt


@pytest.mark.parametrize("agent", ["ppo", "pqn"])
def test_state_is_that_of_a_new_optimizer_and_parameters_stay(agent):
    p = trained(lab.nodes("optimizer_reset"), agent_name=agent)
    new, before = fresh_state(lab.nodes("optimizer_reset"), agent_name=agent), lab.params(p)
    assert any(not torch.equal(v, new["update"][k]) for k, v in p.learner.state.opt["update"].items())
    assert lab.act(p, "optimizer_reset") == {"tensors": float(len(before))}
    for key, value in p.learner.state.opt["update"].items():
        assert torch.equal(value, new["update"][key]), key
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())


def test_every_kind_of_tensor_is_reached():
    p = trained({**lab.nodes("optimizer_reset"), **lab.nodes("layer_norm")}, actions="continuous")
    lab.act(p, "optimizer_reset")
    state = p.learner.state.opt["update"]
    for name in ("actor/log_std", "actor/body.0.norm_scale", "critic/head.value.bias"):
        assert float(state[f"step/{name}"]) == 0.0
        assert not state[f"exp_avg/{name}"].any()


def test_state_out_of_scope_stays():
    p = trained(lab.nodes("optimizer_reset", scope=["*/head.*"]))
    before = {k: v.clone() for k, v in p.learner.state.opt["update"].items()}
    lab.act(p, "optimizer_reset")
    for key, value in p.learner.state.opt["update"].items():
        assert torch.equal(value, before[key]) == ("/head." not in key), key


def test_a_wrapper_begins_anew_where_the_parameters_stand():
    p = trained({**lab.nodes("trac", start=0.1), **lab.nodes("optimizer_reset")})
    lab.act(p, "optimizer_reset")
    state = p.learner.state.opt["update"]
    for name, value in lab.params(p).items():
        assert not state[f"trac_path/{name}"].any()
        assert torch.equal(state[f"trac_reference/{name}"], value)
        assert not state[f"exp_avg/{name}"].any()


def test_learning_goes_on_from_a_first_step():
    """After the reset one step is as long as a first one: the learning rate, for every entry with a gradient."""
    config = {"agent": {"lr": 1e-3, "adam_eps": 1e-12, "max_grad_norm": None}}
    p = trained(lab.nodes("optimizer_reset"), **config)
    lab.act(p, "optimizer_reset")
    before = lab.params(p)
    phase, lr, batch = next(iter(p.learner.agent.batches(0.0)))
    p.learner.updates[phase](batch, lr)
    moved = torch.cat([(v - before[k]).abs().flatten() for k, v in lab.params(p).items()])
    assert float(moved.max()) == pytest.approx(1e-3, rel=1e-3)
    assert float((moved > 0.99e-3).float().mean()) > 0.5


def test_acts_at_the_switch_of_tasks():
    run, base = record(tiny_config(lab.nodes("optimizer_reset"))), record(tiny_config({}))
    for i, ((_, mine), (_, theirs)) in enumerate(zip(run.learnt, base.learnt, strict=True)):
        assert all(torch.equal(v, theirs[k]) for k, v in mine.items()) == (i < 3)  # three iterations a task


def test_refuses_to_have_no_rule_and_unknown_tensors():
    with pytest.raises(UserError, match="no rule"):
        lab.parts(lab.nodes("optimizer_reset", when=[]))
    p = lab.parts(lab.nodes("optimizer_reset"))
    with pytest.raises(KeyError):
        p.learner.surgeon.forget("actor/nothing")
