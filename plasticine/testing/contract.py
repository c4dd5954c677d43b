"""What every method must keep, checked on tiny runs."""

from __future__ import annotations

import contextlib
import copy
import functools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from plasticine.compose import assemble_parts, build_methods
from plasticine.core.learner import Learner
from plasticine.core.method import Method
from plasticine.errors import UserError
from plasticine.testing.runs import Recording, clones, method_nodes, record, tiny_config
from plasticine.testing.variants import VARIANTS, Variant

__all__ = ["check_method", "check_pair"]

Nodes = dict[str, dict[str, Any]]

_HOOKS = (
    "edit_network",
    "edit_optimizer",
    "loss_term",
    "gradient_term",
    "wrap_loss",
    "wrap_grad",
    "after_step",
    "observe",
    "intervene",
)
#: Iterations before a run is interrupted and continued: in the middle of the second of two or three tasks.
_INTERRUPTED_AFTER = 5


def check_method(
    method: str | Mapping[str, Mapping[str, Any]], *, config_dir: str | Path | None = None
) -> dict[str, str]:
    """Check that a method keeps the contract with every agent, on `ToyLevel`.

    These are PPO with separate and shared encoders, PQN, TD3 and C51 on vectors; and, for training alone, PPO with
    an IMPALA and C51 with a Nature network on images. A method may refuse any of them but the first with a
    `UserError` when it is built, for instance because it needs a policy.

    It builds and trains; everything stays finite; no tensor is replaced or moves in memory; trainable tensors are
    leaves and nothing else shares their memory; all of them are trained, and nothing else is; slow copies follow;
    the random numbers of environment, actions and minibatches and those of the process are left alone; initial
    values are those of the baseline; it touches nothing outside of its scope; what it overwrites goes on learning;
    it changes something; an interrupted run continues bit by bit; and with its ``neutral`` arguments it equals the
    baseline bit by bit.

    Rules that act every so often are made to act every second iteration, so that they do act.

    Args:
        method: Name of a YAML file in a ``method`` folder on Hydra's search path, or ``{name: {_target_: ...}}``.
        config_dir: A further folder with YAML groups.

    Returns:
        For every learner that the method refused, the reason.

    Raises:
        AssertionError: The contract is broken; the message says how.
    """
    nodes = _nodes(method, config_dir) if isinstance(method, str) else _plain(method)
    nodes = _eager(nodes)
    classes = [type(m) for m in build_methods(nodes)]
    refused = {}
    for i, variant in enumerate(VARIANTS):
        refusal = _refusal(nodes, variant)
        if refusal is None:
            _check_variant(nodes, classes, i)
        else:
            assert i, f"{'+'.join(nodes)} refuses {variant.title}: {refusal.what}"
            assert refusal.fix, f"{'+'.join(nodes)} refuses {variant.title} without saying what would work"
            refused[variant.title] = refusal.what
    return refused


def _check_variant(nodes: Nodes, classes: list[type[Method]], i: int) -> None:
    variant = VARIANTS[i]
    where = f"{'+'.join(nodes)} ({variant.title})"
    strong = _changed(nodes, "strong")
    if strong != nodes and i == 0:
        _check_run(record(_config(nodes, variant)), _baseline(i), classes, where)
    run = record(_config(strong, variant))
    _check_run(run, _baseline(i), classes, f"{where}, strong")
    _check_effect(run, _baseline(i), classes, where)
    _check_keeps_learning(run, where)
    _check_slow_copies(run, _baseline(i), where)
    if variant.thorough:
        _check_resume(strong, variant, run, where)
        _check_scope(strong, i, classes, where)
        _check_neutral(nodes, classes, i, where)


