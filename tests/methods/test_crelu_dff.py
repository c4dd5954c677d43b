from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from plasticine.networks.catalog import impala
from plasticine.networks.initializers import Initializer
from plasticine.networks.spec import HeadSpec, NetSpec
from tests.methods import lab

WIDE = {
    "crelu": lambda z: np.concatenate((np.maximum(z, 0), np.maximum(-z, 0)), 1),
    "dff": lambda z: np.concatenate((np.sin(z), np.cos(z)), 1),
}


def shapes(p):
    return {k: tuple(v.shape) for k, v in lab.params(p).items()}


def randomise(p, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for v in p.learner.state.params.values():
        v.data.copy_(torch.randn(v.shape, generator=generator))


@pytest.mark.parametrize("method", WIDE)
@pytest.mark.parametrize("keep_width", [True, False])
@pytest.mark.parametrize("act", ["relu", "tanh"])
def test_network_by_hand(method, keep_width, act):
    p = lab.parts(lab.nodes(method, keep_width=keep_width), network={"act": act})
    randomise(p)
    x, q = lab.observations(20), {k: v.double().numpy() for k, v in lab.params(p).items()}
    for net, head in (("actor", "policy"), ("critic", "value")):
        h = x.double().numpy()
        for i in (0, 1):
            h = WIDE[method](h @ q[f"{net}/body.{i}.weight"].T + q[f"{net}/body.{i}.bias"])
        expected = h @ q[f"{net}/head.{head}.weight"].T + q[f"{net}/head.{head}.bias"]
        np.testing.assert_allclose(lab.outputs(p, x)[f"{net}/{head}"].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "keep_width", "units"),
    [("crelu", False, [8, 8]), ("crelu", True, [4, 4]), ("dff", True, [4, 4]), ("dff", False, [8, 8])],
)
def test_widths(method, keep_width, units):
    p = lab.parts(lab.nodes(method, keep_width=keep_width))
    s = shapes(p)
    for net, head, outputs in (("actor", "policy", 3), ("critic", "value", 1)):
        assert s[f"{net}/body.0.weight"] == (units[0], 5)
        assert s[f"{net}/body.1.weight"] == (units[1], 2 * units[0])
        assert s[f"{net}/head.{head}.weight"] == (outputs, 2 * units[1])
    odd = shapes(lab.parts(lab.nodes(method, keep_width=True), network={"hidden": [7, 1]}))
    assert odd["actor/body.0.weight"] == (4, 5)
    assert odd["actor/body.1.weight"] == (1, 8)


def test_defaults_are_those_of_the_papers():
    assert shapes(lab.parts(lab.nodes("crelu")))["actor/body.1.weight"] == (8, 16)
    assert shapes(lab.parts(lab.nodes("dff")))["actor/body.1.weight"] == (4, 8)


@pytest.mark.parametrize("network", ["mlp", "nature_cnn", "impala"])
@pytest.mark.parametrize("method", WIDE)
def test_pairs_of_outputs_at_every_site(network, method):
    images = network != "mlp"
    p = lab.parts(lab.nodes(method), network_name=network, shared=True)
    net = p.learner.networks["shared"]
    x = torch.rand(6, 2, 36, 36) if images else lab.observations(6)
    with torch.no_grad():
        sites = net.capture(x).sites
    assert len(sites) == {"mlp": 2, "nature_cnn": 4, "impala": 14}[network]
    for site in sites:
        first, second = site.post.chunk(2, dim=1)
        assert first.shape == site.pre.shape
        if method == "crelu":
            torch.testing.assert_close(first - second, site.pre)
            assert float(site.post.min()) >= 0
            assert not (first * second).any()
            torch.testing.assert_close(site.post.square().sum(), site.pre.square().sum())
        else:
            torch.testing.assert_close(first.square() + second.square(), torch.ones_like(first))
            torch.testing.assert_close(first, torch.sin(site.pre))


@pytest.mark.parametrize("method", WIDE)
def test_the_gradient_passes_every_unit(method):
    """Derivatives of the two outputs have length 1 together, whatever the input."""
    from plasticine.networks.activations import activation

    z = torch.linspace(-4, 4, 40).view(10, 4).requires_grad_(True)
    post = activation({"crelu": "crelu", "dff": "fourier"}[method]).fn(z)
    squares = torch.zeros_like(z)
    for half in post.chunk(2, dim=1):
        (g,) = torch.autograd.grad(half.sum(), z, retain_graph=True)
        squares += g.square()
    torch.testing.assert_close(squares, torch.ones_like(z))


# -- residual streams ----------------------------------------------------------------------------------------
def residual_net():
    body = impala(
        channels=[4, 7],
        blocks=1,
        hidden=[6],
        act="relu",
        norm=None,
        init="orthogonal",
        gain=1.0,
        bias_init="zeros",
    )
    return NetSpec(
        "q", (2, 36, 36), body, {"q": HeadSpec(2, Initializer("orthogonal"), Initializer("constant", 0.0))}
    )


def crelu(**changes):
    from plasticine.methods.crelu import CRelu

    return CRelu(**{"name": "crelu", "scope": ["*"], "when": [], "keep_width": True, **changes})


