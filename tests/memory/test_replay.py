"""The replay memory against a plain list of what really happened."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from plasticine.core.checkpoint import Checkpoints
from plasticine.core.env import ActionSpec, EnvSpec
from plasticine.errors import UserError
from plasticine.memory.replay import Replay

HOST = torch.device("cpu")


def make_spec(frames: int, num_envs: int, autoreset: str = "same_step") -> EnvSpec:
    shape, dtype = ((3,), "float32") if frames == 1 else ((frames, 2, 2), "uint8")
    return EnvSpec("test/env", shape, dtype, ActionSpec("discrete", 5), num_envs, None, autoreset)  # type: ignore[arg-type]


class World:
    """A scripted simulator that feeds a memory and keeps every transition in a list, oldest first."""

    def __init__(self, memory: Replay, spec: EnvSpec, frames: int, seed: int = 0, tells_final: bool = True):
        self.memory, self.spec, self.frames = memory, spec, frames
        self.tells_final = tells_final
        self.rng = np.random.default_rng(seed)
        self.truth: list[list[tuple]] = [[] for _ in range(spec.num_envs)]
        self.stored = self.dropped = 0
        self.resetting = np.zeros(spec.num_envs, bool)
        self.obs = np.stack([self.first() for _ in range(spec.num_envs)])

    def image(self):
        return self.rng.integers(0, 256, (1, 2, 2)).astype(np.uint8)

    def first(self):
        if self.frames == 1:
            return self.rng.normal(size=3).astype(np.float32)
        padding = self.rng.choice(["repeat", "zeros"])
        image = self.image()
        old = image if padding == "repeat" else np.zeros_like(image)
        return np.concatenate([old] * (self.frames - 1) + [image])

    def then(self, obs):
        return self.first() if self.frames == 1 else np.concatenate([obs[1:], self.image()])

    def step(self):
        n, m = self.spec.num_envs, self.memory
        m.observe(self.obs)
        action = self.rng.integers(0, 5, n)
        reward = self.rng.normal(size=n).astype(np.float32)
        kind = self.rng.choice(4, size=n, p=[0.8, 0.08, 0.08, 0.04])  # on, terminated, truncated, life lost
        kind[self.resetting] = 0
        after = np.stack([self.then(o) for o in self.obs])
        terminated, truncated, over = (kind == 1) | (kind == 3), kind == 2, (kind == 1) | (kind == 2)
        valid, final = None, None
        if self.spec.autoreset == "next_step":
            valid = ~self.resetting
            after[self.resetting] = np.stack([self.first() for _ in range(n)])[self.resetting]
            following, final = after, after
        else:
            following = np.where(
                over.reshape(-1, *[1] * (after.ndim - 1)), np.stack([self.first() for _ in range(n)]), after
            )
            if over.any() and self.tells_final:
                final = np.where(
                    over.reshape(-1, *[1] * (after.ndim - 1)), after, self.rng.integers(0, 9)
                ).astype(after.dtype)
        for i in range(n):
            if valid is not None and not valid[i]:
                continue
            if kind[i] == 2 and final is None:
                self.dropped += 1
                continue
            content = b"" if terminated[i] else after[i].tobytes()
            self.truth[i].append(
                (self.obs[i].tobytes(), int(action[i]), float(reward[i]), content, bool(terminated[i]))
            )
            self.stored += 1
        m.record(action, reward, terminated, truncated, final if over.any() else None, valid)
        self.resetting = over if self.spec.autoreset == "next_step" else self.resetting
        self.obs = following
        if self.rng.random() < 0.5:  # the end of a round
            m.observe(self.obs)

    def restart(self):
        self.obs = np.stack([self.first() for _ in range(self.spec.num_envs)])


def rows(t) -> list[tuple]:
    """Sampled transitions in the form of the list; what follows a terminated one does not matter."""
    return [
        (o.numpy().tobytes(), int(a), float(r), b"" if d else x.numpy().tobytes(), bool(d))
        for o, a, r, x, d in zip(*t, strict=True)
    ]


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
@pytest.mark.parametrize(("frames", "num_envs"), [(1, 1), (1, 3), (4, 1), (4, 3)])
@pytest.mark.parametrize("steps", [9, 60, 400])
def test_holds_exactly_the_latest_transitions(autoreset, frames, num_envs, steps):
    """Never filled, filled, and overwritten many times; with restarts in the middle of episodes."""
    spec = make_spec(frames, num_envs, autoreset)
    memory = Replay(spec, 100 * num_envs, frames=frames, device=HOST)
    w = World(memory, spec, frames)
    for t in range(steps):
        w.step()
        if t % 97 == 50:
            memory.observe(w.obs)
            w.restart()
    memory.observe(w.obs)
    held = rows(memory.distinct(10**6, torch.Generator().manual_seed(0), HOST))
    assert len(held) == len(set(held)) == memory.transitions
    assert memory.stored == w.stored
    least = 100 // 4 if frames > 1 else 100 // 2
    for lane in w.truth:  # the newest ones, without a gap
        mine = [row for row in lane if row in set(held)]
        assert mine == lane[-len(mine) :]
        assert len(mine) >= min(len(lane), least)
    assert set(held) <= {row for lane in w.truth for row in lane}
    drawn = rows(memory.sample(4000, torch.Generator().manual_seed(1), HOST))
    assert set(drawn) <= set(held)
    if steps == 60:
        assert set(drawn) == set(held)


@pytest.mark.parametrize("frames", [1, 4])
def test_writing_through_the_device_is_the_same(frames):
    """What is stored by tensor operations, as on another device, equals what is stored through shared memory."""
    spec = make_spec(frames, 3)
    draws = []
    for host in (True, False):
        memory = Replay(spec, 300, frames=frames, device=HOST)
        memory._host = memory._host if host else None
        w = World(memory, spec, frames)
        for _ in range(200):
            w.step()
        memory.observe(w.obs)
        draws.append(rows(memory.sample(200, torch.Generator().manual_seed(0), HOST)))
    assert draws[0] == draws[1]
    assert set(draws[1]) <= {row for lane in w.truth for row in lane}


def test_samples_are_uniform_over_unequal_environments():
    """Four standard errors around equal frequencies, although terminal slots are spread unevenly."""
    spec = make_spec(1, 2)
    memory = Replay(spec, 200, frames=1, device=HOST)
    none, rng = np.zeros(2, bool), np.random.default_rng(0)
    for _ in range(30):
        memory.observe(rng.normal(size=(2, 3)).astype(np.float32))
        cut = np.array([True, False])
        memory.record(np.zeros(2, int), rng.normal(size=2), none, cut, np.zeros((2, 3), np.float32), None)
    memory.observe(np.zeros((2, 3), np.float32))
    drawn = memory.sample(60_000, torch.Generator().manual_seed(0), HOST).rewards
    counts = np.unique(drawn.numpy(), return_counts=True)[1]
    assert len(counts) == memory.transitions == 60
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000)


def test_a_truncation_without_final_observation_is_not_stored():
    spec = make_spec(1, 2)
    memory = Replay(spec, 400, frames=1, device=HOST)
    w = World(memory, spec, 1, tells_final=False)
    for _ in range(150):
        w.step()
    memory.observe(w.obs)
    assert w.dropped > 5
    assert memory.stored == w.stored == 300 - w.dropped
    assert set(rows(memory.distinct(999, torch.Generator(), HOST))) == {r for lane in w.truth for r in lane}


def test_observations_given_twice_are_stored_once_and_changed_ones_follow_nothing():
    """A simulator that could not be restored begins anew between `observe` and the next step."""
    spec = make_spec(1, 1)
    memory = Replay(spec, 50, frames=1, device=HOST)
    none = np.zeros(1, bool)
    a, b, c, d = (np.full((1, 3), v, np.float32) for v in (1, 2, 3, 4))
    for before, after in ((a, b), (c, d)):  # b is replaced by c before anything was done
        memory.observe(before)
        memory.record(np.zeros(1, int), np.zeros(1), none, none, None, None)
        memory.observe(after)
        memory.observe(after)
    t = memory.distinct(9, torch.Generator(), HOST)
    pairs = sorted((float(o[0]), float(x[0])) for o, x in zip(t.obs, t.next_obs, strict=True))
    assert pairs == [(1.0, 2.0), (3.0, 4.0)]
    assert int(memory._written[0]) == 4


def test_every_frame_of_a_stack_takes_one_slot():
    spec = make_spec(4, 1)
    memory = Replay(spec, 1000, frames=4, device=HOST)
    w = World(memory, spec, 4)
    for _ in range(500):
        w.step()
    memory.observe(w.obs)
    episodes = int(sum(row[4] for row in w.truth[0])) + 50  # at most: terminated, life lost, truncated
    assert memory._written[0] <= 501 + 5 * episodes


def test_images_that_are_no_stacks_survive():
    """Three colour channels declared as three frames: stored in full, sampled as they were."""
    spec = EnvSpec("test/env", (3, 2, 2), "uint8", ActionSpec("discrete", 5), 1)
    memory = Replay(spec, 300, frames=3, device=HOST)
    rng, none, seen = np.random.default_rng(0), np.zeros(1, bool), []
    for _ in range(40):
        seen.append(rng.integers(0, 256, (1, 3, 2, 2)).astype(np.uint8))
        memory.observe(seen[-1])
        memory.record(np.zeros(1, int), np.zeros(1), none, none, None, None)
    t = memory.distinct(99, torch.Generator(), HOST)
    truth = {(a.tobytes(), b.tobytes()) for a, b in itertools.pairwise(seen)}
    assert {
        (o.numpy().tobytes(), x.numpy().tobytes()) for o, x in zip(t.obs, t.next_obs, strict=True)
    } == truth


@pytest.mark.parametrize("steps", [30, 400])
@pytest.mark.parametrize("frames", [1, 4])
def test_state_survives_a_checkpoint(tmp_path, steps, frames):
    spec = make_spec(frames, 2)
    one, two = (Replay(spec, 200, frames=frames, device=HOST) for _ in range(2))
    w = World(one, spec, frames)
    for _ in range(steps):
        w.step()
    folder = Checkpoints(tmp_path)
    folder.save({"memory": one.state()}, 1)
    loaded = folder.load()
    assert loaded is not None
    two.load_state(loaded["memory"])
    for memory in (one, two):
        w.memory, w.rng = memory, np.random.default_rng(5)
        obs, resetting = w.obs, w.resetting
        for _ in range(50):
            w.step()
        w.obs, w.resetting = obs, resetting
    draws = [rows(m.sample(64, torch.Generator().manual_seed(3), HOST)) for m in (one, two)]
    assert draws[0] == draws[1]
    assert one.stored == two.stored
    assert one.transitions == two.transitions


def test_clear_forgets_everything():
    spec = make_spec(4, 2)
    memory = Replay(spec, 200, frames=4, device=HOST)
    w = World(memory, spec, 4)
    for _ in range(80):
        w.step()
    memory.clear()
    assert memory.transitions == memory.stored == 0
    w.truth, w.stored = [[], []], 0
    for _ in range(20):
        w.step()
    memory.observe(w.obs)
    assert memory.stored == w.stored
    assert set(rows(memory.distinct(999, torch.Generator(), HOST))) == {r for lane in w.truth for r in lane}


def test_too_small_a_memory_is_refused():
    with pytest.raises(UserError, match="too small for 3 environments"):
        Replay(make_spec(4, 3), 40, frames=4, device=HOST)


_MILLION = """
import resource, torch
from plasticine.core.env import ActionSpec, EnvSpec
from plasticine.memory.replay import Replay
spec = EnvSpec("a", (4, 84, 84), "uint8", ActionSpec("discrete", 18), 1)
m = Replay(spec, 1_000_000, frames=4, device=torch.device("cpu"))
print(sum(s.nbytes for s in m._stores.values()) + m._jump.nbytes)
print(int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize())
"""


def test_a_million_stacked_images_fit_into_eight_gigabytes():
    """And no memory is taken before it is written."""
    done = subprocess.run([sys.executable, "-c", _MILLION], capture_output=True, text=True, check=True)
    size, resident = map(int, done.stdout.split())
    assert 7e9 < size < 8e9
    assert resident < 1e9
