"""PQN against independent recomputations, and what it does with the ends of episodes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.agents.exploration import LinearEpsilon
from plasticine.agents.pqn import PQN, QMinibatch
from plasticine.agents.q_lambda import lambda_returns
from plasticine.api import configure
from plasticine.core.env import ActionSpec, EnvSpec, StepOut
from plasticine.core.learner import Learner
from plasticine.core.noise import Streams
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.build import build
from plasticine.networks.catalog import mlp
from plasticine.networks.spec import SlotConflict
from plasticine.testing import record, tiny_config
from tests.agents.test_learning import returns
from tests.agents.test_ppo import BODY, Script
from tests.methods import lab


def make_agent(**changes) -> PQN:
    node = configure("agent=pqn", "env=classic")["agent"]
    options = {k: v for k, v in node.items() if k != "_target_"}
    return PQN(**{**options, "num_steps": 12, "num_minibatches": 3, "epochs": 2, **changes})


def make_learner(agent: PQN, *, kind: str = "discrete", num_envs: int = 2, autoreset: str = "same_step"):
    env = EnvSpec("test/env", (5,), "float32", ActionSpec(kind, 3), num_envs, None, autoreset)  # type: ignore[arg-type]
    learner = Learner.build(
        agent=agent,
        methods=(),
        env=env,
        body=mlp(**BODY),
        build_network=build,
        merge_anatomies=Anatomy.merge,
        streams=Streams(0),
        device=torch.device("cpu"),
    )
    return learner, env


def numpy_q(learner: Learner, x: np.ndarray) -> np.ndarray:
    """Action values: tanh layers, normalised before the non-linearity."""
    p = {k.split("/", 1)[1]: v.detach().double().numpy() for k, v in learner.state.params.items()}
    for i in range(2):
        z = x @ p[f"body.{i}.weight"].T + p[f"body.{i}.bias"]
        z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
        x = np.tanh(z * p[f"body.{i}.norm_scale"] + p[f"body.{i}.norm_offset"])
    return x @ p["head.q.weight"].T + p["head.q.bias"]


def recursion(rewards, following, terminated, done, gamma, lam):
    """Targets by the recurrence of the paper, backwards in time."""
    out = np.zeros_like(rewards)
    steps = len(rewards)
    for t in reversed(range(steps)):
        later = following[t].copy()
        if t + 1 < steps:
            later = np.where(done[t], later, (1 - lam) * later + lam * out[t + 1])
        out[t] = rewards[t] + gamma * np.where(terminated[t], 0.0, later)
    return out


@pytest.mark.parametrize("next_step", [False, True])
@pytest.mark.parametrize("lam", [0.0, 0.65, 1.0])
def test_rollout_becomes_the_right_targets(next_step, lam):
    agent = make_agent(q_lambda=lam, epsilon_start=0.5)
    learner, env = make_learner(agent, autoreset="next_step" if next_step else "same_step")
    s = Script(agent, env, next_step=next_step)
    best = lambda x: numpy_q(learner, x.astype(np.float64)).max(-1)  # noqa: E731
    following = np.where(s.truncated, best(s.final), best(s.obs[1:]))
    done = s.terminated | s.truncated
    expected = recursion(s.rewards.astype(np.float64), following, s.terminated, done, agent.gamma, lam)
    keep = s.valid.flatten()
    data = agent._data
    np.testing.assert_allclose(data.targets.numpy(), expected.flatten()[keep], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(data.actions.numpy(), np.stack(s.actions).flatten()[keep])
    np.testing.assert_array_equal(data.obs.numpy(), s.obs[:-1].reshape(-1, 5)[keep])
    assert (not next_step) == bool(keep.all())


def test_lambda_zero_is_one_step_and_lambda_one_is_monte_carlo():
    g = torch.Generator().manual_seed(0)
    rewards, values, following = (torch.randn(6, 1, generator=g, dtype=torch.float64) for _ in range(3))
    following[:-1] = values[1:]
    never = torch.zeros(6, 1, dtype=torch.bool)
    target = lambda end, cut, lam: lambda_returns(  # noqa: E731
        rewards, values, following, end, end | cut, 0.9, lam
    )
    one = target(never, never, 0.0)
    assert torch.allclose(one, rewards + 0.9 * following)
    sums = target(never, never, 1.0)
    discounts = 0.9 ** torch.arange(7, dtype=torch.float64)
    whole = (rewards[:, 0] * discounts[:6]).sum() + discounts[6] * following[-1, 0]
    assert sums[0].item() == pytest.approx(whole.item())
    at_two = torch.arange(6)[:, None] == 2
    ended = target(at_two, never, 1.0)[0].item()
    assert ended == pytest.approx((rewards[:3, 0] * discounts[:3]).sum().item())
    cut = target(never, at_two, 1.0)[0].item()
    assert cut == pytest.approx(ended + (discounts[3] * following[2, 0]).item())


def test_loss_equals_numpy():
    agent = make_agent()
    learner, _ = make_learner(agent)
    with torch.no_grad():
        for p in learner.state.params.values():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    rng = np.random.default_rng(3)
    obs, actions, targets = rng.normal(size=(64, 5)), rng.integers(0, 3, 64), rng.normal(size=64)
    q = numpy_q(learner, obs)[np.arange(64), actions]
    batch = QMinibatch(torch.tensor(obs).float(), torch.tensor(actions), torch.tensor(targets).float())
    loss, aux = agent.loss("update", batch)
    assert loss.item() == pytest.approx(0.5 * ((q - targets) ** 2).mean(), rel=1e-4)
    names = dict(zip(agent.phases()[0].aux, aux, strict=True))
    assert names["td_loss"].item() == loss.item()
    assert names["q_value"].item() == pytest.approx(q.mean(), rel=1e-3)
    assert "policy_entropy" not in names


def test_batches_visit_every_row_once_per_epoch():
    agent = make_agent(anneal_lr=True, lr=0.1)
    _, env = make_learner(agent)
    Script(agent, env, next_step=False)
    found = list(agent.batches(0.25))
    assert len(found) == agent.updates_per_iteration(env) == 6
    assert [lr for _, lr, _ in found] == pytest.approx([0.075] * 6)
    rows = agent._data.targets.sort().values
    epochs = [torch.cat([b.targets for _, _, b in part]) for part in (found[:3], found[3:])]
    assert all(torch.equal(e.sort().values, rows) for e in epochs)
    assert not torch.equal(*epochs)


def actions_taken(agent: PQN, learner: Learner, steps: int) -> tuple[np.ndarray, int]:
    obs = np.full((1, 5), 0.3, np.float32)
    agent.begin_collect()
    taken = []
    for _ in range(steps):
        taken.append(int(agent.act(obs)[0]))
        no = np.zeros(1, bool)
        agent.record(StepOut(obs, np.zeros(1, np.float32), no, no, None), np.zeros(1), None, None)
    return np.array(taken), int(numpy_q(learner, obs.astype(np.float64)).argmax())


def test_actions_are_greedy_except_for_epsilon():
    steps = 4000
    agent = make_agent(num_steps=steps, epsilon_start=0.6, epsilon_end=0.0, epsilon_fraction=0.5)
    learner, _ = make_learner(agent, num_envs=1)
    taken, best = actions_taken(agent, learner, steps)
    others = [a for a in range(3) if a != best]
    for a in others:
        assert (taken == a).mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / steps))
    agent.load_state({"progress": 0.5})
    taken, best = actions_taken(agent, learner, steps)
    assert (taken == best).all()


def test_epsilon_falls_linearly_and_stays():
    epsilon = LinearEpsilon(start=1.0, end=0.1, fraction=0.5)
    assert [epsilon.at(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_layer_norm_can_be_switched_off_and_leaves_other_normalisations_alone():
    norms = lambda **changes: [  # noqa: E731
        layer.norm
        for layer in make_agent(**changes)
        .networks(
            EnvSpec("e", (5,), "float32", ActionSpec("discrete", 2), 1),
            (*mlp(**BODY), *mlp(**{**BODY, "norm": "rms_norm"})),
        )[0]
        .body
    ]
    assert norms() == ["layer_norm", "layer_norm", "rms_norm", "rms_norm"]
    assert norms(layer_norm=False) == [None, None, "rms_norm", "rms_norm"]
    net = make_agent().networks(EnvSpec("e", (5,), "float32", ActionSpec("discrete", 2), 1), mlp(**BODY))[0]
    with pytest.raises(SlotConflict, match=r"agent\.layer_norm"):
        net.set_hidden("rms_norm", norm="rms_norm")


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match="discrete actions") as refusal:
        make_learner(make_agent(), kind="continuous")
    assert "for continuous actions" in refusal.value.fix
    with pytest.raises(UserError, match="cannot be split into 25 minibatches"):
        make_learner(make_agent(num_minibatches=25))
    for change in ({"epsilon_start": 1.5}, {"epsilon_fraction": 0.0}, {"q_lambda": 1.1}, {"epochs": 0}):
        with pytest.raises(UserError, match=f"agent.{next(iter(change))}="):
            make_agent(**change)


def pqn(**agent):
    return tiny_config({}, agent_name="pqn", agent={"layer_norm": True, "epsilon_fraction": 0.9, **agent})


def test_same_seed_same_run_and_an_interrupted_run_continues_bit_by_bit(tmp_path):
    whole, again = record(pqn()), record(pqn())
    assert all(torch.equal(v, again.params[k]) for k, v in whole.params.items())
    record(pqn(), folder=tmp_path, stop_after=5)
    rest = record(pqn(), folder=tmp_path)
    assert all(torch.equal(v, rest.params[k]) for k, v in whole.params.items())
    trained = {k for a, b in whole.learnt for k in a if not torch.equal(a[k], b[k])}
    assert trained == set(whole.params)
    other = record({**pqn(), "seed": 1})
    assert not torch.equal(other.params["q/body.0.weight"], whole.params["q/body.0.weight"])


def test_images_stay_bytes_until_they_are_learnt_from():
    agent = lab.parts({}, experience=True, agent_name="pqn", network_name="impala").learner.agent
    assert agent._data.obs.dtype == torch.uint8
    _, _, batch = next(iter(agent.batches(0.0)))
    assert batch.obs.dtype == torch.float32
    assert 0.1 < batch.obs.max() <= 1.0


def test_cartpole_is_learnt():
    r = returns("agent=pqn", "env.domain=cartpole", "env.steps_per_task=40000")
    assert r[:20].mean() < 50
    assert r[-10:].mean() > 200