def test_a_stream_is_halved_as_a_whole_and_linear_layers_stay_linear():
    net = residual_net()
    assert [layer.act for layer in net.body].count("identity") == 1
    edited = crelu().edit_network(net)
    assert [layer.width for layer in edited.body] == [2, 2, 2, 4, 4, 4, 3]
    expected = ["crelu" if layer.act == "relu" else "identity" for layer in net.body]
    assert [layer.act for layer in edited.body] == expected
    wide = crelu(keep_width=False).edit_network(net)
    assert [layer.width for layer in wide.body] == [layer.width for layer in net.body]


def test_a_scope_that_cuts_a_stream():
    net = residual_net()
    with pytest.raises(UserError, match=r"body\.3 .*out of scope"):
        crelu(scope=["q/body.5.*"]).edit_network(net)
    edited = crelu(scope=["q/body.4.*", "q/body.6.*"]).edit_network(net)
    assert [layer.width for layer in edited.body] == [4, 4, 4, 7, 4, 7, 3]
    assert [layer.act for layer in edited.body].count("crelu") == 2
    one = crelu(scope=["q/body.5.*"], keep_width=False).edit_network(net)
    assert [layer.act for layer in one.body].count("crelu") == 1


# -- units and their readers ---------------------------------------------------------------------------------
def kill(p, group, unit):
    """Make a unit's pre-activation zero, so that both its outputs are."""
    with torch.no_grad():
        for name in (group.weight, group.bias):
            p.learner.state.params[name][unit] = 0.0


@pytest.mark.parametrize("keep_width", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
def test_redo_recycles_a_dead_unit_of_two_outputs(layer, keep_width):
    methods = {**lab.nodes("crelu", keep_width=keep_width), **lab.nodes("redo", tau=0.0)}
    p = lab.parts(methods, shared=True, network={"bias_init": "uniform_fan_in"})
    group = next(g for g in p.learner.anatomy.units if g.site == f"body.{layer}")
    kill(p, group, 2)
    x = lab.observations(64)
    before, old = lab.outputs(p, x), lab.params(p)
    facts = lab.act(p, "redo", {"shared": x})
    assert facts["recycled"] == 1.0
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, before[key], rtol=1e-5, atol=1e-6)
    now = lab.params(p)
    assert bool(now[group.weight][2].any())
    readers = (
        ["shared/body.1.weight"] if layer == 0 else ["shared/head.policy.weight", "shared/head.value.weight"]
    )
    assert [c.weight for c in group.consumers] == readers
    for name in readers:
        columns = torch.zeros(old[name].shape[1], dtype=torch.bool)
        columns[[2, 2 + group.units]] = True
        assert not now[name][:, columns].any()
        assert torch.equal(now[name][:, ~columns], old[name][:, ~columns])
        assert bool(old[name][:, columns].all())


@pytest.mark.parametrize("network", ["nature_cnn", "impala"])
def test_redo_across_the_flattening(network):
    methods = {**lab.nodes("crelu"), **lab.nodes("redo", tau=0.0)}
    p = lab.parts(methods, network_name=network, shared=True, network={"bias_init": "uniform_fan_in"})
    groups = [g for g in p.learner.anatomy.units if not g.residual]
    group = [g for g in groups if len(p.learner.anatomy.shapes[g.weight]) == 4][-1]
    kill(p, group, 1)
    x = torch.rand(8, 2, 36, 36, generator=torch.Generator().manual_seed(0))
    before = lab.outputs(p, x)
    facts = lab.act(p, "redo", {"shared": x})
    assert facts["recycled"] >= 1
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, before[key], rtol=1e-4, atol=1e-5)
    (consumer,) = group.consumers
    weight = lab.params(p)[consumer.weight]
    assert not weight[:, consumer.columns[1]].any()
    space = 1 if weight.dim() == 4 else weight.shape[1] // (2 * group.units)
    assert consumer.columns.shape == (group.units, 2 * space)
    assert consumer.columns[1].tolist() == [
        (1 + half * group.units) * space + s for half in (0, 1) for s in range(space)
    ]


def test_units_of_deep_fourier_features_cannot_be_recycled():
    with pytest.raises(UserError, match="nothing to recycle"):
        lab.parts({**lab.nodes("dff"), **lab.nodes("redo")})


# -- refusals ------------------------------------------------------------------------------------------------
def test_two_activations_are_refused_and_disjoint_scopes_are_not():
    for order in (("crelu", "dff"), ("dff", "crelu")):
        with pytest.raises(UserError, match="both set 'act'") as refusal:
            lab.parts({**lab.nodes(order[0]), **lab.nodes(order[1])})
        assert "use only one" in refusal.value.fix
    p = lab.parts({**lab.nodes("crelu", scope=["actor/*"]), **lab.nodes("dff", scope=["critic/*"])})
    acts = {g.net: g.act for g in p.learner.anatomy.units}
    assert acts == {"actor": "crelu", "critic": "fourier"}


@pytest.mark.parametrize("method", WIDE)
@pytest.mark.parametrize(
    ("agent", "actions"), [("td3", "continuous"), ("c51", "discrete"), ("pqn", "discrete")]
)
def test_every_network_of_every_agent(method, agent, actions):
    p = lab.parts(lab.nodes(method), agent_name=agent, actions=actions)
    act = {"crelu": "crelu", "dff": "fourier"}[method]
    assert {g.act for g in p.learner.anatomy.units} == {act}
    assert {g.net for g in p.learner.anatomy.units} == set(p.learner.networks)
    for name, slow in p.learner.state.targets.items():
        assert slow.shape == p.learner.state.params[name].shape
