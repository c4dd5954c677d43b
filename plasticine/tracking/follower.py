"""One run, from its folder to MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from plasticine.errors import UserError
from plasticine.tracking.artifacts import Artifacts
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.local import COMMITTED_FILE, METRICS_FILE
from plasticine.tracking.lock import file_lock
from plasticine.tracking.parent import PARENT_TAG
from plasticine.tracking.record import read_lines
from plasticine.tracking.runcard import RunCard
from plasticine.tracking.selection import ForwardSettings, Point
from plasticine.tracking.state import STATE_FILE, ForwardState
from plasticine.tracking.store import Store

__all__ = ["Push", "RunFollower"]

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_BATCH = 1000  # MLflow's limit for one call
_WIDEST_LINE = 100  # about: a longer one is cut in two calls
_SAVE_EVERY_LINES = 5000


class Push(NamedTuple):
    """What one push did: points sent, whether something is left, and why."""

    points: int
    pending: bool
    reason: str = ""


class RunFollower:
    """Sends the committed part of one run's record to MLflow; keeps its place in ``mlflow.json``.

    Sending the same lines again is harmless: they carry their own times and steps, so MLflow recognises them.

    Args:
        run_dir: Folder of the run; may still be empty.
    """

    def __init__(self, run_dir: Path | str) -> None:
        self.run_dir = Path(run_dir)
        self.closed: str | None = None  # outcome that MLflow knows, as of the last push
        self._settled: tuple[int, ...] | None = None
        self._checked_run: str | None = None
        self._settings: ForwardSettings | None = None
        self._events: list[dict[str, Any]] = []
        self._events_end = 0

    def push(
        self, store: Store, deadline: float, final: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> Push:
        """Send what is committed and not sent yet.

        Args:
            store: Where to.
            deadline: Time of `clock` after which no further batch is begun.
            final: The run is over even if its record does not say so: take its outcome from status.json then.
            clock: Seconds.

        Raises:
            mlflow.exceptions.MlflowException: The store does not answer or refuses; what was sent is noted.
            OSError: A file of the run cannot be read or written.
            UserError: The folder lacks a setting, or another process is sending this run.
            ValueError: A file of the run is damaged.
        """
        stamp = self._stamp(final)
        if stamp is None or stamp == self._settled:
            return Push(0, False)
        if not (self.run_dir / "run.json").exists():
            return Push(0, False)
        with file_lock(self.run_dir / "mlflow.lock", 1.0):
            result = self._push(store, deadline, final, clock)
        self._settled = None if result.pending else stamp
        return result

    def _push(self, store: Store, deadline: float, final: bool, clock: Callable[[], float]) -> Push:
        committed = read_json(self.run_dir / COMMITTED_FILE) or {"offset": 0, "outcome": None}
        outcome = committed["outcome"] or (self._status_outcome() if final else None)
        state = ForwardState.load(self.run_dir)
        before = state.pushed
        self._open_run(store, state)
        assert state.run_id is not None
        if state.closed is not None and outcome is None:
            store.client.update_run(state.run_id, status="RUNNING")
            state.closed = None
            state.save(self.run_dir)
        rewinds = int(committed.get("rewinds", 0))
        if rewinds != state.rewinds or int(committed["offset"]) < state.offset:
            state.restart()
            state.rewinds = rewinds
            self._events, self._events_end = [], 0
            state.save(self.run_dir)
        files = Artifacts(self.run_dir, store.client, state.run_id)
        problem = ""
        if state.artifacts is None:
            problem = files.send_start()
            state.artifacts = None if problem else "start"
        complete = self._send_lines(store, state, int(committed["offset"]), deadline, clock)
        problem = self._send_films(state, files) or problem
        if complete and outcome is not None and (state.closed != outcome or state.artifacts != "end"):
            self._send(
                store,
                state,
                [p for p in state.selection.rest(self._need_settings()) if p.step > state.through],
            )
            self._load_events(state.offset)
            problem = problem or files.send_end(outcome, self._events)
            status, end = STATUS[outcome], state.time or int(time.time() * 1000)
            store.client.set_terminated(state.run_id, status=status, end_time=end)
            state.closed, state.artifacts = outcome, None if problem else "end"
            state.save(self.run_dir)
        elif problem == "" and state.artifacts == "start":
            state.save(self.run_dir)
        self.closed = state.closed
        return Push(state.pushed - before, bool(problem) or not complete, problem)

    def _open_run(self, store: Store, state: ForwardState) -> None:
        """Find the MLflow run of this folder or make it, and describe it."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        client = store.client
        if state.run_id is not None and (state.uri, state.experiment_id) != (store.uri, store.experiment_id):
            self._forget(state)
        if state.run_id is not None and self._checked_run != state.run_id:
            try:
                stage = client.get_run(state.run_id).info.lifecycle_stage
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                self._forget(state)  # the store was deleted and made again
            else:
                if stage != "active":
                    raise UserError(
                        f"the MLflow run {state.run_id} was deleted in MLflow",
                        f"`mlflow runs restore --run-id {state.run_id}`, or remove {self.run_dir / STATE_FILE}",
                    )
        if state.run_id is None:
            card = RunCard.read(self.run_dir)
            state.uri, state.experiment_id = store.uri, store.experiment_id
            state.save(self.run_dir)
            query = f"tags.`plasticine.token` = '{state.token}'"
            found = client.search_runs([store.experiment_id], filter_string=query, max_results=1)
            if found:
                state.run_id = found[0].info.run_id
            else:
                parent = store.parents.of(card.study)
                tags = {**card.tags, "plasticine.token": state.token, PARENT_TAG: parent}
                start = int((self.run_dir / "run.json").stat().st_mtime * 1000)
                run = client.create_run(store.experiment_id, start_time=start, tags=tags, run_name=card.name)
                state.run_id, state.parent = run.info.run_id, parent
            state.save(self.run_dir)
        if self._checked_run != state.run_id:
            self._put_under_study(store, state)
        if not state.described:
            params = [Param(key, value) for key, value in RunCard.read(self.run_dir).params.items()]
            for i in range(0, len(params), 100):
                client.log_batch(state.run_id, params=params[i : i + 100])
            state.described = True
            state.save(self.run_dir)
        self._checked_run = state.run_id

    def _put_under_study(self, store: Store, state: ForwardState) -> None:
        """Show the run under the run of its study, also if it was sent before there was one."""
        parent = store.parents.of(RunCard.read(self.run_dir).study)
        if state.parent != parent:
            store.client.set_tag(str(state.run_id), PARENT_TAG, parent)
            state.parent = parent
            state.save(self.run_dir)

    def _forget(self, state: ForwardState) -> None:
        fresh = ForwardState(token=state.token)
        state.__dict__.update(fresh.__dict__)
        self._events, self._events_end = [], 0

    def _send_lines(
        self, store: Store, state: ForwardState, stop: int, deadline: float, clock: Callable[[], float]
    ) -> bool:
        """Send the lines up to byte `stop`; return False if the time was up before."""
        path = self.run_dir / METRICS_FILE
        if state.offset >= stop:
            return True
        settings, planned = self._need_settings(), RunCard.read(self.run_dir).log_lines
        self._load_events(state.offset)
        points: list[Point] = []
        switched = False
        for lines, (entry, end) in enumerate(read_lines(path, state.offset, stop), start=1):
            if "m" in entry:
                chosen = state.selection.take(entry, settings, planned)
                points += [p for p in chosen if p.step > state.through]
                state.step = max(state.step, entry["s"])
            switched |= self._note_event(entry, end)
            state.offset, state.time = end, entry["t"]
            if len(points) + _WIDEST_LINE > _BATCH or lines % _SAVE_EVERY_LINES == 0:
                self._send(store, state, points)
                points = []
                if clock() > deadline:
                    return False
        self._send(store, state, points)
        self._tag(store, state, switched, settings)
        return True

    def _send(self, store: Store, state: ForwardState, points: list[Point]) -> None:
        """Send points, then note that everything up to `state.offset` is there."""
        from mlflow.entities import Metric

        metrics = [Metric(_name(p.key), p.value, p.time, p.step) for p in points]
        for i in range(0, len(metrics), _BATCH):
            store.client.log_batch(str(state.run_id), metrics=metrics[i : i + _BATCH])
        state.pushed += len(points)
        state.save(self.run_dir)

    def _send_films(self, state: ForwardState, files: Artifacts) -> str:
        """Send the films that the lines dealt with mention; return what went wrong, or an empty text."""
        self._load_events(state.offset)
        found = dict.fromkeys(e["facts"]["file"] for e in self._events if e["kind"] == "video")
        new = [path for path in found if path not in state.films]
        if not new:
            return ""
        done, problem = files.send_films(new)
        state.films += done
        state.save(self.run_dir)
        return problem

    def _load_events(self, stop: int) -> None:
        """Read the events in front of byte `stop` that another process has dealt with."""
        if self._events_end < stop:
            for entry, end in read_lines(self.run_dir / METRICS_FILE, self._events_end, stop):
                self._note_event(entry, end)

    def _note_event(self, entry: dict[str, Any], end: int) -> bool:
        """Keep an event for events.json; return whether it is a switch of the task."""
        if end <= self._events_end:
            return False
        self._events_end = end
        if "event" not in entry:
            return False
        event = {"time": entry["t"], "env_steps": entry["s"], "kind": entry["event"], "facts": entry["facts"]}
        self._events.append(event)
        return _is_switch(event)

    def _tag(self, store: Store, state: ForwardState, switched: bool, settings: ForwardSettings) -> None:
        from mlflow.entities import RunTag

        tags = {}
        if switched:
            steps = [str(e["env_steps"]) for e in self._events if _is_switch(e)]
            tags["plasticine.switches"] = ",".join(steps)
        found = _diagnosis(self._events)
        if found is not None:
            tags["diagnosis"] = found
        left_out = state.selection.left_out(settings)
        if left_out:
            names = ", ".join(left_out)
            tags["plasticine.keys_left_out"] = (
                f"{len(left_out)} over tracker.max_keys={settings.max_keys}: {names}"
            )
        if tags:
            store.client.log_batch(str(state.run_id), tags=[RunTag(k, v[:5000]) for k, v in tags.items()])

    def _need_settings(self) -> ForwardSettings:
        if self._settings is None:
            config = yaml.safe_load((self.run_dir / "config.yaml").read_text(encoding="utf-8"))
            self._settings = ForwardSettings.from_config(config["tracker"])
        return self._settings

    def _status_outcome(self) -> str | None:
        """Return how the run ended if it could not say so itself: whoever ran it writes status.json."""
        state = (read_json(self.run_dir / "status.json") or {}).get("state")
        return state if state in STATUS else None

    def _stamp(self, final: bool) -> tuple[int, ...] | None:
        """Return what changes when there is something new, None if there is nothing yet."""
        stamp = []
        for name in (COMMITTED_FILE, "status.json") if final else (COMMITTED_FILE,):
            try:
                found = os.stat(self.run_dir / name)
            except FileNotFoundError:
                continue
            stamp += [found.st_mtime_ns, found.st_ino]
        return tuple(stamp) or None


def _is_switch(event: dict[str, Any]) -> bool:
    return event["kind"] == "task_start" and int(event["facts"].get("index", 0)) > 0


def _diagnosis(events: list[dict[str, Any]]) -> str | None:
    """What was found at the latest look at the run; None if nothing ever was."""
    found: dict[str, None] = {}
    seen = False
    for facts in (event["facts"] for event in events if event["kind"] == "diagnosis"):
        seen = True
        if facts["state"] == "found":
            found[facts["name"]] = None
        else:
            found.pop(facts["name"], None)
    return ", ".join(found) or "nothing any more" if seen else None


def _name(key: str) -> str:
    return RunCard.clean(key)
