"""A vector of Atari games in any mode and difficulty, which the vector environment of ale-py cannot set."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from plasticine.core.env import Array, StepOut, VecEnv
from plasticine.envs.ale_game import AleGame
from plasticine.envs.ale_vec import AleOptions, emulator_seeds, lost_lives

__all__ = ["AleVariantVecEnv"]


class AleVariantVecEnv(VecEnv):
    """`num_envs` copies of one variant of a game, stepped one after the other.

    What an agent sees is the same as in `AleVecEnv`. As each emulator is at hand, its state can be saved: a resumed
    run goes on exactly.

    Args:
        game: Name of the ROM.
        mode, difficulty: Numbers among the game's.
        num_envs: Number of copies.
        seed: Each copy has its own seed, drawn from this one.
        options: See `AleOptions`.
    """

    exact_state: ClassVar[bool] = True

    def __init__(
        self, *, game: str, mode: int, difficulty: int, num_envs: int, seed: int, options: AleOptions
    ) -> None:
        self._game, self._options = game, options
        self._games = [
            AleGame(game=game, mode=mode, difficulty=difficulty, seed=int(child), options=options)
            for child in emulator_seeds(seed, num_envs)
        ]
        self._lives = self._count_lives()
        self.steps_per_second = 60.0 / options.frame_skip

    def _observe(self) -> Array:
        return np.stack([game.obs for game in self._games])

    def _count_lives(self) -> NDArray[np.int32]:
        return np.array([game.lives for game in self._games], dtype=np.int32)

    def reset(self) -> Array:
        """Start new games everywhere; observations uint8 [num_envs, frame_stack, size, size]."""
        for game in self._games:
            game.reset()
        self._lives = self._count_lives()
        return self._observe()

    def step(self, actions: Array) -> StepOut:
        """Hold each action for ``frame_skip`` frames; actions [num_envs] are integers."""
        num = len(self._games)
        if np.shape(actions) != (num,):
            raise ValueError(f"expected {num} actions, got an array of shape {np.shape(actions)}")
        reward = np.empty(num, dtype=np.float32)
        terminated, truncated = np.empty(num, dtype=np.bool_), np.empty(num, dtype=np.bool_)
        final: Array | None = None
        for i, (game, action) in enumerate(zip(self._games, actions.tolist(), strict=True)):
            reward[i], terminated[i], truncated[i] = game.step(action)
            if terminated[i] or truncated[i]:
                if final is None:
                    final = np.zeros((num, *game.obs.shape), dtype=np.uint8)
                final[i] = game.obs
                game.reset()
        lives = self._count_lives()
        lost = lost_lives(self._lives, lives, terminated | truncated) if self._options.episodic_life else None
        self._lives = lives
        return StepOut(self._observe(), reward, terminated, truncated, final, lost)

    def state(self) -> dict[str, Any]:
        """States of all emulators with their latest images, about 110 kB each."""
        return {"games": [game.state() for game in self._games]}

    def load_state(self, state: dict[str, Any]) -> Array:
        """Go on from `state`, which must come from an environment of the same task and `num_envs`."""
        if len(state["games"]) != len(self._games):
            raise ValueError(f"state of {len(state['games'])} environments, this has {len(self._games)}")
        for game, part in zip(self._games, state["games"], strict=True):
            game.load_state(part)
        self._lives = self._count_lives()
        return self._observe()

    def facts(self) -> dict[str, Any]:
        """As `AleVecEnv.facts`, with the mode and difficulty that the first emulator is in."""
        mode, difficulty = self._games[0].mode_and_difficulty()
        return {
            "game": self._game,
            "mode": mode,
            "difficulty": difficulty,
            "actions": self._games[0].num_actions,
            "sticky": self._options.sticky,
            "lives": self._count_lives().tolist(),
        }

    def render(self) -> Array:
        """Screen of the first game in colours, [height, width, 3]."""
        return self._games[0].screen()

    def close(self) -> None:
        """Free the emulators."""
        self._games.clear()
