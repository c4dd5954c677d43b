"""The record of a run on disk: an append-only file that knows how much of itself is durable."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.core.tracker import Episode, Mark, Outcome
from plasticine.errors import UserError
from plasticine.tracking.gif import write_gif
from plasticine.tracking.jsonfile import plain, read_json, replace_json
from plasticine.tracking.layers import LAYERS_FILE, write_layers

__all__ = ["COMMITTED_FILE", "METRICS_FILE", "NONFINITE_KEY", "VIDEO_FOLDER", "LocalLog"]

METRICS_FILE = "metrics.jsonl"
COMMITTED_FILE = "committed.json"
VIDEO_FOLDER = "videos"
#: Cumulative number of values that were NaN or infinite and therefore not recorded.
NONFINITE_KEY = "health/nonfinite"
#: How far back from the end the last lines are looked for when a record is continued.
_TAIL_BYTES = 1 << 18


class LocalLog:
    """Tracker that appends to ``metrics.jsonl`` in the folder of a run; needs no server and no MLflow.

    Nothing is touched before the first call. A run that continues says from where with `rewind` (a run that
    starts afresh: ``rewind({})``); if the first call is another one, the record goes on at its committed end.

    Calls of `log` at the same step end up in one line. The line is written when the step advances, at `mark`
    and at `close`; what is logged at that step after a `mark` goes into a second line and may not repeat a
    key.

    Args:
        run_dir: Folder of the run; made if it is not there.
    """

    def __init__(self, run_dir: Path | str) -> None:
        self.run_dir = Path(run_dir)
        self._path = self.run_dir / METRICS_FILE
        self._fd: int | None = None
        self._closed = False
        self._offset = 0  # bytes of metrics.jsonl written by complete lines
        self._clock = 0  # time of the last line, unix ms: never goes back
        self._step = -1  # step of the line being gathered
        self._line: dict[str, float] = {}
        self._line_time = 0
        self._written: set[str] = set()  # keys already on disk at self._step
        self._nonfinite = 0
        self._reported: set[str] = set()
        self._committed: dict[str, Any] | None = None

    def log(self, scalars: Mapping[str, float], env_steps: int) -> None:
        """Record scalars at a step; values that are not finite are counted in ``health/nonfinite`` instead.

        Raises:
            ValueError: The step lies before the last one, or a key was already written at this step.
        """
        self._ensure_open()
        step = int(env_steps)
        if step < self._step:
            raise ValueError(f"step {step} is logged after step {self._step}; rewind() comes first")
        if step > self._step:
            self._write_line()
            self._step, self._written = step, set()
        bad = []
        for key, value in scalars.items():
            number = float(value)
            if not math.isfinite(number):
                bad.append(key)
            elif key in self._written:
                raise ValueError(f"{key!r} is already recorded at step {step}")
            else:
                self._line[key] = number
        self._line_time = _now()
        if bad:
            self._nonfinite += len(bad)
            self._line[NONFINITE_KEY] = float(self._nonfinite)
            new = sorted(set(bad) - self._reported)
            if new:  # once per key: a diverged run must not write an event at every step
                self._reported.update(new)
                self.event("nonfinite", step, {"keys": new})

    def episodes(self, finished: Sequence[Episode]) -> None:
        """Record finished episodes, one line for all of them."""
        if not finished:
            return
        self._ensure_open()
        if finished[-1].env_steps > self._step:
            self._write_line()  # the order of lines must not depend on when the record was made durable
        rows = [
            [int(e.env_steps), int(e.task), plain(float(e.episodic_return)), int(e.length)] for e in finished
        ]
        self._append({"episodes": rows}, _now())

    def event(self, kind: str, env_steps: int, facts: Mapping[str, Any]) -> None:
        """Record something that happened, at once."""
        self._ensure_open()
        if env_steps > self._step:
            self._write_line()
        self._append({"s": int(env_steps), "event": kind, "facts": plain(facts)}, _now())

    def film(
        self,
        name: str,
        frames: Sequence[NDArray[np.uint8]],
        fps: float,
        env_steps: int,
        facts: Mapping[str, Any],
    ) -> None:
        """Write ``videos/<name>.gif``, then an event ``video`` that names the file."""
        self._ensure_open()
        path = f"{VIDEO_FOLDER}/{name}.gif"
        write_gif(self.run_dir / path, frames, fps)
        self.event("video", env_steps, {"file": path, **facts})

    def layers(self, values: Mapping[str, Mapping[str, Mapping[str, float]]], env_steps: int) -> None:
        """Record values of single layers, to seven digits, in a line of their own; not finite ones as null."""
        self._ensure_open()
        if env_steps > self._step:
            self._write_line()
        rows = {
            metric: {
                net: {layer: float(f"{v:.7g}") if math.isfinite(v) else None for layer, v in found.items()}
                for net, found in nets.items()
            }
            for metric, nets in values.items()
        }
        self._append({"s": int(env_steps), "layers": rows}, _now())

    def mark(self) -> Mark:
        """Write and fsync everything; return ``{"offset": bytes, "step": env steps, "nonfinite": count}``."""
        self._ensure_open()
        self._write_line()
        assert self._fd is not None
        os.fsync(self._fd)
        return {"offset": self._offset, "step": self._step, "nonfinite": self._nonfinite}

    def commit(self, mark: Mark) -> None:
        """Say that a checkpoint with `mark` is durable; an older mark than the last one changes nothing."""
        committed = self._load_committed()
        if int(mark["offset"]) >= int(committed["offset"]):
            self._write_committed(mark, None, int(committed["rewinds"]))

    def rewind(self, mark: Mark) -> None:
        """Go on from `mark` (``{}``: from the start): later lines, torn ones too, are cut off.

        Raises:
            UserError: The file is shorter than the mark says, or was changed by something else.
        """
        wanted = {"offset": 0, "step": -1, "nonfinite": 0, **mark}
        offset = int(wanted["offset"])
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._fd).st_size
        if size < offset or (offset and os.pread(self._fd, 1, offset - 1) != b"\n"):
            raise UserError(
                f"{self._path} does not fit the checkpoint: no line ends at byte {offset} of {size}",
                "put the file back, or remove the folder of the run to start it afresh",
            )
        committed = self._load_committed()
        undone = offset < int(committed["offset"])
        # First the smaller promise, then the cut: a reader in between sees a valid prefix.
        self._write_committed(wanted, None, int(committed["rewinds"]) + int(undone))
        os.ftruncate(self._fd, offset)
        os.fsync(self._fd)
        (self.run_dir / LAYERS_FILE).unlink(missing_ok=True)  # made anew when the run stops
        self._offset, self._step, self._nonfinite = offset, int(wanted["step"]), int(wanted["nonfinite"])
        self._line, self._reported, self._closed = {}, set(), False
        self._restore_tail()

    def close(self, outcome: Outcome) -> None:
        """Make everything durable and say how the run ended; a second call changes nothing."""
        if self._closed:
            return
        if self._fd is None:
            # Failed before anything was recorded: do not cut what an earlier process left.
            self.run_dir.mkdir(parents=True, exist_ok=True)
            committed = self._load_committed()
            self._write_committed(committed, outcome, int(committed["rewinds"]))
        else:
            mark = self.mark()
            write_layers(self.run_dir, int(mark["offset"]))
            self._write_committed(mark, outcome, int(self._load_committed()["rewinds"]))
            os.close(self._fd)
            self._fd = None
        self._closed = True

    def _ensure_open(self) -> None:
        if self._closed:
            raise ValueError(f"the record in {self.run_dir} is closed")
        if self._fd is None:
            self.rewind(self._load_committed())

    def _write_line(self) -> None:
        if self._line:
            line, self._line = self._line, {}
            self._append({"s": self._step, "m": line}, self._line_time)
            self._written.update(line)
            self._written.discard(NONFINITE_KEY)

    def _append(self, entry: dict[str, Any], clock: int) -> None:
        assert self._fd is not None
        self._clock = max(self._clock, clock)
        text = json.dumps({"t": self._clock, **entry}, separators=(",", ":"), allow_nan=False)
        data = memoryview(text.encode() + b"\n")
        position = self._offset
        try:
            while data:
                count = os.pwrite(self._fd, data, position)
                position, data = position + count, data[count:]
        except OSError:
            os.ftruncate(self._fd, self._offset)  # half a line must not stay in front of the next one
            raise
        self._offset = position

    def _restore_tail(self) -> None:
        """Find the last time stamp, and the keys written at the last step, in front of the current end."""
        assert self._fd is not None
        start = max(0, self._offset - _TAIL_BYTES)
        lines = os.pread(self._fd, self._offset - start, start).split(b"\n")[:-1]
        self._clock, self._written = 0, set()
        for line in lines[1:] if start else lines:
            entry = json.loads(line)
            self._clock = entry["t"]
            if "m" in entry and entry["s"] == self._step:
                self._written.update(entry["m"])
        self._written.discard(NONFINITE_KEY)

    def _load_committed(self) -> dict[str, Any]:
        if self._committed is None:
            nothing = {"offset": 0, "step": -1, "nonfinite": 0, "outcome": None, "rewinds": 0}
            self._committed = {**nothing, **(read_json(self.run_dir / COMMITTED_FILE) or {})}
        return self._committed

    def _write_committed(self, mark: Mark, outcome: Outcome | None, rewinds: int) -> None:
        position = {key: int(mark[key]) for key in ("offset", "step", "nonfinite")}
        self._committed = {**position, "outcome": outcome, "rewinds": rewinds}
        replace_json(self.run_dir / COMMITTED_FILE, self._committed)


def _now() -> int:
    return time.time_ns() // 1_000_000
