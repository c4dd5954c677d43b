"""What conf/metrics promises, and what holds for every metric that is switched on there."""

from __future__ import annotations

import importlib
import inspect
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from plasticine.api import configure
from plasticine.core.metric import Metric, NetProbe, Probe, SiteProbe
from plasticine.testing import check_metric

FOLDER = Path(__file__).parents[2] / "conf" / "metrics"
#: Of the expensive ones, those tested in files of their own.
EXPENSIVE = {"grad_cov", "entk_rank", "hessian_top", "hessian_rank", "capacity_probe", "overestimation"}
CORE = OmegaConf.to_container(OmegaConf.load(FOLDER / "core.yaml"), resolve=True)
NONE = OmegaConf.to_container(OmegaConf.load(FOLDER / "none.yaml"), resolve=True)
FULL = OmegaConf.to_container(OmegaConf.load(FOLDER / "full.yaml"), resolve=True)
NODES = {**CORE["set"], **{k: v for k, v in FULL["set"].items() if k not in EXPENSIVE}}
WHOLE_AGENT = {"gradient_norm", "policy_entropy", "explained_variance"}
#: These have nothing to say about a probe without a learner behind it.
OF_A_LEARNER = {
    *("policy_churn", "grama", "effective_lr", "effective_rotation", "adam_v_stats", "adam_v_below_eps"),
}


def target_of(name: str) -> type[Metric]:
    module, _, attribute = NODES[name]["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def build(name: str) -> Metric:
    return target_of(name)(**{key: value for key, value in NODES[name].items() if key != "_target_"})


EVERY = pytest.mark.parametrize("name", [name for name in NODES if name not in OF_A_LEARNER])


class TwoNetworks(nn.Module):
    """Two small trainable networks with dropout, which would show a change of mode or of random state."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 8), nn.Tanh())
        self.critic = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 8), nn.Tanh())

    def probe(self, observations: torch.Tensor) -> Probe:
        nets = []
        for name, net in self.named_children():
            first = net[0](observations)
            second = net[3](first.relu())
            sites = (
                SiteProbe("body.0", first, first.relu(), "relu"),
                SiteProbe("body.1", second, second.tanh(), "tanh"),
            )
            params = dict(net.named_parameters())
            earlier = {key: value.detach() - 0.1 for key, value in params.items()}
            anchors = dict.fromkeys(("update", "task", "init"), earlier)
            kinds = {key: key.rpartition(".")[2] for key in params}
            nets.append(NetProbe(name, sites, second.tanh(), params, anchors, kinds))
        scalars = {"grad_norm": 0.5, "policy_entropy": 1.5, "explained_variance": 0.25}
        return Probe(tuple(nets), scalars)


@pytest.fixture
def networks() -> TwoNetworks:
    torch.manual_seed(0)
    networks = TwoNetworks()
    networks.probe(torch.randn(7, 5)).nets[0].features.sum().backward()
    return networks


def test_core_is_complete():
    assert set(CORE) == {"every", "probe_size", "set", "video"}
    assert CORE["every"] >= 1
    assert CORE["probe_size"] >= 1024
    assert set(CORE["set"]) == WHOLE_AGENT | {
        "rdu", "rdu_mean", "fau", "dead_units", "frozen_units", "srank", "approx_rank", "stable_rank",
        "effective_rank", "feature_norm", "feature_variance", "weight_magnitude", "weight_difference",
        "weight_difference_task", "weight_difference_init", "update_to_weight", "policy_churn",
    }  # fmt: skip
    assert CORE["set"]["rdu"]["tau"] == 0.025
    assert CORE["set"]["rdu"]["aggregate"] == "total"
    assert CORE["set"]["rdu_mean"] == {**CORE["set"]["rdu"], "aggregate": "mean"}
    assert CORE["set"]["weight_difference"]["since"] == "update"
    assert CORE["set"]["weight_difference_task"]["since"] == "task"
    assert CORE["set"]["weight_difference_init"]["since"] == "init"
    assert "free" not in CORE["set"]["weight_magnitude"]["kinds"]


def test_full_is_core_and_more():
    assert FULL["defaults"] == ["core", "_self_"]
    assert set(FULL["set"]) == EXPENSIVE | {
        "grama", "saturation", "saturated", "effective_lr", "effective_rotation", "adam_v_stats",
        "adam_v_below_eps",
    }  # fmt: skip
    assert FULL["set"]["grama"]["tau"] == 0.01
    composed = configure("env=classic", "metrics=full")["metrics"]
    assert set(composed["set"]) == set(CORE["set"]) | set(FULL["set"])
    assert (composed["every"], composed["probe_size"]) == (CORE["every"], CORE["probe_size"])


@pytest.mark.parametrize("name", NODES)
def test_contract(name):
    """On networks of two agents, vectors and images: changes nothing, repeats itself, never raises."""
    node = {**NODES[name]}
    if name in ("effective_lr", "effective_rotation"):
        with pytest.raises(AssertionError, match="finds no finite number anywhere"):
            check_metric(node)  # the networks there have no normalised layers
    else:
        check_metric(node)


def test_none_has_the_same_keys_and_no_metric():
    assert set(NONE) == set(CORE)
    assert NONE["set"] == {}


@EVERY
def test_yaml_gives_exactly_the_keywords_of_the_constructor(name):
    parameters = list(inspect.signature(target_of(name)).parameters.values())
    assert {p.name for p in parameters} == set(NODES[name]) - {"_target_"}
    assert all(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)


@EVERY
def test_every_network_gets_a_finite_number(name, networks):
    values = build(name).compute(networks.probe(torch.randn(32, 5)))
    assert set(values) == ({""} if name in WHOLE_AGENT else {"actor", "critic"})
    assert all(type(value) is float and math.isfinite(value) for value in values.values())


@EVERY
def test_the_same_probe_gives_the_same_number(name, networks):
    observations = torch.randn(32, 5)
    first, second = (build(name).compute(networks.probe(observations)) for _ in range(2))
    assert first == second


def snapshot(networks: TwoNetworks, probe: Probe) -> list[torch.Tensor]:
    tensors = [*networks.state_dict().values(), *(p.grad for p in networks.actor.parameters())]
    for net in probe.nets:
        tensors += [net.features, *(t for site in net.sites for t in (site.pre, site.post))]
        tensors += [t for anchor in net.anchors.values() for t in anchor.values()]
    return [tensor.detach().clone() for tensor in tensors]


@EVERY
@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_nothing(name, training, networks):
    networks.train(training)
    probe = networks.probe(torch.randn(32, 5))
    before = snapshot(networks, probe)
    modes = [module.training for module in networks.modules()]
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()

    build(name).compute(probe)

    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(networks, probe), strict=True))
    assert all(p.grad is None for p in networks.critic.parameters())
    assert all(p.requires_grad for p in networks.parameters())
    assert [module.training for module in networks.modules()] == modes
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))


@EVERY
def test_broken_network_gives_nan_for_itself_only(name, networks):
    with torch.no_grad():
        networks.actor[0].weight.fill_(math.nan)
        networks.actor[3].weight.fill_(math.nan)
    probe = networks.probe(torch.randn(32, 5))
    values = build(name).compute(Probe(probe.nets, dict.fromkeys(probe.scalars, math.nan)))
    assert math.isnan(values["" if name in WHOLE_AGENT else "actor"])
    assert name in WHOLE_AGENT or math.isfinite(values["critic"])
