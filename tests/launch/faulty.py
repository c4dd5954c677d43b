"""A level that goes wrong on command, to see what a launch makes of it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from plasticine.core.env import Task, VecEnv
from plasticine.envs.classic import Classic


class Faulty(Classic):
    """Cart-pole whose second task brings a fault.

    Args:
        fault: ``none``, ``raise``, ``kill``, ``segv``, ``exit``, ``hang``, ``print``, ``wait`` (until the file
            is gone).
        while_exists: The fault happens only while this file is there (empty: always).
    """

    def __init__(self, *, fault: str, while_exists: str, **common: Any) -> None:
        super().__init__(**common)
        self.fault = fault
        self.while_exists = while_exists

    def enter(self, task: Task, seed: int) -> VecEnv:
        if task.index == 1 and (not self.while_exists or Path(self.while_exists).exists()):
            print("entering the second task", flush=True)
            if self.fault == "raise":
                raise RuntimeError("the simulator broke")
            if self.fault in ("kill", "segv"):
                os.kill(os.getpid(), signal.SIGKILL if self.fault == "kill" else signal.SIGSEGV)
            if self.fault == "exit":
                os._exit(3)
            while self.fault == "wait" and Path(self.while_exists).exists():
                time.sleep(0.05)
            if self.fault == "hang":
                time.sleep(3600)
            if self.fault == "print":
                print("on stdout")
                print("on stderr", file=sys.stderr)
        return super().enter(task, seed)
