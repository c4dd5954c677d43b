"""Small pictures of the classic-control simulators, drawn from their states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from plasticine.core.env import Array

__all__ = ["draw"]

_HEIGHT, _WIDTH = 160, 240
_PAPER, _LINE, _BODY, _LIMB, _JOINT = "#ffffff", "#9aa0a6", "#202124", "#d2691e", "#5f6fd0"

Point = tuple[float, float]


class _Sheet:
    """A sheet of paper whose origin and scale are the simulator's.

    Args:
        centre: Point (metres) in the middle of the sheet.
        scale: Pixels a metre.
    """

    def __init__(self, centre: Point, scale: float) -> None:
        from PIL import Image, ImageDraw

        self._image = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
        self._pen = ImageDraw.Draw(self._image)
        self._centre, self._scale = centre, scale

    def _at(self, point: Point) -> Point:
        x, y = ((p - c) * self._scale for p, c in zip(point, self._centre, strict=True))
        return _WIDTH / 2 + x, _HEIGHT / 2 - y

    def line(self, points: Sequence[Point], colour: str, width: int) -> None:
        self._pen.line([self._at(p) for p in points], fill=colour, width=width, joint="curve")

    def disc(self, centre: Point, pixels: float, colour: str) -> None:
        x, y = self._at(centre)
        self._pen.ellipse((x - pixels, y - pixels, x + pixels, y + pixels), fill=colour)

    def box(self, centre: Point, width: float, height: float, colour: str) -> None:
        (left, top), (right, bottom) = (
            self._at((centre[0] + s * width / 2, centre[1] - s * height / 2)) for s in (-1, 1)
        )
        self._pen.rectangle((left, top, right, bottom), fill=colour)

    def done(self) -> Array:
        return np.asarray(self._image)


def _cartpole(sim: Any) -> Array:
    x, _, angle, _ = sim.state
    sheet = _Sheet((0.0, 0.5), 45.0)
    sheet.line([(-sim.x_threshold, 0.0), (sim.x_threshold, 0.0)], _LINE, 1)
    sheet.box((x, 0.0), 0.5, 0.3, _BODY)
    length = 2 * sim.length  # the simulator has half of it
    sheet.line([(x, 0.1), (x + length * math.sin(angle), 0.1 + length * math.cos(angle))], _LIMB, 6)
    sheet.disc((x, 0.1), 3, _JOINT)
    return sheet.done()


def _acrobot(sim: Any) -> Array:
    first, second = sim.state[:2]
    sheet = _Sheet((0.0, 0.0), 34.0)
    sheet.line([(-3.5, 1.0), (3.5, 1.0)], _LINE, 1)  # to be reached
    elbow = (sim.LINK_LENGTH_1 * math.sin(first), -sim.LINK_LENGTH_1 * math.cos(first))
    both = first + second
    tip = (elbow[0] + sim.LINK_LENGTH_2 * math.sin(both), elbow[1] - sim.LINK_LENGTH_2 * math.cos(both))
    sheet.line([(0.0, 0.0), elbow], _LIMB, 6)
    sheet.line([elbow, tip], _BODY, 6)
    for joint in ((0.0, 0.0), elbow):
        sheet.disc(joint, 4, _JOINT)
    return sheet.done()


def _mountain_car(sim: Any) -> Array:
    def ground(x: float) -> Point:
        return x, 0.45 * math.sin(3 * x) + 0.55  # as Gymnasium draws it

    sheet = _Sheet(((sim.min_position + sim.max_position) / 2, 0.6), 125.0)
    places = np.linspace(sim.min_position, sim.max_position, 60)
    sheet.line([ground(float(x)) for x in places], _LINE, 2)
    goal = ground(sim.goal_position)
    sheet.line([goal, (goal[0], goal[1] + 0.2)], _LIMB, 2)
    x, y = ground(float(sim.state[0]))
    sheet.disc((x, y + 0.06), 7, _BODY)
    return sheet.done()


def _pendulum(sim: Any) -> Array:
    angle = float(sim.state[0])  # 0 is upright
    sheet = _Sheet((0.0, 0.0), 60.0)
    sheet.line([(0.0, 0.0), (-math.sin(angle) * sim.l, math.cos(angle) * sim.l)], _LIMB, 12)
    sheet.disc((0.0, 0.0), 4, _BODY)
    return sheet.done()


_DRAWINGS = {
    "cartpole": _cartpole,
    "acrobot": _acrobot,
    "mountain_car": _mountain_car,
    "mountain_car_continuous": _mountain_car,
    "pendulum": _pendulum,
}


def draw(domain: str, sim: Any) -> Array:
    """RGB image [160, 240, 3] of a simulator that has been reset.

    Gymnasium's own pictures need a further package and a window system's libraries.
    """
    return _DRAWINGS[domain](sim)
