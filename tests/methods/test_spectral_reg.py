from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from plasticine.methods.spectral_reg import power_iteration_, spectral_penalty
from tests.methods import lab


def decaying(rows, columns, seed=0):
    """A matrix with singular values 3, 1.5, 0.75, ..., in float64."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (rows, columns))
    r = min(rows, columns)
    return left[:, :r] @ np.diag(3.0 * 0.5 ** np.arange(r)) @ right[:, :r].T


def vectors(weight, iterations=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, generator=generator) for n in (weight.shape[0], weight[0].numel()))
    for _ in range(iterations):
        power_iteration_(weight, left, right)
    return left, right


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (3, 2, 2, 2), (1, 5)])
def test_power_iteration_finds_the_singular_vectors(shape):
    matrix = decaying(shape[0], int(np.prod(shape[1:])))
    left, right = vectors(torch.tensor(matrix, dtype=torch.float32).view(shape))
    u, s, vt = np.linalg.svd(matrix)
    assert float(left @ torch.tensor(matrix, dtype=torch.float32) @ right) == pytest.approx(s[0], rel=1e-5)
    assert abs(float(left @ torch.tensor(u[:, 0], dtype=torch.float32))) == pytest.approx(1, abs=1e-4)
    assert abs(float(right @ torch.tensor(vt[0], dtype=torch.float32))) == pytest.approx(1, abs=1e-4)


def test_one_iteration_a_step_follows_a_moving_matrix():
    rng = np.random.default_rng(2)
    matrix, drift = decaying(6, 8), rng.normal(size=(6, 8)) * 0.002
    weight = torch.tensor(matrix, dtype=torch.float32)
    left, right = vectors(weight)
    for _ in range(100):
        matrix = matrix + drift
        weight.copy_(torch.tensor(matrix))
        power_iteration_(weight, left, right)
    exact = np.linalg.svd(matrix)[1][0]
    assert float(left @ weight @ right) == pytest.approx(exact, rel=1e-3)


def test_a_zero_matrix_keeps_the_vectors_alive():
    left, right = vectors(torch.zeros(3, 4))
    before = left.clone()
    power_iteration_(torch.zeros(3, 4), left, right)
    assert torch.equal(left, before)
    assert bool(torch.isfinite(right).all())
    for _ in range(40):
        power_iteration_(torch.eye(3, 4) * torch.tensor([[1.0], [2.0], [0.5]]), left, right)
    assert float(left[1].abs()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_value_and_gradient_against_an_exact_decomposition_in_float64(k):
    weight = torch.tensor(decaying(5, 4), dtype=torch.float32).requires_grad_(True)
    conv = torch.tensor(decaying(3, 8, seed=5), dtype=torch.float32).view(3, 2, 2, 2).requires_grad_(True)
    scale = torch.tensor([0.5, -1.7, 1.0], requires_grad=True)
    bias = torch.tensor([0.3, -0.6], requires_grad=True)
    pairs = [vectors(w.detach()) for w in (weight, conv)]
    value = spectral_penalty([weight, conv], pairs, [scale], [bias], k)
    grads = torch.autograd.grad(value, [weight, conv, scale, bias])
    expected = 0.0
    for w, g in zip((weight, conv), grads[:2], strict=True):
        matrix = w.detach().double().numpy().reshape(w.shape[0], -1)
        u, s, vt = np.linalg.svd(matrix)
        expected += (s[0] ** k - 1) ** 2
        gradient = 2 * (s[0] ** k - 1) * k * s[0] ** (k - 1) * np.outer(u[:, 0], vt[0])
        np.testing.assert_allclose(g.numpy().reshape(matrix.shape), gradient, rtol=1e-3, atol=1e-3)
    expected += (1.7**k - 1) ** 2 + 0.45**k
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(grads[2].numpy(), [0, -2 * (1.7**k - 1) * k * 1.7 ** (k - 1), 0], rtol=1e-5)
    np.testing.assert_allclose(grads[3].numpy(), 2 * k * 0.45 ** (k - 1) * np.array([0.3, -0.6]), rtol=1e-5)


def term(p):
    m, state = lab.method(p, "spectral_reg"), p.learner.state
    value = m.loss_term(m.select(state.params), state.slots[m.name])
    grads = torch.autograd.grad(value, list(state.params.values()), allow_unused=True)
    return float(value.detach()), dict(zip(state.params, grads, strict=True))


def test_zero_where_every_singular_value_is_one_and_nothing_is_added():
    changes = {"agent": {"policy_gain": 1.0}, "network": {"gain": 1.0}, "actions": "continuous"}
    p = lab.parts({**lab.nodes("spectral_reg", coef=1.0), **lab.nodes("layer_norm")}, **changes)
    value, grads = term(p)
    assert value == pytest.approx(0.0, abs=1e-9)
    assert all(float(g.abs().max()) < 1e-5 for g in grads.values() if g is not None)
    assert {k for k, g in grads.items() if g is None} == {"actor/log_std"}


def test_value_on_a_network_against_svd():
    p = lab.parts(lab.nodes("spectral_reg", coef=0.1), network={"bias_init": "uniform_fan_in"})
    expected = 0.0
    for name, v in lab.params(p).items():
        array = v.double().numpy()
        if name.endswith("weight"):
            expected += (np.linalg.svd(array, compute_uv=False)[0] ** 2 - 1) ** 2
        else:
            expected += (array**2).sum() ** 2
    assert term(p)[0] == pytest.approx(0.1 * expected, rel=1e-4)


def test_training_brings_singular_values_to_one():
    def largest(coef):
        p = lab.parts(lab.nodes("spectral_reg", coef=coef), experience=True, agent={"lr": 1e-2, "epochs": 40})
        lab.learn(p)
        return [np.linalg.svd(v.numpy(), compute_uv=False)[0] for k, v in lab.params(p).items() if "body" in k
                and k.endswith("weight")]  # fmt: skip

    assert all(abs(s - 1) < 0.1 for s in largest(10.0))
    assert all(abs(s - 1) > 0.2 for s in largest(0.0))


def test_convolutions_and_scope():
    p = lab.parts(lab.nodes("spectral_reg", scope=["*/body.*"], coef=1.0), network_name="impala", shared=True)
    value, grads = term(p)
    assert np.isfinite(value)
    assert {k for k, g in grads.items() if g is None} == {k for k in grads if "/head." in k}


def test_refuses_what_makes_no_sense():
    for changes in ({"coef": -1.0}, {"k": 0}):
        with pytest.raises(UserError, match=next(iter(changes))):
            lab.parts(lab.nodes("spectral_reg", **changes))
