"""``python -m plasticine.launch.worker``: carries out runs, one after the other, for the process that started it.

Speaks JSON lines: commands on its standard input, messages on its standard output. What runs print goes to their
log.txt, never between the messages. If its parent dies, or on SIGTERM or SIGUSR2, the current run saves a
checkpoint at its next safe point and the worker ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

from plasticine.errors import UserError

__all__ = ["main"]

#: Seconds a run may take to save after its parent died. A run that hangs must not hang for ever.
_ORPHAN_GRACE = 300.0
#: Seconds between two reports of progress.
_PROGRESS_EVERY = 0.1


class _Channel:
    """The pipes to the parent, moved away from where print() and input() could reach them."""

    def __init__(self) -> None:
        self._commands = os.fdopen(os.dup(0), "r", encoding="utf-8")
        self._messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; if nobody listens any more, the run goes on to its safe point all the same."""
        try:
            with self._lock:
                self._messages.write(json.dumps(message) + "\n")
                self._messages.flush()
        except (BrokenPipeError, ValueError):
            pass  # the parent is gone; `listen` sees the end of the commands and asks for the stop

    def listen(self, commands: queue.SimpleQueue[dict[str, Any]], stop: threading.Event) -> None:
        """Put commands into the queue until the parent closes the pipe or dies; then ask for the stop."""
        for line in self._commands:
            command = json.loads(line)
            if command["do"] == "stop":
                stop.set()
            commands.put(command)
        stop.set()
        commands.put({"do": "exit"})
        timer = threading.Timer(_ORPHAN_GRACE, os._exit, (1,))
        timer.daemon = True
        timer.start()


def main() -> int:
    """Serve until told to leave."""
    channel = _Channel()
    stop = threading.Event()
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def on_signal(number: int, frame: Any) -> None:
        stop.set()
        commands.put({"do": "exit"})

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGUSR2, on_signal)
    threading.Thread(target=channel.listen, args=(commands, stop), daemon=True).start()

    import plasticine.run  # noqa: F401 - the slow part (torch), done before the first command needs it

    channel.send({"kind": "ready"})
    while True:
        command = commands.get()
        if command["do"] in ("exit", "stop"):
            return 0
        if command["do"] == "check":
            channel.send(_check(command))
        elif command["do"] == "run" and not stop.is_set():
            channel.send(_run(command, channel, stop))


def _check(command: Mapping[str, Any]) -> dict[str, Any]:
    from plasticine.launch.job import inspect

    try:
        return {"kind": "checked", "facts": inspect(command["config"])}
    except UserError as error:
        return {"kind": "refused", "what": error.what, "fix": error.fix}
    except Exception as error:  # noqa: BLE001 - reported to the parent, which prints it and ends the launch
        text = traceback.format_exc()
        return {"kind": "broken", "error": f"{type(error).__name__}: {error}", "traceback": text}


def _run(command: Mapping[str, Any], channel: _Channel, stop: threading.Event) -> dict[str, Any]:
    from plasticine.launch.folder import RunFolder
    from plasticine.launch.job import carry_out
    from plasticine.launch.provenance import Provenance

    sent = 0.0

    def progress(facts: dict[str, Any]) -> None:
        nonlocal sent
        if time.monotonic() - sent >= _PROGRESS_EVERY:
            sent = time.monotonic()
            channel.send({"kind": "progress", "progress": facts})

    result = carry_out(
        command["config"],
        RunFolder(command["run_dir"]),
        command["facts"],
        Provenance(*command["provenance"]),
        stop,
        progress,
        capture=True,
    )
    return {"kind": "done", **result}


if __name__ == "__main__":
    sys.exit(main())