def check_pair(first: str, second: str, *, train: bool = True) -> str:
    """Build a learner with two methods, in this order, and `train` it; return "" or why they were refused.

    Raises:
        AssertionError: They neither train to finite values nor refuse each other with a `UserError` that says what
            would work.
    """
    nodes = _eager({**_nodes(first), **_nodes(second)})
    config = _config(nodes, VARIANTS[1])
    try:
        if not train:
            assemble_parts(config)
            return ""
        run = record(config, stop_after=3)
    except UserError as refusal:
        if not refusal.fix:
            raise AssertionError(f"{first}+{second} are refused without saying what would work") from refusal
        return refusal.what
    _check_finite(run, f"{first}+{second}")
    return ""


def _refusal(nodes: Nodes, variant: Variant) -> UserError | None:
    """Why the methods cannot be built for a learner."""
    try:
        assemble_parts(_config(nodes, variant))
    except UserError as refusal:
        return refusal
    return None


# -- configurations ------------------------------------------------------------------------------------------
@functools.cache
def _nodes(method: str, config_dir: str | Path | None = None) -> Nodes:
    """`method_nodes`, composed once per process; not to be written to."""
    return method_nodes(method, config_dir)


def _plain(method: Mapping[str, Mapping[str, Any]]) -> Nodes:
    return {name: copy.deepcopy(dict(node)) for name, node in method.items()}


def _config(nodes: Nodes, variant: Variant, *, clip: bool = True) -> dict[str, Any]:
    config = tiny_config(nodes, **variant.options)
    config["env"] |= variant.env
    if not clip and "max_grad_norm" in config["agent"]:
        config["agent"]["max_grad_norm"] = None
    return config


@functools.cache
def _baseline(variant: int, clip: bool = True) -> Recording:
    """The run without any method."""
    return record(_config({}, VARIANTS[variant], clip=clip))


def _eager(nodes: Nodes) -> Nodes:
    """The same methods, acting every second iteration wherever they act every so often."""
    nodes = copy.deepcopy(nodes)
    for node in nodes.values():
        rules = node.get("when") or []
        rules = [rules] if isinstance(rules, Mapping) else list(rules)
        node["when"] = [{"every": 2, "unit": "iterations"} if r.get("every") else dict(r) for r in rules]
    return nodes


def _changed(nodes: Nodes, which: str) -> Nodes:
    """The methods with the arguments that their classes declare as ``strong`` or ``neutral``."""
    declared = {m.name: getattr(type(m), which) for m in build_methods(nodes)}
    return {name: {**node, **declared[name]} for name, node in nodes.items()}


