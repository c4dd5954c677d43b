"""The shape of the code base: who may know whom, and what every YAML must match."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plasticine.compose import _locate, _parameters
from plasticine.core.agent import Agent
from plasticine.core.env import EnvLevel
from plasticine.core.method import Method
from plasticine.core.metric import Metric
from plasticine.diagnosis.signature import Signature

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "plasticine"
CONF = ROOT / "conf"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Layer -> packages of ours it may import (itself always).
ALLOWED = {
    "core": {"errors"},
    "networks": {"core", "errors"},
    "memory": {"core", "errors"},
    "agents": {"core", "networks", "memory", "errors"},
    "methods": {"core", "networks", "errors"},
    "metrics": {"core", "errors"},
    "envs": {"core", "errors"},
    "tracking": {"core", "errors"},
    "diagnosis": {"analysis", "core", "tracking", "errors"},
}
#: Third-party packages with one home each.
HOMES = {
    "hydra": {"cli", "hydra_plugins", "api", "cell", "launch"},
    "omegaconf": {"cli", "hydra_plugins", "api", "cell", "launch"},
    "mlflow": {"tracking", "doctor"},
    "gymnasium": {"envs", "doctor"},
    "ale_py": {"envs", "doctor"},
    "procgen": {"envs", "doctor"},
    "jax": {"envs", "doctor"},
    "craftax": {"envs", "doctor"},
    "dm_control": {"envs", "doctor"},
    "mujoco": {"envs", "doctor"},
    "PIL": {"envs", "tracking"},
}


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, *, everywhere: bool) -> list[str]:
    """Absolute names imported by a file; without `everywhere`, not those under ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    if not everywhere:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.If)
                and isinstance(node.test, ast.Name)
                and node.test.id == "TYPE_CHECKING"
            ):
                skipped |= {id(n) for child in node.body for n in ast.walk(child)}
    found = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers_import_downwards_only(path):
    layer = layer_of(path)
    for name in imports(path, everywhere=False):
        parts = name.split(".")
        if parts[0] == "plasticine" and len(parts) > 1 and layer in ALLOWED:
            assert parts[1] in ALLOWED[layer] | {layer}, f"{layer} must not import {name}"
        if parts[0] in HOMES:
            assert layer in HOMES[parts[0]], f"{name} belongs to {HOMES[parts[0]]}, not to {layer}"


def guests() -> set[str]:
    """Names of everything that is plugged in: agents, methods, levels, metrics and their domains."""
    names = {p.stem for group in ("agent", "method", "env") for p in (CONF / group).glob("*.yaml")}
    for path in (CONF / "metrics").glob("*.yaml"):
        names |= set(yaml.safe_load(path.read_text())["set"])
    return names | {
        "procgen",
        "atari",
        "craftax",
        "dmc",
        "cartpole",
        "quadruped",
        "walker",
        "redo",
        "snp",
        "trac",
    }


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda p: p.name)
def test_core_names_nobody(path):
    """No identifier and no string in core/ is the name of a guest (docstrings may mention them)."""
    tree = ast.parse(path.read_text())
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(id(first.value))
    names = guests()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            words = set(node.value.replace("/", " ").replace(".", " ").split())
            assert not words & names, f"line {node.lineno}: {words & names}"
        for attribute in ("id", "attr", "name", "arg"):
            word = getattr(node, attribute, None)
            if isinstance(word, str):
                assert word.lower() not in names, f"line {node.lineno}: {word}"


def test_the_check_would_notice(tmp_path):
    """Guard of the guard: a guest's name in code is found."""
    assert {"ppo", "vanilla", "classic", "rdu", "redo"} <= guests()


def targets() -> list[tuple[str, dict, type | None, set[str]]]:
    bases = {"agent": Agent, "env": EnvLevel, "network": None}
    found = []
    for group, base in bases.items():
        for path in sorted((CONF / group).glob("*.yaml")):
            node = yaml.safe_load(path.read_text())
            node.pop("defaults", None)  # of the YAML files, not of the constructor
            found.append((f"{group}/{path.stem}", node, base, set()))
    for path in sorted((CONF / "method").glob("*.yaml")):
        for node in (yaml.safe_load(path.read_text()) or {}).values():
            found.append((f"method/{path.stem}", node, Method, {"name"}))
    for path in sorted((CONF / "metrics").glob("*.yaml")):
        for name, node in yaml.safe_load(path.read_text())["set"].items():
            found.append((f"metrics/{path.stem}/{name}", node, Metric, set()))
    for path in sorted((CONF / "diagnosis").glob("*.yaml")):
        for name, node in yaml.safe_load(path.read_text())["set"].items():
            found.append((f"diagnosis/{path.stem}/{name}", node, Signature, set()))
    return [t for t in found if "_target_" in t[1]]


@pytest.mark.parametrize("case", targets(), ids=lambda c: c[0])
def test_yaml_and_constructor_have_the_same_parameters(case):
    """Every number stands in the YAML, every key has a meaning in the signature; no defaults hide in code."""
    key, node, base, runtime = case
    target = _locate(node["_target_"], key)
    assert base is None or issubclass(target, base)
    parameters, _ = _parameters(target)
    assert set(node) - {"_target_"} == set(parameters) - runtime
    assert all(p.default is p.empty and p.kind is p.KEYWORD_ONLY for p in parameters.values())


def test_every_method_class_has_a_yaml_and_a_docstring():
    used = {c[1]["_target_"] for c in targets() if c[0].startswith("method/")}
    for path in sorted((PACKAGE / "methods").glob("*.py")):
        module = importlib.import_module(f"plasticine.methods.{path.stem}")
        for name, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Method) and cls.__module__ == module.__name__:
                assert f"{cls.__module__}.{name}" in used, name
                assert cls.__doc__


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 400


def test_importing_the_package_is_light():
    heavy = ("torch", "mlflow", "hydra", "dm_control", "jax")
    code = f"import sys, plasticine; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_public_surface_is_frozen():
    import plasticine

    assert sorted(plasticine.__all__) == [
        "Agent",
        "EnvLevel",
        "Method",
        "Metric",
        "UserError",
        "configure",
        "load",
        "load_run",
        "load_study",
        "make",
    ]
    assert all(getattr(plasticine, name) for name in plasticine.__all__)
    assert sorted(m for m in vars(Method) if not m.startswith("_") and callable(getattr(Method, m))) == [
        "after_step",
        "check",
        "edit_network",
        "edit_optimizer",
        "firings",
        "gradient_term",
        "init",
        "intervene",
        "loss_term",
        "observe",
        "reaches",
        "select",
        "touches",
        "wrap_grad",
        "wrap_loss",
    ]
