"""Methods on convolutional and residual networks, trained from images with a shared encoder."""

from __future__ import annotations

import pytest
import torch

from plasticine.core.schedule import Moment
from plasticine.core.state import Counters
from plasticine.errors import UserError
from plasticine.testing import method_nodes, record, tiny_config

NETWORKS = ("nature_cnn", "impala")
#: Arguments that make each method act within nine iterations.
METHODS = {
    "vanilla": {},
    "redo": {"when": {"every": 2, "unit": "iterations"}, "tau": 0.9},
    "plasticity_injection": {},
    "layer_norm": {},
    "crelu": {"keep_width": "columns"},
    "dff": {},
    "nap": {},
    "parseval": {},
    "full_reset": {},
    "snp": {"shrink": 0.9, "noise": 0.1, "noise_every": 2},
    "snp_hard": {},
}


def nodes(method):
    return {k: {**node, **METHODS[method]} for k, node in method_nodes(method).items()}


def images(network, methods, **options):
    return tiny_config(methods, network_name=network, shared=True, **options)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_trains_every_tensor_and_continues_bit_by_bit(method, network, tmp_path):
    config = images(network, nodes(method))
    whole = record(config)
    assert not whole.moved
    assert not whole.draws
    params = whole.params
    assert all(bool(torch.isfinite(v).all()) for v in params.values())
    trained = {k for before, after in whole.learnt for k in params if not torch.equal(before[k], after[k])}
    assert trained == set(params)
    assert all(v.is_contiguous() for v in params.values())
    if METHODS[method].get("when") or method in ("snp_hard", "full_reset", "plasticity_injection"):
        assert any(whole.overwritten)
    record(config, folder=tmp_path, stop_after=5)
    rest = record(config, folder=tmp_path)
    ends = (whole.trainer.learner.state.tensors(), rest.trainer.learner.state.tensors())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("last", [False, True])
def test_dead_channels_are_recycled_without_a_change_of_the_function(network, last):
    """A channel is killed by its bias; every weight that reads it is cleared, across the flattening as well."""
    run = record(images(network, nodes("redo")), stop_after=1)
    trainer = run.trainer
    learner = trainer.learner
    (redo,) = learner.methods
    redo.tau = 0.0
    groups = [g for g in learner.anatomy.units if not g.residual and g.weight.startswith("shared/body")]
    convolutions = [g for g in groups if len(learner.anatomy.shapes[g.weight]) == 4]
    group = convolutions[-1 if last else 0]
    params = learner.state.params
    with torch.no_grad():
        params[group.weight][1] = 0.0
        params[group.bias][1] = -1.0
        inputs = learner.agent.probe_inputs(64, torch.Generator().manual_seed(0))["shared"]
        before = {h: y.clone() for h, y in learner.networks["shared"](inputs).items()}
        op = learner._operation(redo, Moment("iteration", Counters()), trainer.plan)
        facts = redo.intervene(op)
        after = learner.networks["shared"](inputs)
    assert facts["recycled"] >= 1
    assert all(torch.allclose(before[h], after[h], atol=1e-5) for h in before)
    assert params[group.weight][1].abs().sum() > 0
    for consumer in group.consumers:
        columns = consumer.columns[1]
        assert params[consumer.weight][:, columns].abs().sum() == 0
        assert params[consumer.weight].abs().sum() > 0


def test_a_vector_is_refused_by_a_convolution():
    config = tiny_config({})
    config["network"] = images("impala", {})["network"]
    with pytest.raises(UserError, match=r"is a convolution but its input of shape .* is no image"):
        record(config)
