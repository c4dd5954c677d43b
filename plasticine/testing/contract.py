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

__all__ = ["check_method", "check_pair"]

Nodes = dict[str, dict[str, Any]]

#: Both kinds of encoders and of actions, and an agent without a policy.
_VARIANTS: dict[str, dict[str, Any]] = {
    "separate": {"shared": False, "actions": "continuous"},
    "shared": {"shared": True, "actions": "discrete"},
    "values": {"agent_name": "pqn", "actions": "discrete"},
}
#: A part of the networks of each variant, to confine a method to.
_SCOPES = {"separate": ["actor/*"], "shared": ["shared/body.*"], "values": ["q/body.*"]}
_WHERE = {"separate": "separate encoders", "shared": "shared encoders", "values": "action values"}
_HOOKS = ("edit_network", "edit_optimizer", "loss_term", "wrap_grad", "after_step", "intervene")
#: Iterations before a run is interrupted and continued: in the middle of a task and of the run.
_INTERRUPTED_AFTER = 5


def check_method(
    method: str | Mapping[str, Mapping[str, Any]], *, config_dir: str | Path | None = None
) -> None:
    """Check that a method keeps the contract on `ToyLevel`: PPO with separate and shared encoders, and PQN.

    A method may refuse PQN (with a `UserError` when it is built), for instance because it needs a policy.

    It builds and trains; everything stays finite; no tensor is replaced or moves in memory; trainable tensors are
    leaves and nothing else shares their memory; the random numbers of environment, actions and minibatches and
    those of the process are left alone; initial values are those of the baseline; it touches nothing outside of
    its scope; what it overwrites goes on learning; it changes something; an interrupted run continues bit by bit;
    and with its ``neutral`` arguments it equals the baseline bit by bit.

    Rules that act every so often are made to act every second iteration, so that they do act.

    Args:
        method: Name of a YAML file in a ``method`` folder on Hydra's search path, or ``{name: {_target_: ...}}``.
        config_dir: A further folder with YAML groups.

    Raises:
        AssertionError: The contract is broken; the message says how.
    """
    nodes = method_nodes(method, config_dir) if isinstance(method, str) else _plain(method)
    nodes = _eager(nodes)
    classes = [type(m) for m in build_methods(nodes)]
    for variant in _VARIANTS:
        where = f"{'+'.join(nodes)} ({_WHERE[variant]})"
        if variant == "values" and _refused(nodes):
            continue
        _check_run(record(_config(nodes, variant)), _baseline(variant), classes, where)
        strong = record(_config(_changed(nodes, "strong"), variant))
        _check_run(strong, _baseline(variant), classes, f"{where}, strong")
        _check_effect(strong, _baseline(variant), classes, where)
        _check_keeps_learning(strong, where)
        _check_resume(_changed(nodes, "strong"), variant, strong, where)
        _check_scope(_changed(nodes, "strong"), variant, classes, where)
        _check_neutral(nodes, classes, variant, where)


def check_pair(first: str, second: str, *, train: bool = True) -> str:
    """Build a learner with two methods, in this order, and `train` it; return "" or why they were refused.

    Raises:
        AssertionError: They neither train to finite values nor refuse each other with a `UserError`.
    """
    nodes = _eager({**method_nodes_cached(first), **method_nodes_cached(second)})
    config = _config(nodes, "shared")
    try:
        if not train:
            assemble_parts(config)
            return ""
        run = record(config, stop_after=3)
    except UserError as refusal:
        return refusal.what
    _check_finite(run, f"{first}+{second}")
    return ""


@functools.cache
def method_nodes_cached(method: str) -> Nodes:
    """`method_nodes`, composed once per process."""
    return method_nodes(method)


def _refused(nodes: Nodes) -> bool:
    """Whether the methods refuse the agent without a policy."""
    try:
        assemble_parts(_config(nodes, "values"))
    except UserError:
        return True
    return False


# -- configurations ------------------------------------------------------------------------------------------
def _plain(method: Mapping[str, Mapping[str, Any]]) -> Nodes:
    return {name: copy.deepcopy(dict(node)) for name, node in method.items()}


def _config(nodes: Nodes, variant: str, **agent: Any) -> dict[str, Any]:
    return tiny_config(nodes, **_VARIANTS[variant], agent=agent)


@functools.cache
def _baseline(variant: str, clip: bool = True) -> Recording:
    """The run without any method."""
    return record(_config({}, variant, **({} if clip else {"max_grad_norm": None})))


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
    written = set().union(*run.overwritten)
    unknown = written - set(run.params) - set(run.trainer.learner.state.frozen)
    assert not unknown, f"{where}: {sorted(unknown)} were overwritten but belong to nobody"


def _check_resume(nodes: Nodes, variant: str, whole: Recording, where: str) -> None:
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


def _check_neutral(nodes: Nodes, classes: list[type[Method]], variant: str, where: str) -> None:
    if any(not c.neutral and any(getattr(c, h) is not getattr(Method, h) for h in _HOOKS) for c in classes):
        return
    run, base = record(_config(_changed(nodes, "neutral"), variant)), _baseline(variant)
    for i, (mine, theirs) in enumerate(zip(run.iterations, base.iterations, strict=True)):
        missing = sorted(set(theirs) - set(mine))
        different = missing or _differing(theirs, mine)
        assert not different, f"{where}: with neutral arguments {different[0]} differs in iteration {i + 1}"


# -- scope ---------------------------------------------------------------------------------------------------
def _check_scope(nodes: Nodes, variant: str, classes: list[type[Method]], where: str) -> None:
    """Only tensors in scope are touched, and networks out of scope start and train as the baseline's do."""
    scope = _SCOPES[variant]
    narrow = {name: {**node, "scope": scope} for name, node in nodes.items()}
    config = _config(narrow, variant, max_grad_norm=None)  # clipping would couple the networks
    try:
        with _watching(classes) as strays:
            run = record(config)
    except UserError:
        assert variant != "separate", f"{where}: refuses scope {scope}"
        return
    assert not strays, f"{where}: {strays[0]}, which is out of scope {scope}"
    if variant != "separate":
        return
    base = _baseline(variant, clip=False)
    theirs = {k: v for k, v in base.initial.items() if k.startswith("params:critic/")}
    mine = {k: v for k, v in run.initial.items() if k.startswith("params:critic/")}
    assert mine.keys() == theirs.keys(), f"{where}: changes a network that is out of scope {scope}"
    assert not _differing(mine, theirs), f"{where}: initial values out of scope {scope} differ"
    if not any(c.edit_network is not Method.edit_network for c in classes):
        first = [{k: v for k, v in r.learnt[0][1].items() if k.startswith("critic/")} for r in (run, base)]
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
            for hook in ("after_step", "intervene"):
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
