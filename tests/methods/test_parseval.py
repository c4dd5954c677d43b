from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from plasticine.methods.parseval import initial_scale, orthogonality_penalty
from tests.methods import lab

SHAPES = [(3, 7), (7, 3), (5, 5), (1, 4), (4, 3, 2, 2), (30, 2, 3, 3)]


def random(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(True)


def by_hand(weight, s, coef):
    """Value on the full Gram matrix of the rows, less the constant; and gradient, in float64."""
    w = weight.detach().double().numpy().reshape(weight.shape[0], -1)
    excess = w @ w.T - s * np.eye(len(w))
    constant = s**2 * max(0, w.shape[0] - w.shape[1])
    return coef * ((excess**2).sum() - constant), (4 * coef * excess @ w).reshape(weight.shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient(shape):
    w = random(shape)
    value = orthogonality_penalty([w], [1.7], 0.3)
    (grad,) = torch.autograd.grad(2.0 * value, [w])
    expected, expected_grad = by_hand(w, 1.7, 0.3)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(grad.numpy(), 2.0 * expected_grad, rtol=1e-3, atol=1e-4)
    assert grad.shape == w.shape


def test_gradient_agrees_with_finite_differences():
    w = random((3, 4)).double()
    step, s = 1e-6, 0.8
    (grad,) = torch.autograd.grad(orthogonality_penalty([w], [s], 0.7), [w])
    for index in np.ndindex(3, 4):
        up, down = w.detach().clone(), w.detach().clone()
        up[index] += step
        down[index] -= step
        slope = orthogonality_penalty([up], [s], 0.7) - orthogonality_penalty([down], [s], 0.7)
        assert float(slope) / (2 * step) == pytest.approx(float(grad[index]), rel=1e-5, abs=1e-6)


def test_several_weights_are_added_up():
    weights = [random(s, i) for i, s in enumerate(SHAPES)]
    scales = [0.5 + i for i in range(len(SHAPES))]
    value = orthogonality_penalty(weights, scales, 0.01)
    expected = [by_hand(w, s, 0.01) for w, s in zip(weights, scales, strict=True)]
    assert float(value.detach()) == pytest.approx(sum(v for v, _ in expected), rel=1e-4)
    for g, (_, e) in zip(torch.autograd.grad(value, weights), expected, strict=True):
        np.testing.assert_allclose(g.numpy(), e, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_zero_at_orthogonal_rows_and_growth_with_their_length(shape):
    q = torch.nn.init.orthogonal_(torch.empty(shape), generator=torch.Generator().manual_seed(0))
    w = (np.sqrt(1.3) * q).requires_grad_(True)
    value = orthogonality_penalty([w], [1.3], 1.0)
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-9)
    assert float(torch.autograd.grad(value, [w])[0].abs().max()) < 1e-5
    longer = float(orthogonality_penalty([1.5 * w.detach()], [1.3], 1.0))
    assert longer == pytest.approx(4 * 1.3**2 * (1.5**2 - 1) ** 2, rel=1e-4)


@pytest.mark.parametrize(("init", "gain"), [("orthogonal", 1.7), ("uniform_fan_in", 1.0), ("he_normal", 1.0)])
@pytest.mark.parametrize("shape", [(64, 300), (300, 64)])
def test_initial_scale_is_the_mean_diagonal_of_the_smaller_gram_matrix(init, gain, shape):
    from plasticine.networks.initializers import Initializer

    draw = Initializer(init, gain)
    w = draw.draw_(torch.empty(shape), torch.Generator().manual_seed(0)).double().numpy()
    gram = w @ w.T if shape[0] < shape[1] else w.T @ w
    assert initial_scale(shape, draw.std(shape)) == pytest.approx(np.diag(gram).mean(), rel=0.03)


def term(p, name, phase_params=None):
    m, state = lab.method(p, name), p.learner.state
    inside = m.select(state.params if phase_params is None else phase_params)
    value = m.loss_term(inside, state.slots[name])
    return inside, value


def test_starts_at_zero_with_orthogonal_layers_of_any_shape():
    p = lab.parts(lab.nodes("parseval"), network={"hidden": [3, 8]})
    _, value = term(p, "parseval")
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-9)
    _, value = term(
        lab.parts(lab.nodes("parseval_reference"), network={"hidden": [3, 8]}), "parseval_reference"
    )
    assert float(value.detach()) == pytest.approx(2 * 1e-3 * (3 * 1.0 + 3 * 1.0), rel=1e-4)  # s 1 against 2


def test_every_hidden_weight_of_every_network_and_nothing_else():
    p = lab.parts(lab.nodes("parseval"), actions="continuous", network={"norm": "layer_norm"})
    with torch.no_grad():
        for v in p.learner.state.params.values():
            v.mul_(1.5).add_(0.1)
    inside, value = term(p, "parseval")
    grads = torch.autograd.grad(value, list(inside.values()), allow_unused=True)
    reached = {k for k, g in zip(inside, grads, strict=True) if g is not None and bool(g.any())}
    assert reached == {f"{net}/body.{i}.weight" for net in ("actor", "critic") for i in (0, 1)}
    alone = {"actor/log_std": p.learner.state.params["actor/log_std"]}
    assert float(term(p, "parseval", alone)[1]) == 0.0


@pytest.mark.parametrize("network", ["nature_cnn", "impala"])
def test_convolutions_start_at_zero_and_keep_a_gradient(network):
    nodes = lab.nodes("parseval", scope=["*/body.*"])
    p = lab.parts(nodes, network_name=network, shared=True, network={"init": "orthogonal", "gain": 1.2})
    inside, value = term(p, "parseval")
    weights = [v for k, v in inside.items() if k.endswith("weight")]
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-8)
    with torch.no_grad():
        for w in weights:
            w.mul_(2.0)
    _, value = term(p, "parseval")
    expected = sum(by_hand(w, 1.44, 1e-3)[0] for w in weights)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-3)
    assert all(bool(g.any()) for g in torch.autograd.grad(value, weights))


def test_it_pulls_rows_back_while_training():
    lengths = {}
    for methods in ({}, lab.nodes("parseval", coef=0.05)):
        p = lab.parts(methods, experience=True, agent={"lr": 0.02})
        lab.learn(p, 30)
        w = lab.params(p)["critic/body.1.weight"].double().numpy()
        lengths[bool(methods)] = np.abs(w @ w.T - 2.0 * np.eye(len(w))).max()
    assert lengths[True] < 0.3 * lengths[False]


@pytest.mark.parametrize("changes", [{"coef": -1.0}, {"scale": 0.0}, {"scale": -1.0}, {"scale": "gain"}])
def test_refuses_what_makes_no_sense(changes):
    with pytest.raises(UserError):
        lab.parts(lab.nodes("parseval", **changes))


def test_refuses_a_scope_without_hidden_layers():
    with pytest.raises(UserError, match="nothing to act on"):
        lab.parts(lab.nodes("parseval", scope=["*/head.*"]))