# -- checks --------------------------------------------------------------------------------------------------
def _differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names in both whose values differ in a bit that matters (NaN equals NaN, -0 equals 0)."""
    return [k for k in a if k in b and not torch.equal(*(torch.nan_to_num(t.detach()) for t in (a[k], b[k])))]


def _check_finite(run: Recording, where: str) -> None:
    for i, tensors in enumerate(run.iterations):
        bad = [k for k, v in tensors.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
        assert not bad, f"{where}: {bad[0]} is not finite after iteration {i + 1}"


def _check_run(run: Recording, base: Recording, classes: list[type[Method]], where: str) -> None:
    assert run.outcome == "finished", f"{where}: the run ended as {run.outcome}"
    _check_finite(run, where)
    assert not run.moved, f"{where}: {run.moved[0]} was replaced or moved in memory: write in place"
    assert not run.draws, f"{where}: a process-wide random generator was used: use the method's own"
    _check_ownership(run, where)
    mine, theirs = (r.trainer.learner.streams.state() for r in (run, base))
    for name in theirs:
        assert torch.equal(mine[name], theirs[name]), f"{where}: the random stream {name!r} was disturbed"
    rng = [r.trainer.collector.env.state()["rng"] for r in (run, base)]
    assert rng[0] == rng[1], f"{where}: the environment drew other random numbers"
    if not any(c.edit_network is not Method.edit_network for c in classes):
        same = {k: v for k, v in base.initial.items() if k.startswith("params:")}
        assert not _differing(same, run.initial), f"{where}: initial values differ from the baseline's"


def _check_ownership(run: Recording, where: str) -> None:
    state = run.trainer.learner.state
    places = {p.untyped_storage().data_ptr(): k for k, p in state.params.items()}
    assert len(places) == len(state.params), f"{where}: two parameters share their memory"
    for name, tensor in state.tensors().items():
        trainable = name.startswith("params:")
        assert tensor.is_leaf, f"{where}: {name} is not a leaf"
        assert tensor.requires_grad == trainable, f"{where}: {name} has requires_grad={tensor.requires_grad}"
        owner = places.get(tensor.untyped_storage().data_ptr())
        assert trainable or owner is None, f"{where}: {name} shares its memory with {owner}"


def _check_effect(run: Recording, base: Recording, classes: list[type[Method]], where: str) -> None:
    if not any(getattr(c, hook) is not getattr(Method, hook) for c in classes for hook in _HOOKS):
        return
    mine, theirs = run.params, base.params
    same = mine.keys() == theirs.keys() and all(mine[k].shape == theirs[k].shape for k in mine)
    assert not same or _differing(mine, theirs), (
        f"{where}: has no effect; declare stronger arguments in `strong`"
    )


def _check_keeps_learning(run: Recording, where: str) -> None:
    """Every parameter is trained, and goes on being trained after every time it was overwritten."""
    trained = [set(_differing(before, after)) for before, after in run.learnt]
    for i in range(len(trained)):
        due = set(run.params) if i == 0 else run.overwritten[i - 1] & set(run.params)
        still = due.difference(*trained[i:])
        when = f"after it was overwritten in iteration {i}" if i else "at all"
        assert not still, f"{where}: {sorted(still)[0]} is not trained {when}"
    frozen = [k for before, after in run.learnt for k in run.trainer.learner.state.frozen
              if not torch.equal(before[k], after[k])]  # fmt: skip
    assert not frozen, f"{where}: {frozen[0]} is trained, but belongs to no optimizer"
    written = set().union(*run.overwritten)
    unknown = written - set(run.params) - set(run.trainer.learner.state.frozen)
    assert not unknown, f"{where}: {sorted(unknown)} were overwritten but belong to nobody"


def _check_slow_copies(run: Recording, base: Recording, where: str) -> None:
    """Slow copies of as many tensors as without the method, of the same shapes, and none of them stands still."""
    state, plain = run.trainer.learner.state, base.trainer.learner.state
    if plain.targets.keys() != plain.params.keys():
        return
    missing = sorted(state.params.keys() ^ state.targets.keys())
    assert not missing, f"{where}: {missing[0]} has no slow copy, or is only a slow copy"
    for name, slow in state.targets.items():
        assert slow.shape == state.params[name].shape, f"{where}: the slow copy of {name} has another shape"
    still = {f"targets:{k}" for k in state.targets}.difference(_differing(run.initial, run.iterations[-1]))
    assert not still, f"{where}: the slow copy {sorted(still)[0]} does not follow"


def _check_resume(nodes: Nodes, variant: Variant, whole: Recording, where: str) -> None:
    config = _config(nodes, variant)
    with tempfile.TemporaryDirectory() as folder:
        part = record(config, folder=Path(folder), stop_after=_INTERRUPTED_AFTER)
        assert part.outcome == "interrupted"
        rest = record(config, folder=Path(folder))
    ends = [r.trainer.learner.state.tensors() for r in (whole, rest)]
    assert ends[0].keys() == ends[1].keys()
    different = _differing(*ends)
    assert not different, f"{where}: {different[0]} differs after an interruption: keep all state in the slot"
    for name, value in whole.trainer.learner.streams.state().items():
        again = rest.trainer.learner.streams.state()[name]
        assert torch.equal(value, again), f"{where}: the random stream {name!r} differs after an interruption"


def _check_neutral(nodes: Nodes, classes: list[type[Method]], i: int, where: str) -> None:
    if any(not c.neutral and any(getattr(c, h) is not getattr(Method, h) for h in _HOOKS) for c in classes):
        return
    run, base = record(_config(_changed(nodes, "neutral"), VARIANTS[i])), _baseline(i)
    for n, (mine, theirs) in enumerate(zip(run.iterations, base.iterations, strict=True)):
        missing = sorted(set(theirs) - set(mine))
        different = missing or _differing(theirs, mine)
        assert not different, f"{where}: with neutral arguments {different[0]} differs in iteration {n + 1}"


# -- scope ---------------------------------------------------------------------------------------------------
def _check_scope(nodes: Nodes, i: int, classes: list[type[Method]], where: str) -> None:
    """Only tensors in scope are touched, and networks out of scope start and train as the baseline's do."""
    variant, scope = VARIANTS[i], VARIANTS[i].scope
    narrow = {name: {**node, "scope": scope} for name, node in nodes.items()}
    config = _config(narrow, variant, clip=False)  # clipping would couple the networks
    try:
        with _watching(classes) as strays:
            run = record(config)
    except UserError:
        assert not variant.independent, f"{where}: refuses scope {scope}"
        return
    assert not strays, f"{where}: {strays[0]}, which is out of scope {scope}"
    base = _baseline(i, clip=False)
    inside = tuple(f"params:{g.split('/')[0]}/" for g in scope)
    mine, theirs = (
        {k: v for k, v in r.initial.items() if k.startswith("params:") and not k.startswith(inside)}
        for r in (run, base)
    )
    assert mine.keys() == theirs.keys(), f"{where}: changes a network that is out of scope {scope}"
    assert not _differing(mine, theirs), f"{where}: initial values out of scope {scope} differ"
    acted = bool(run.overwritten[0])  # other actions, other data
    if (
        variant.independent
        and not acted
        and not any(c.edit_network is not Method.edit_network for c in classes)
    ):
        outside = {k.removeprefix("params:") for k in mine}
        first = [{k: v for k, v in r.learnt[0][1].items() if k in outside} for r in (run, base)]
        different = _differing(*first)
        assert not different, (
            f"{where}: {different[0]} learns differently although it is out of scope {scope}"
        )


