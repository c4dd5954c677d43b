"""Atari 2600 games of the Arcade Learning Environment, stepped by its own threads."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from plasticine.core.env import Array, StepOut, VecEnv
from plasticine.errors import UserError, nearest

__all__ = [
    "AleOptions",
    "AleVecEnv",
    "check_game",
    "emulator_seeds",
    "lost_lives",
    "num_actions",
    "require_ale",
]


@dataclass(frozen=True, kw_only=True)
class AleOptions:
    """How a game is presented to the agent.

    Attributes:
        image_size: Height and width of the greyscale images.
        frame_stack: Latest images an observation consists of.
        frame_skip: Emulator frames per step; the action is held and the last two frames are maximised.
        noop_max: An episode begins with up to this many idle frames, drawn for each environment.
        fire_reset: Press fire once at the start of an episode, in the games that wait for it.
        sticky: Probability that the emulator repeats the previous action, in each frame.
        max_frames: Emulator frames until an episode is cut.
        full_action_space: All 18 actions of the joystick instead of those that matter in the game.
        episodic_life: Report lost lives in `StepOut.life_lost`.
    """

    image_size: int
    frame_stack: int
    frame_skip: int
    noop_max: int
    fire_reset: bool
    sticky: float
    max_frames: int
    full_action_space: bool
    episodic_life: bool


@functools.cache
def require_ale() -> Any:
    """Import ``ale_py`` and silence its banner.

    Raises:
        UserError: If it is missing.
    """
    if importlib.util.find_spec("ale_py") is None:
        raise UserError("the ALE levels need the package ale-py", "pip install 'plasticine[ale]'")
    ale = importlib.import_module("ale_py")
    ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
    return ale


def check_game(game: str) -> None:
    """Check that a game is among those that come with ale-py.

    Raises:
        UserError: If it is not, with the nearest names, or if ale-py is missing.
    """
    require_ale()
    known = importlib.import_module("ale_py.roms").get_all_rom_ids()
    if game not in known:
        raise UserError(f"env.game={game!r} is no Atari game of ale-py", nearest(str(game).lower(), known))


@functools.cache
def num_actions(game: str, full: bool) -> int:
    """Return how many actions an agent has in `game`, found by loading it once in this process."""
    ale = require_ale().ALEInterface()
    ale.loadROM(importlib.import_module("ale_py.roms").get_rom_path(game))
    return len(ale.getLegalActionSet() if full else ale.getMinimalActionSet())


def emulator_seeds(seed: int, num_envs: int) -> NDArray[np.int64]:
    """Draw a seed for each emulator.

    An emulator takes 31 bits; for ale-py's vector environment a negative number would mean "keep the present
    generator".
    """
    return (np.random.SeedSequence(seed).generate_state(num_envs) >> 1).astype(np.int64)


def lost_lives(
    before: NDArray[np.int32], now: NDArray[np.int32], ended: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Return where a life was lost and the game goes on, ``None`` if nowhere.

    With no life left some games go on for a few frames; their end follows then.
    """
    lost = (now < before) & (now > 0) & ~ended
    return lost if lost.any() else None


class AleVecEnv(VecEnv):
    """`num_envs` copies of one game. Observations are uint8 [num_envs, frame_stack, size, size].

    Rewards are differences of the game's score. A step that ends an episode returns the next one's first
    observation and the true last one in `StepOut.final_obs`. The vector interface of ale-py gives no access to
    the emulator's memory, so a resumed run starts new episodes.

    ``episodic_life`` of ale-py is not used: it starts the whole game anew at every lost life (seen in 0.12.1),
    so that later parts of a game are never reached. Here the game goes on.

    Args:
        game: Name of the ROM, e.g. ``ms_pacman``.
        num_envs: Number of copies.
        num_threads: Threads that step them; does not change the results.
        seed: Each copy has its own emulator seed, drawn from this one.
        options: See `AleOptions`.
    """

    exact_state: ClassVar[bool] = False

    def __init__(self, *, game: str, num_envs: int, num_threads: int, seed: int, options: AleOptions) -> None:
        require_ale()
        vector_env = importlib.import_module("ale_py.vector_env")
        same_step = importlib.import_module("gymnasium.vector").AutoresetMode.SAME_STEP
        self._env = vector_env.AtariVectorEnv(
            game,
            num_envs,
            batch_size=0,
            num_threads=num_threads,
            thread_affinity_offset=-1,
            max_num_frames_per_episode=options.max_frames,
            repeat_action_probability=options.sticky,
            full_action_space=options.full_action_space,
            continuous=False,
            autoreset_mode=same_step,
            img_height=options.image_size,
            img_width=options.image_size,
            grayscale=True,
            stack_num=options.frame_stack,
            frameskip=options.frame_skip,
            maxpool=True,
            noop_max=options.noop_max,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=options.fire_reset,
        )
        self._game, self._options = game, options
        self._seeds: NDArray[np.int64] | None = emulator_seeds(seed, num_envs)
        self._lives = np.zeros(num_envs, dtype=np.int32)
        self._newest: Array | None = None  # newest frame of the first game
        self.steps_per_second = 60.0 / options.frame_skip

    def reset(self) -> Array:
        """Start new games everywhere; only the first call seeds the emulators."""
        obs, info = self._env.reset(seed=self._seeds)
        self._seeds = None
        self._lives = info["lives"].copy()
        self._newest = obs[0, -1]
        return np.asarray(obs)

    def step(self, actions: Array) -> StepOut:
        """Hold each action for ``frame_skip`` frames; actions [num_envs] are integers."""
        obs, reward, terminated, truncated, info = self._env.step(np.asarray(actions, dtype=np.int64))
        truncated = truncated & ~terminated
        ended = terminated | truncated
        lost = lost_lives(self._lives, info["lives"], ended) if self._options.episodic_life else None
        self._lives = info["lives"].copy()
        self._newest = obs[0, -1]
        final = info["final_obs"] if ended.any() else None
        return StepOut(obs, reward.astype(np.float32), terminated, truncated, final, lost)

    def facts(self) -> dict[str, Any]:
        """Game, number of actions, and the lives left in each environment as the emulator reports them."""
        return {
            "game": self._game,
            "actions": int(self._env.single_action_space.n),
            "sticky": self._options.sticky,
            "lives": self._lives.tolist(),
        }

    def render(self) -> Array | None:
        """The newest of the frames that the agent of the first game sees, grey, [image_size, image_size, 3]."""
        return None if self._newest is None else np.repeat(self._newest[:, :, None], 3, axis=2)

    def close(self) -> None:
        """Free the emulators and their threads."""
        self._env.close()
        del self._env  # their memory is held by this reference alone
