"""A short film of what the agent does at the end of a task, made without training noticing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plasticine.core.agent import Agent
from plasticine.core.collect import Collector
from plasticine.core.env import EnvLevel, Task, VecEnv
from plasticine.core.evaluate import Spectator
from plasticine.core.noise import derive_seed
from plasticine.errors import UserError

__all__ = ["Camera", "Film"]

_MOST_SECONDS = 12.0
_LEAST_SECONDS = 4.0  # short episodes follow one another until then
_FRAMES_PER_SECOND = 15.0  # about: every n-th step is drawn

Image = NDArray[np.uint8]


class Film(NamedTuple):
    """Images of environment 0.

    Attributes:
        frames: RGB [height, width, 3], all of one size.
        fps: Images per second at natural speed.
        steps: Env steps they span.
        returns: Raw return of every episode that ended in them.
    """

    frames: list[Image]
    fps: float
    steps: int
    returns: list[float]


class Camera:
    """Films environment 0 of a task in an environment of its own, with the greedy policy.

    Args:
        level: Enters the task.
        agent: Chooses the actions.
        collector: Owner of the observation normaliser, whose statistics are used and not updated.
    """

    def __init__(self, level: EnvLevel, agent: Agent, collector: Collector) -> None:
        self._level, self._agent, self._collector = level, agent, collector

    def film(self, task: Task, seed: int) -> Film:
        """Play from a reset on: to the end of an episode, but at least 4 and at most 12 seconds of natural time.

        Raises:
            UserError: The environment gives no image.
        """
        spectator = Spectator(
            self._agent,
            self._collector,
            self._level.spec(),
            greedy=True,
            seed=derive_seed(seed, "video", task.index, "act"),
        )
        env = self._level.enter(task, derive_seed(seed, "video", task.index))
        try:
            return _play(env, spectator)
        finally:
            env.close()


def _play(env: VecEnv, spectator: Spectator) -> Film:
    pace = env.steps_per_second
    stride = max(1, round(pace / _FRAMES_PER_SECOND))
    obs = env.reset()
    film = Film([_image(env)], pace / stride, 0, [])
    total, step = 0.0, 0
    while step < _MOST_SECONDS * pace:
        out = env.step(spectator.act(obs))
        obs, step = out.obs, step + 1
        done = bool(out.terminated[0] | out.truncated[0])
        total += float(out.reward[0])
        if step % stride == 0 or done:
            film.frames.append(_image(env))
        if done:
            film.returns.append(total)
            total = 0.0
            if step >= _LEAST_SECONDS * pace:
                break
    return film._replace(steps=step)


def _image(env: VecEnv) -> Image:
    image = env.render()
    if image is None:
        raise UserError("the environment gives no image", "set metrics.video=false")
    return np.array(image, dtype=np.uint8)
