from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.core.metric import Probe
from plasticine.errors import UserError
from plasticine.metrics.weights import WeightDifference, WeightMagnitude

KINDS = {"w0": "weight", "b0": "bias", "scale": "norm_scale", "offset": "norm_offset", "log_std": "free"}
MAGNITUDE = WeightMagnitude(kinds=["weight", "bias"])


def difference(since: str = "update", kinds=("weight", "bias")) -> WeightDifference:
    return WeightDifference(since=since, kinds=list(kinds))


@pytest.fixture
def params() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"w0": (30, 10), "b0": (30,), "scale": (30,), "offset": (30,), "log_std": (4,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def test_magnitude_pools_entries_of_all_tensors(make_net, measure):
    net = make_net(
        params={"w": torch.full((3, 3), 2.0), "b": torch.tensor([4.0])}, kinds={"w": "weight", "b": "bias"}
    )
    assert measure(MAGNITUDE, net) == pytest.approx(math.sqrt((9 * 4 + 16) / 10))


@pytest.mark.parametrize(
    "kinds",
    [["weight"], ["weight", "bias"], ["weight", "bias", "norm_scale", "norm_offset"], list(KINDS.values())],
)
def test_magnitude_against_numpy_and_only_of_the_chosen_kinds(kinds, params, make_net, measure):
    chosen = [p.numpy().astype(np.float64).ravel() for name, p in params.items() if KINDS[name] in kinds]
    expected = np.sqrt((np.concatenate(chosen) ** 2).mean())
    net = make_net(params=params, kinds=KINDS)
    assert measure(WeightMagnitude(kinds=kinds), net) == pytest.approx(expected, rel=1e-12)


def test_log_standard_deviation_is_no_weight(params, make_net, measure):
    before = measure(MAGNITUDE, make_net(params=params, kinds=KINDS))
    params["log_std"] = params["log_std"] + 100
    assert measure(MAGNITUDE, make_net(params=params, kinds=KINDS)) == before


def test_magnitude_scales_with_the_weights(params, make_net, measure):
    doubled = {name: -2 * p for name, p in params.items()}
    expected = 2 * measure(MAGNITUDE, make_net(params=params, kinds=KINDS))
    assert measure(MAGNITUDE, make_net(params=doubled, kinds=KINDS)) == pytest.approx(expected)


@pytest.mark.parametrize(("since", "step"), [("update", 0.5), ("task", 2.0), ("init", 3.0)])
def test_difference_to_each_anchor(since, step, params, make_net, measure):
    steps = {"update": 0.5, "task": 2.0, "init": 3.0}
    anchors = {key: {name: p - s for name, p in params.items()} for key, s in steps.items()}
    net = make_net(params=params, kinds=KINDS, anchors=anchors)
    assert measure(difference(since), net) == pytest.approx(step, rel=1e-6)


def test_difference_against_numpy(params, make_net, measure):
    anchor = {name: p + torch.linspace(-1, 1, p.numel()).reshape(p.shape) for name, p in params.items()}
    gap = [
        (params[n].numpy().astype(np.float64) - anchor[n].numpy().astype(np.float64)).ravel()
        for n in ("w0", "b0")
    ]
    expected = np.sqrt((np.concatenate(gap) ** 2).mean())
    net = make_net(params=params, kinds=KINDS, anchors={"update": anchor})
    assert measure(difference(), net) == pytest.approx(expected, rel=1e-12)


def test_unchanged_weights_have_difference_zero(params, make_net, measure):
    net = make_net(params=params, kinds=KINDS, anchors={"init": {n: p.clone() for n, p in params.items()}})
    assert measure(difference("init"), net) == 0.0


def test_tensors_without_an_earlier_value_are_left_out(make_net, measure):
    params = {"old": torch.full((2,), 3.0), "new": torch.full((50,), 9.0), "grown": torch.full((4, 1), 9.0)}
    net = make_net(params=params, anchors={"task": {"old": torch.zeros(2), "grown": torch.zeros(4, 3)}})
    assert measure(difference("task"), net) == pytest.approx(3.0)


def test_nothing_to_compare_is_no_value_instead_of_zero(params, make_net):
    net = make_net(params=params, kinds=KINDS, anchors={"init": params})
    assert difference("task").compute(Probe(nets=(net,))) == {}
    free = make_net(params={"log_std": torch.ones(2)}, kinds={"log_std": "free"})
    assert MAGNITUDE.compute(Probe(nets=(free,))) == {}


def test_networks_are_kept_apart(params, make_net):
    larger = {name: 10 * p for name, p in params.items()}
    nets = (make_net("actor", params=params, kinds=KINDS), make_net("critic", params=larger, kinds=KINDS))
    values = MAGNITUDE.compute(Probe(nets=nets))
    assert values["critic"] == pytest.approx(10 * values["actor"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_weights_give_nan(bad, params, make_net, measure):
    anchors = {"update": {name: p.clone() for name, p in params.items()}}
    params["b0"][3] = bad
    net = make_net(params=params, kinds=KINDS, anchors=anchors)
    assert math.isnan(measure(MAGNITUDE, net))
    assert math.isnan(measure(difference(), net))


def test_bad_since_names_the_closest():
    with pytest.raises(UserError, match=r"'updates'(.|\n)*'update'"):
        difference("updates")


@pytest.mark.parametrize("kinds", ["weight", [], ["weights"], [3]])
@pytest.mark.parametrize("make", [WeightMagnitude, lambda kinds: WeightDifference(since="init", kinds=kinds)])
def test_bad_kinds(kinds, make):
    with pytest.raises(UserError, match="kind"):
        make(kinds=kinds)
