from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from plasticine.api import configure
from plasticine.compose import build_methods, build_object
from plasticine.errors import UserError
from plasticine.networks.build import build
from plasticine.networks.catalog import impala, mlp
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
@pytest.mark.parametrize("keep_width", ["columns", "units"])
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
    [
        ("crelu", "units", [8, 8]),
        ("crelu", "columns", [4, 4]),
        ("dff", "columns", [4, 4]),
        ("dff", "units", [8, 8]),
    ],
)
def test_widths(method, keep_width, units):
    p = lab.parts(lab.nodes(method, keep_width=keep_width))
    s = shapes(p)
    for net, head, outputs in (("actor", "policy", 3), ("critic", "value", 1)):
        assert s[f"{net}/body.0.weight"] == (units[0], 5)
        assert s[f"{net}/body.1.weight"] == (units[1], 2 * units[0])
        assert s[f"{net}/head.{head}.weight"] == (outputs, 2 * units[1])
    odd = shapes(lab.parts(lab.nodes(method, keep_width="columns"), network={"hidden": [7, 1]}))
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

    return CRelu(**{"name": "crelu", "scope": ["*"], "when": [], "keep_width": "columns", **changes})


def test_a_stream_is_halved_as_a_whole_and_linear_layers_stay_linear():
    net = residual_net()
    assert [layer.act for layer in net.body].count("identity") == 1
    edited = crelu().edit_network(net)
    assert [layer.width for layer in edited.body] == [2, 2, 2, 4, 4, 4, 3]
    expected = ["crelu" if layer.act == "relu" else "identity" for layer in net.body]
    assert [layer.act for layer in edited.body] == expected
    wide = crelu(keep_width="units").edit_network(net)
    assert [layer.width for layer in wide.body] == [layer.width for layer in net.body]


def test_a_scope_that_cuts_a_stream():
    net = residual_net()
    with pytest.raises(UserError, match=r"body\.3 .*out of scope"):
        crelu(scope=["q/body.5.*"]).edit_network(net)
    edited = crelu(scope=["q/body.4.*", "q/body.6.*"]).edit_network(net)
    assert [layer.width for layer in edited.body] == [4, 4, 4, 7, 4, 7, 3]
    assert [layer.act for layer in edited.body].count("crelu") == 2
    one = crelu(scope=["q/body.5.*"], keep_width="units").edit_network(net)
    assert [layer.act for layer in one.body].count("crelu") == 1


# -- equal numbers of parameters -----------------------------------------------------------------------------
FULL = {"mlp": (78,), "nature_cnn": (4, 84, 84), "impala": (3, 64, 64)}


def full_net(network, outputs=12):
    """A network as it is shipped, with one head."""
    config = configure("env=classic", f"network={network}")["network"]
    config["hidden"] = {"mlp": [256, 256], "nature_cnn": [512], "impala": [256]}[network]
    head = HeadSpec(outputs, Initializer("orthogonal"), Initializer("constant", 0.0))
    return NetSpec("q", FULL[network], build_object(config, None, "network"), {"q": head})


def scalars(net):
    """Trained scalars, counted in allocated tensors."""
    made, _, _ = build(net, lambda name: torch.Generator(), torch.device("cpu"))
    return sum(tensor.numel() for tensor in made.params.values())


@pytest.mark.parametrize("network", FULL)
@pytest.mark.parametrize("method", WIDE)
def test_as_many_parameters_as_without(network, method):
    net = full_net(network)
    nodes = lab.nodes(method, keep_width="parameters")
    (made,) = build_methods(nodes)
    edited = made.edit_network(net)
    assert {layer.act for layer in edited.body} - {"identity"} == {
        {"crelu": "crelu", "dff": "fourier"}[method]
    }
    assert abs(scalars(edited) / scalars(net) - 1) < 0.02
    shares = [b.width / a.width for a, b in zip(net.body, edited.body, strict=True)]
    assert max(shares) - min(shares) <= 1 / min(
        layer.width for layer in net.body
    )  # one share, but for rounding
    for (a, b), (c, d) in zip(itertools.pairwise(net.body), itertools.pairwise(edited.body), strict=True):
        assert a.width != b.width or c.width == d.width


def test_layer_norm_is_within_the_same_bounds_as_it_is():
    for network in FULL:
        net = full_net(network)
        (made,) = build_methods(lab.nodes("layer_norm"))
        assert 1.0 < scalars(made.edit_network(net)) / scalars(net) < 1.02


@pytest.mark.parametrize("hidden", [[8, 8], [7, 3, 20], [1], [2, 1]])
@pytest.mark.parametrize("scope", [["*"], ["q/body.0.*"]])
def test_no_other_share_comes_closer(hidden, scope):
    head = HeadSpec(3, Initializer("orthogonal"), Initializer("constant", 0.0))
    body = mlp(hidden=hidden, act="relu", norm=None, init="orthogonal", gain=1.0, bias_init="zeros")
    net = NetSpec("q", (5,), body, {"q": head})
    reached = range(len(hidden)) if scope == ["*"] else [0]

    def size(widths):
        """Weights and biases by hand."""
        columns, total = 5, 0
        for i, width in enumerate(widths):
            total += width * (columns + 1)
            columns = width * (2 if i in reached else 1)
        return total + 3 * (columns + 1)

    plain = 5 * hidden[0] + sum(a * b for a, b in itertools.pairwise(hidden)) + sum(hidden)
    plain += 3 * (hidden[-1] + 1)
    tried = []
    for share in np.linspace(0, 1, 2001):
        widths = [max(1, int(share * w + 0.5)) if i in reached else w for i, w in enumerate(hidden)]
        tried.append(abs(size(widths) - plain))
    found = [layer.width for layer in crelu(keep_width="parameters", scope=scope).edit_network(net).body]
    assert abs(size(found) - plain) == min(tried)


def test_a_stream_keeps_one_width_and_cannot_be_cut():
    net = residual_net()
    edited = crelu(keep_width="parameters").edit_network(net)
    widths = [layer.width for layer in edited.body]
    assert widths[0] == widths[1] == widths[2] < 4
    assert widths[3] == widths[4] == widths[5] < 7
    assert scalars(edited) > 0  # it can be built: the sums fit
    with pytest.raises(UserError, match=r"narrow a residual stream .*body\.3 .*out of scope"):
        crelu(scope=["q/body.5.*"], keep_width="parameters").edit_network(net)


def test_what_came_before_counts():
    """With layer normalisation first, its scales and offsets are among what is kept."""
    net = full_net("mlp")
    (norm,) = build_methods(lab.nodes("layer_norm"))
    both = crelu(keep_width="parameters").edit_network(norm.edit_network(net))
    assert abs(scalars(both) / scalars(norm.edit_network(net)) - 1) < 0.005


def test_an_unknown_choice():
    with pytest.raises(UserError, match="keep_width=column: there is no such choice"):
        crelu(keep_width="column").edit_network(residual_net())
    with pytest.raises(UserError, match="keep_width"):
        lab.parts(lab.nodes("crelu", keep_width=True))


# -- units and their readers ---------------------------------------------------------------------------------
def kill(p, group, unit):
    """Make a unit's pre-activation zero, so that both its outputs are."""
    with torch.no_grad():
        for name in (group.weight, group.bias):
            p.learner.state.params[name][unit] = 0.0


@pytest.mark.parametrize("keep_width", ["columns", "units"])
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
