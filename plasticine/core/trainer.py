"""The loop. It knows protocols only: no agent, method, environment or metric is named here.

::

    for task in stream:                              interventions: task_switch, task_start
        for iteration in task:
            for round in iteration:                  (one, or many short ones where acting and learning interleave)
                collect                              (no hooks)
                prepare                              (targets)
                for phase, batch in schedule:        loss terms, gradient wraps, per-step hooks
                    update
            interventions: every n / at
            measure, evaluate, film, log, save       each only when due
        interventions: task_end
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from plasticine.core.checkpoint import Checkpoints
from plasticine.core.collect import Collector
from plasticine.core.diagnosis import RunWatch
from plasticine.core.env import EnvLevel, Task, VecEnv
from plasticine.core.evaluate import Evaluator
from plasticine.core.learner import Learner
from plasticine.core.measure import Measurement
from plasticine.core.metric import Layers
from plasticine.core.noise import derive_seed
from plasticine.core.returns import Rehearsal
from plasticine.core.schedule import Moment, RunPlan
from plasticine.core.scores import final_evaluations, summarise, summarise_evaluations
from plasticine.core.state import Counters
from plasticine.core.tracker import Episode, Tracker
from plasticine.core.video import Camera
from plasticine.errors import UserError

__all__ = ["Progress", "Stop", "Trainer"]

#: Receives plain facts about where the run is, once per iteration.
Progress = Callable[[dict[str, Any]], None]


class Stop(Protocol):
    """Asks the trainer to save and leave at the next iteration end."""

    def is_set(self) -> bool:
        """Whether to stop."""


class Trainer:
    """Trains one learner on one stream of tasks.

    Args:
        level: The stream.
        learner: Built for the level's spaces.
        collector: Steps the environment.
        measurement: Metrics and their cadence.
        tracker: Receives the record.
        checkpoints: Where to save; None = never.
        plan: Sizes of tasks and iterations.
        seed: The run's seed (environment seeds derive from it).
        save_every: Seconds between two checkpoints.
        stop, progress: Outside control and display.
        evaluator: Plays on variants of the tasks; None = never.
        camera: Films the end of each task; None = never.
        diagnosis: Looks out for failures in what is logged; None = does not.
    """

    def __init__(
        self,
        *,
        level: EnvLevel,
        learner: Learner,
        collector: Collector,
        measurement: Measurement,
        tracker: Tracker,
        checkpoints: Checkpoints | None,
        plan: RunPlan,
        seed: int,
        save_every: float,
        stop: Stop,
        progress: Progress,
        evaluator: Evaluator | None = None,
        camera: Camera | None = None,
        diagnosis: RunWatch | None = None,
    ) -> None:
        self.level = level
        self.learner = learner
        self.collector = collector
        self.measurement = measurement
        self.tracker = tracker
        self.checkpoints = checkpoints
        self.plan = plan
        self.seed = seed
        self._rehearsal = Rehearsal(level, learner.agent, collector)
        self.evaluator = evaluator
        self.camera = camera
        self.diagnosis = diagnosis
        self.counters = Counters()
        self._save_every = save_every
        self._stop = stop
        self._progress = progress
        self._tasks = level.tasks()
        self._bounds: list[tuple[int, int]] = []
        self._episodes: list[Episode] = []
        self._evaluated: list[tuple[int, str, float]] = []  # task, variant, mean return at the task's end
        self._last_return = math.nan
        self._clock = self._saved_at = time.monotonic()
        self._training_seconds = 0.0

    def fit(self) -> Literal["finished", "interrupted"]:
        """Train to the end of the stream, or until asked to stop. Continues from the newest checkpoint."""
        resumed = self._resume()
        if resumed is None:
            self._fire("run_start")
        elif self.counters.task == len(self._tasks):
            return "finished"
        self._clock = self._saved_at = time.monotonic()
        for task in self._tasks[self.counters.task :]:
            env = self._enter(task, resumed)
            resumed = None
            try:
                if not self._train(task):
                    return "interrupted"
            finally:
                env.close()
        self._finish()
        return "finished"

    # -- one task --------------------------------------------------------------------------------------------
    def _enter(self, task: Task, resumed: dict[str, Any] | None) -> VecEnv:
        c = self.counters
        env = self.level.enter(task, derive_seed(self.seed, "env", task.index))
        self.collector.enter(env, task.index, switch=task.index > 0)
        if resumed is not None:
            self.collector.load_state(resumed["collector"])
            self.learner.agent.load_experience(resumed["experience"])
            exact = env.exact_state and self.learner.agent.exact_resume
            facts: dict[str, Any] = {"task": task.index, "exact": exact}
            self.tracker.event("resume", c.env_steps, facts)
            return env
        self._bounds.append((c.env_steps, c.env_steps))
        if task.index > 0:
            self.learner.agent.on_task_switch()
        facts = {"index": task.index, "name": task.name, "visit": task.visit, **env.facts()}
        self.tracker.event("task_start", c.env_steps, facts)
        self.measurement.anchor("task")
        if task.index > 0:
            self._fire("task_switch")
        self._fire("task_start")
        return env

    def _train(self, task: Task) -> bool:
        c, total = self.counters, self.plan.task_iterations[task.index]
        while c.task_iteration < total:
            self._iterate(task, last=c.task_iteration + 1 == total)
            if c.task_iteration == total:
                break  # a checkpoint always stands inside a task: a stop waits for the next one's first iteration
            if self._stop.is_set():
                self._save()
                return False
            if time.monotonic() - self._saved_at >= self._save_every:
                self._save()
        self._fire("task_end")
        c.task, c.task_iteration = c.task + 1, 0
        return True

    def _iterate(self, task: Task, *, last: bool) -> None:
        c, learner, agent, collector = self.counters, self.learner, self.learner.agent, self.collector
        measuring = self.measurement.due(c.iteration + 1, last_of_task=last)
        if measuring:
            self.measurement.anchor("update")
        before = collector.env_steps

        rounds = agent.collects_per_iteration
        for done in range(rounds):
            collector.collect(agent.collect_steps)
            agent.prepare(collector.obs)
            c.updates += learner.learn((c.iteration + done / rounds) / self.plan.iterations)

        c.iteration += 1
        c.task_iteration += 1
        c.env_steps = collector.env_steps
        self._bounds[task.index] = (self._bounds[task.index][0], c.env_steps)
        numbers = {**learner.flush(), **agent.statistics()}
        scalars = {
            f"loss/{k}": v
            for k, v in numbers.items()
            if k not in self.measurement.names  # logged as a metric instead
        }
        layers: Mapping[str, Layers] = {}
        if measuring:
            measured, layers = self.measurement.take(
                numbers,
                iteration=c.iteration,
                env_steps=c.env_steps,
                task_end=last,
                rehearse=functools.partial(self._rehearsal.play, task, self.seed),
            )
            scalars |= measured
        scalars |= self._look(task, last=last)
        self._fire("iteration")
        self._log(task, scalars, c.env_steps - before)
        if layers:
            self.tracker.layers(layers, c.env_steps)

    def _look(self, task: Task, *, last: bool) -> dict[str, float]:
        """Look at the agent from outside, if it is time to; not part of the training time."""
        c, began, values = self.counters, time.monotonic(), {}
        if self.evaluator is not None and self.evaluator.evaluation.due(c.iteration, last_of_task=last):
            values = self.evaluator.take(task, self.seed)
            if last:
                self._evaluated += final_evaluations(task.index, values)
        if last and self.camera is not None:
            self._film(self.camera, task)
        self._clock += time.monotonic() - began
        return values

    def _film(self, camera: Camera, task: Task) -> None:
        c, facts = self.counters, {"task": task.index, "name": task.name}
        try:
            film = camera.film(task, self.seed)
        except UserError as error:
            # The graphics were tried before the run and fail now: no reason to stop training.
            self.tracker.event("video_failed", c.env_steps, {**facts, "what": error.what, "fix": error.fix})
            self.camera = None
            return
        facts |= {"steps": film.steps, "returns": film.returns}
        self.tracker.film(f"task-{task.index:03d}", film.frames, film.fps, c.env_steps, facts)

    def _fire(self, event: str) -> None:
        for name, facts in self.learner.fire(Moment(event, self.counters), self.plan).items():
            self.tracker.event("intervention", self.counters.env_steps, {"method": name, **facts})

    def _log(self, task: Task, scalars: dict[str, float], env_steps: int) -> None:
        c = self.counters
        episodes = self.collector.drain()
        if episodes:
            self._episodes += episodes
            self._last_return = sum(e.episodic_return for e in episodes) / len(episodes)
            scalars["train/episodic_return"] = self._last_return
            scalars["train/episodic_length"] = sum(e.length for e in episodes) / len(episodes)
            self.tracker.episodes(episodes)
        extras = self.collector.env.episode_extras()
        scalars |= {f"train/{name}": value for name, value in extras.items()}
        now = time.monotonic()
        elapsed, self._clock = now - self._clock, now
        self._training_seconds += elapsed
        scalars["task/index"] = float(task.index)
        scalars["speed/env_steps_per_s"] = env_steps / max(elapsed, 1e-9)
        self.tracker.log(scalars, c.env_steps)
        if self.diagnosis is not None:
            for facts in self.diagnosis.take(scalars, c.env_steps, c.iteration / self.plan.iterations):
                self.tracker.event("diagnosis", c.env_steps, facts)
        self._progress(
            {
                "env_steps": c.env_steps,
                "total_env_steps": self.plan.env_steps,
                "episodic_return": None if math.isnan(self._last_return) else self._last_return,
                "env_steps_per_s": scalars["speed/env_steps_per_s"],
                "task": task.index,
                "task_name": task.name,
                "tasks": len(self._tasks),
            }
        )

    # -- the end ---------------------------------------------------------------------------------------------
    def summary(self) -> dict[str, float]:
        """Scores of the run so far (raw returns) and its mean speed."""
        speed = self.counters.env_steps / max(self._training_seconds, 1e-9)
        scores = {**summarise(self._episodes, self._bounds), **summarise_evaluations(self._evaluated)}
        return {**scores, "env_steps_per_s": speed}

    def _finish(self) -> None:
        self.tracker.log({f"summary/{k}": v for k, v in self.summary().items()}, self.counters.env_steps)
        self._save(simulator=False)

    # -- saving and resuming ---------------------------------------------------------------------------------
    def _save(self, *, simulator: bool = True) -> None:
        """Write a checkpoint, without what only further steps would need once the last task is over."""
        self._saved_at = time.monotonic()
        if self.checkpoints is None:
            return
        mark = self.tracker.mark()
        state = {
            "learner": self.learner.snapshot(),
            "agent": self.learner.agent.state(),
            "experience": self.learner.agent.experience() if simulator else {},
            "collector": self.collector.state(simulator=simulator),
            "measurement": self.measurement.state(),
            "counters": vars(self.counters).copy(),
            "bounds": self._bounds,
            "episodes": [list(e) for e in self._episodes],
            "evaluated": [list(e) for e in self._evaluated],
            "last_return": self._last_return,
            "training_seconds": self._training_seconds,
            "diagnosis": {} if self.diagnosis is None else self.diagnosis.state(),
            "mark": mark,
        }
        self.checkpoints.save(state, self.counters.env_steps)
        self.tracker.commit(mark)
        self._saved_at = time.monotonic()

    def _resume(self) -> dict[str, Any] | None:
        """Restore the newest checkpoint and return it; None if there is none."""
        state = self.checkpoints.load() if self.checkpoints is not None else None
        if state is None:
            self.tracker.rewind({})
            return None
        self.learner.restore(state["learner"])
        self.learner.agent.load_state(state["agent"])
        self.measurement.load_state(state["measurement"])
        self.counters = Counters(**state["counters"])
        self._bounds = [(int(a), int(b)) for a, b in state["bounds"]]
        self._episodes = [Episode(*e) for e in state["episodes"]]
        self._evaluated = [(int(t), str(v), float(r)) for t, v, r in state.get("evaluated", ())]
        self._last_return = state["last_return"]
        self._training_seconds = state["training_seconds"]
        if self.diagnosis is not None and state.get("diagnosis"):
            self.diagnosis.load_state(state["diagnosis"])
        self.tracker.rewind(state["mark"])
        return state
