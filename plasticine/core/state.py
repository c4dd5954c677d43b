"""Everything that changes while training, as named tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["Counters", "OptState", "Params", "Slot", "TrainState"]

#: Tensors by full name, e.g. ``actor/body.0.weight``.
Params = dict[str, Tensor]
#: A method's or agent's own tensors.
Slot = dict[str, Tensor]
#: An optimizer's tensors: ``<what>/<parameter name>`` or ``<what>``.
OptState = dict[str, Tensor]


@dataclass
class TrainState:
    """The learner. The set, shapes and storage of these tensors never change after construction.

    Attributes:
        params: Trainable tensors of the online networks.
        frozen: Tensors written by interventions only (frozen copies of heads).
        targets: Slow copies kept by the agent, under the names of the tensors they follow.
        opt: Optimizer state by phase.
        slots: State of each method.
        agent: The agent's further tensors.
    """

    params: Params = field(default_factory=dict)
    frozen: Params = field(default_factory=dict)
    targets: Params = field(default_factory=dict)
    opt: dict[str, OptState] = field(default_factory=dict)
    slots: dict[str, Slot] = field(default_factory=dict)
    agent: Slot = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under unique flat names (for checkpoints, hashes and address checks)."""
        flat: dict[str, Tensor] = {}
        for part in ("params", "frozen", "targets", "agent"):
            flat |= {f"{part}:{k}": v for k, v in getattr(self, part).items()}
        for part in ("opt", "slots"):
            for owner, tensors in getattr(self, part).items():
                flat |= {f"{part}:{owner}:{k}": v for k, v in tensors.items()}
        return flat


@dataclass
class Counters:
    """Where the run is.

    Attributes:
        task: Index of the current task in the stream.
        task_iteration: Iterations finished inside it.
        iteration: Iterations finished in the run (one iteration = one collect + learn round).
        env_steps: Environment steps taken, summed over environments, rows that are never learnt from excluded.
        updates: Optimizer steps taken (all phases).
    """

    task: int = 0
    task_iteration: int = 0
    iteration: int = 0
    env_steps: int = 0
    updates: int = 0
