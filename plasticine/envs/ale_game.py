"""One Atari emulator and everything between its screen and an agent's observation."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plasticine.envs.ale_vec import AleOptions, require_ale
from plasticine.envs.area_resize import AreaResize

__all__ = ["AleGame", "Variants", "variants"]

_NOOP, _FIRE = 0, 1  # numbers of the joystick's actions


class Variants(NamedTuple):
    """What the switches of the console change in a game.

    Attributes:
        modes, difficulties: Numbers the game knows.
        mode, difficulty: Those it starts with.
    """

    modes: tuple[int, ...]
    difficulties: tuple[int, ...]
    mode: int
    difficulty: int


@functools.cache
def variants(game: str) -> Variants:
    """Return the modes and difficulties of a game, found by loading it once in this process."""
    ale = require_ale().ALEInterface()
    ale.loadROM(importlib.import_module("ale_py.roms").get_rom_path(game))
    state = ale.cloneState()
    modes, difficulties = ale.getAvailableModes(), ale.getAvailableDifficulties()
    return Variants(
        tuple(map(int, modes)), tuple(map(int, difficulties)), state.getCurrentMode(), state.getDifficulty()
    )


class AleGame:
    """An emulator presented as ale-py's vector environment presents it, and in any mode and difficulty.

    With ``sticky=0`` and the game's own mode and difficulty, observations, rewards and episode ends are equal to
    those of ``AtariVectorEnv`` with the same seed, bit by bit. Repeated actions (``sticky``) are drawn here and not
    by the emulator, which would not tell what it repeats: so the state is complete.

    Args:
        game: Name of the ROM.
        mode, difficulty: Numbers among `variants` of the game.
        seed: 31 bits.
        options: See `AleOptions`.
    """

    def __init__(self, *, game: str, mode: int, difficulty: int, seed: int, options: AleOptions) -> None:
        module = require_ale()
        self._new_state = module.ALEState
        self._ale = ale = module.ALEInterface()
        ale.setFloat("repeat_action_probability", 0.0)
        ale.setInt("random_seed", seed)
        ale.loadROM(importlib.import_module("ale_py.roms").get_rom_path(game))
        normal = variants(game)
        if mode != normal.mode:
            ale.setMode(mode)
        if difficulty != normal.difficulty:
            ale.setDifficulty(difficulty)
        self._actions = ale.getLegalActionSet() if options.full_action_space else ale.getMinimalActionSet()
        self._fire = options.fire_reset and any(action.value == _FIRE for action in self._actions)
        self._by_number = {action.value: action for action in ale.getLegalActionSet()}
        self._options = options
        self._random = np.random.RandomState(seed)
        height, width = ale.getScreenDims()
        size = options.image_size
        self._resize = AreaResize((height, width), (size, size))
        # The two frames to be maximised. Only what a step really sees is overwritten, also if it ends early.
        self._raw = np.zeros((2, height, width), dtype=np.uint8)
        self._stack = np.zeros((options.frame_stack, size, size), dtype=np.uint8)
        self._executed = _NOOP
        self._frames = 0

    @property
    def lives(self) -> int:
        """Lives left."""
        return int(self._ale.lives())

    @property
    def num_actions(self) -> int:
        """Actions the agent chooses from."""
        return len(self._actions)

    @property
    def obs(self) -> NDArray[np.uint8]:
        """Latest images [frame_stack, size, size], oldest first; overwritten by the next call."""
        return self._stack

    def mode_and_difficulty(self) -> tuple[int, int]:
        """Read both back from the emulator."""
        state = self._ale.cloneState()
        return int(state.getCurrentMode()), int(state.getDifficulty())

    def screen(self) -> NDArray[np.uint8]:
        """Return what the console shows, [height, width, 3]."""
        return np.asarray(self._ale.getScreenRGB(), dtype=np.uint8)

    def _act(self, action: int) -> int:
        sticky = self._options.sticky
        if sticky == 0.0 or self._random.random_sample() >= sticky:
            self._executed = action
        return int(self._ale.act(self._by_number[self._executed]))

    def _draw(self, count: int) -> int:
        """Draw one of ``0 .. count - 1`` from 32 random bits, without bias (Lemire, arXiv 1805.10941)."""
        while True:
            product = int(self._random.randint(0, 2**32, dtype=np.uint32)) * count
            if product % 2**32 >= (2**32 - count) % count:
                return product >> 32

    def reset(self) -> None:
        """Start a game."""
        self._ale.reset_game()
        self._executed = _NOOP
        if self._fire:
            self._act(_FIRE)
        for _ in range(self._draw(max(self._options.noop_max, 1)) - self._fire):
            self._act(_NOOP)
            if self._ale.game_over():
                self._ale.reset_game()
        self._stack[...] = 0
        self._raw[1] = 0
        self._look(0)
        self._show()
        self._frames = 0

    def _look(self, place: int) -> None:
        self._ale.getScreenGrayscale(self._raw[place])

    def _show(self) -> None:
        np.maximum(self._raw[0], self._raw[1], out=self._raw[0])
        self._stack[:-1] = self._stack[1:]
        self._resize(self._raw[0], self._stack[-1])

    def step(self, action: int) -> tuple[int, bool, bool]:
        """Hold an action for ``frame_skip`` frames.

        Args:
            action: Index into the game's actions.

        Returns:
            Change of the score, whether the game is over, and whether it was cut. The caller resets.
        """
        number = self._actions[action].value
        reward, over = 0, False
        for left in range(self._options.frame_skip, 0, -1):
            reward += self._act(number)
            self._frames += 1
            over = bool(self._ale.game_over())
            if over or self._frames >= self._options.max_frames:
                break
            if left <= 2:
                self._look(left - 1)
        self._show()
        return reward, over, self._frames >= self._options.max_frames and not over

    def state(self) -> dict[str, Any]:
        """Everything the following steps depend on."""
        _, key, position, _, _ = self._random.get_state()
        return {
            "emulator": np.frombuffer(self._ale.cloneState(include_rng=True).serialize(), np.uint8).copy(),
            "raw": self._raw.copy(),
            "stack": self._stack.copy(),
            "random": np.array(key, dtype=np.uint32),
            "position": int(position),
            "executed": self._executed,
            "frames": self._frames,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which must come from the same game."""
        packed = np.asarray(state["emulator"], np.uint8).tobytes()
        self._ale.restoreState(self._new_state(packed))
        self._raw[...] = state["raw"]
        self._stack[...] = state["stack"]
        key = np.asarray(state["random"], np.uint32)
        self._random.set_state(("MT19937", key, int(state["position"]), 0, 0.0))
        self._executed = int(state["executed"])
        self._frames = int(state["frames"])