@contextlib.contextmanager
def _watching(classes: list[type[Method]]) -> Iterator[list[str]]:
    """Collect what the hooks of `classes` write outside of their scope."""
    strays: list[str] = []
    learners: dict[int, Learner] = {}
    build = Learner.build

    def watched_build(**arguments: Any) -> Learner:
        learner = build(**arguments)
        learners.update({id(m): learner for m in learner.methods})
        return learner

    def watched(hook: str, original: Any) -> Any:
        @functools.wraps(original)
        def call(self: Method, *args: Any) -> Any:
            learner = learners.get(id(self))
            if learner is None:
                return original(self, *args)
            before = clones(learner.state.tensors())
            result = original(self, *args)
            changed = _differing(before, learner.state.tensors())
            strays.extend(f"{hook} changes {k}" for k in changed if not _permitted(self, k))
            return result

        return call

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Learner, "build", staticmethod(watched_build)))
        for cls in dict.fromkeys(classes):
            for hook in ("after_step", "observe", "intervene"):
                if getattr(cls, hook) is not getattr(Method, hook):
                    wrapped = watched(hook, getattr(cls, hook))
                    stack.enter_context(mock.patch.object(cls, hook, wrapped))
        yield strays


def _permitted(method: Method, tensor: str) -> bool:
    """Whether a method may write a tensor of the learner, given by its flat name."""
    part, _, rest = tensor.partition(":")
    if part == "slots":
        return rest.startswith(f"{method.name}:")
    if part == "opt":
        what = rest.partition(":")[2]
        return method.reaches(what.partition("/")[2])
    return part != "agent" and method.reaches(rest)
