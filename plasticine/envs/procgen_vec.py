"""Procgen games (Cobbe et al., arXiv 1912.01588), stepped by their own library."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from plasticine.core.env import Array, StepOut, VecEnv
from plasticine.errors import UserError, nearest

__all__ = ["ACTIONS", "GAMES", "MODES", "OBS_SHAPE", "ProcgenVecEnv", "check_game", "require_procgen"]

#: The games, in the order of the paper's appendix (alphabetical).
GAMES = (
    "bigfish",
    "bossfight",
    "caveflyer",
    "chaser",
    "climber",
    "coinrun",
    "dodgeball",
    "fruitbot",
    "heist",
    "jumper",
    "leaper",
    "maze",
    "miner",
    "ninja",
    "plunder",
    "starpilot",
)
#: Difficulties that every game has.
MODES = ("easy", "hard")
#: Channel, height, width of an observation; number of actions: the same in all games.
OBS_SHAPE = (3, 64, 64)
ACTIONS = 15
_RESET = -1  # this action ends the episode at once


def require_procgen() -> None:
    """Check that Procgen can be imported, without importing it.

    Raises:
        UserError: If it is missing.
    """
    if importlib.util.find_spec("procgen") is None:
        raise UserError(
            "the Procgen levels need the package procgen-mirror (procgen itself on Python 3.10)",
            "pip install 'plasticine[procgen]' (in an environment with numpy<2)",
        )


@functools.cache
def _simulator() -> Any:
    require_procgen()
    with contextlib.redirect_stderr(io.StringIO()):  # gym, which procgen registers its games with, nags
        return importlib.import_module("procgen").ProcgenGym3Env


def check_game(game: str) -> None:
    """Raise `UserError` with the nearest names if Procgen has no such game."""
    if game not in GAMES:
        raise UserError(f"env.game={game!r} is no game of Procgen", nearest(str(game), GAMES))


class ProcgenVecEnv(VecEnv):
    """`num_envs` copies of one game. Observations are uint8 [num_envs, 3, 64, 64], actions 0..14.

    The step that ends an episode already returns the next one's first image; the last image of the old episode
    is not available (`StepOut.final_obs` is None). Nor does the simulator say whether an episode ended or ran
    out of time (after 500 to 6000 steps, depending on the game): both are reported as terminated.

    With one level everything is fixed by the level: copies begin alike, and the seed changes nothing.

    Args:
        game: One of `GAMES`.
        distribution_mode: One of `MODES`.
        start_level: First level of the set.
        num_levels: Size of the set that episodes are drawn from; 0 = unlimited (all levels).
        num_envs: Number of copies.
        num_threads: Threads that step them beside the caller, 0 = none; does not change the results.
        seed: Decides which levels are drawn.
    """

    exact_state: ClassVar[bool] = True
    steps_per_second = 15.0

    def __init__(
        self,
        *,
        game: str,
        distribution_mode: str,
        start_level: int,
        num_levels: int,
        num_envs: int,
        num_threads: int,
        seed: int,
    ) -> None:
        self._env = _simulator()(
            num=num_envs,
            env_name=game,
            distribution_mode=distribution_mode,
            start_level=start_level,
            num_levels=num_levels,
            use_sequential_levels=False,
            num_threads=num_threads,
            # The simulator takes 31 bits.
            rand_seed=int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1),
        )
        self._num_envs = num_envs
        self._started = False

    def reset(self) -> Array:
        """Start new episodes everywhere."""
        if self._started:
            self._env.act(np.full(self._num_envs, _RESET))
        self._started = True
        return self._observe()[1]

    def _observe(self) -> tuple[NDArray[np.float32], Array, NDArray[np.bool_]]:
        reward, obs, first = self._env.observe()
        # A view: the collector copies it into its own array anyway. New arrays each time.
        return reward, obs["rgb"].transpose(0, 3, 1, 2), first

    def step(self, actions: Array) -> StepOut:
        """Advance every game by one step; actions [num_envs] are integers in 0..14."""
        if np.shape(actions) != (self._num_envs,):
            raise ValueError(f"expected {self._num_envs} actions, got an array of shape {np.shape(actions)}")
        self._env.act(actions)
        reward, obs, first = self._observe()
        return StepOut(obs, reward, first, np.zeros_like(first), None)

    def state(self) -> dict[str, Any]:
        """Complete states of the games, about 30 kB each."""
        packed = self._env.callmethod("get_state")
        return {"games": [np.frombuffer(state, dtype=np.uint8).copy() for state in packed]}

    def load_state(self, state: dict[str, Any]) -> Array:
        """Go on from `state`, which must come from an environment of the same task and `num_envs`."""
        if len(state["games"]) != self._num_envs:
            raise ValueError(f"state of {len(state['games'])} environments, this has {self._num_envs}")
        self._env.callmethod("set_state", [np.asarray(game, np.uint8).tobytes() for game in state["games"]])
        self._started = True
        return self._observe()[1]

    def facts(self) -> dict[str, Any]:
        """Options the simulator was built with, and the level that the first environment plays."""
        options = self._env.options
        modes = {0: "easy", 1: "hard"}  # numbers of the simulator
        return {
            "game": options["env_name"],
            "distribution_mode": modes[options["distribution_mode"]],
            "start_level": int(options["start_level"]),
            "num_levels": int(options["num_levels"]),
            "level": int(self._env.get_info()[0]["level_seed"]),
        }

    def render(self) -> Array:
        """Image [64, 64, 3] of the first environment, as the agent sees it."""
        return np.asarray(self._env.observe()[1]["rgb"][0])

    def close(self) -> None:
        """Free the games and their threads."""
        self._env.close()
