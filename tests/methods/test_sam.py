from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.method import Gradients
from plasticine.core.update import global_norm
from plasticine.methods.sam import Sam, ascent
from tests.methods import lab


def quadratic(seed=0, n=6):
    """theta, A and the gradient function of 1/2 theta' A theta, split into two tensors."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    a = root @ root.T
    theta = torch.randn(n, generator=generator, dtype=torch.float64)
    params = {"q/body.0.weight": theta[:4].clone(), "q/body.0.bias": theta[4:].clone()}

    def gradients(batch):
        g = a @ torch.cat(list(params.values()))
        grads = dict(zip(params, (g[:4], g[4:]), strict=True))
        return Gradients(grads, global_norm(list(grads.values())), (g.sum(),))

    return theta.numpy(), a.numpy(), params, gradients


def sam(**arguments):
    return Sam(**{"rho": 0.05, "adaptive": False, "name": "sam", "scope": ["*"], "when": [], **arguments})


def test_uses_the_gradient_at_the_worst_point_and_logs_the_first():
    theta, a, params, gradients = quadratic()
    before = {k: v.clone() for k, v in params.items()}
    result = sam(rho=0.7).wrap_grad(gradients, params, {})(None)
    g = a @ theta
    expected = a @ (theta + 0.7 * g / np.linalg.norm(g))
    np.testing.assert_allclose(torch.cat(list(result.grads.values())).numpy(), expected, rtol=1e-12)
    assert float(result.norm) == pytest.approx(np.linalg.norm(g), rel=1e-12)
    assert float(result.aux[0]) == pytest.approx(g.sum(), rel=1e-9)
    assert all(torch.equal(params[k], before[k]) for k in params)


def test_only_tensors_in_scope_are_moved():
    theta, a, params, gradients = quadratic()
    inside = {"q/body.0.bias": params["q/body.0.bias"]}
    result = sam(rho=0.7).wrap_grad(gradients, inside, {})(None)
    g = (a @ theta)[4:]
    moved = theta.copy()
    moved[4:] += 0.7 * g / np.linalg.norm(g)
    np.testing.assert_allclose(torch.cat(list(result.grads.values())).numpy(), a @ moved, rtol=1e-12)


def test_adaptive_step_by_hand():
    p, g = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[0.1, 0.4], [-2.0, 0.3]])
    (step,) = ascent([torch.from_numpy(p)], [torch.from_numpy(g)], 0.5, adaptive=True)
    np.testing.assert_allclose(step.numpy(), 0.5 * p**2 * g / np.linalg.norm(np.abs(p) * g), rtol=1e-10)


def test_a_zero_gradient_is_harmless():
    (step,) = ascent([torch.ones(3)], [torch.zeros(3)], 0.5, adaptive=False)
    assert torch.equal(step, torch.zeros(3))


@pytest.mark.parametrize("adaptive", [False, True])
def test_parameters_come_back_bit_by_bit(adaptive):
    p = lab.parts(lab.nodes("sam", rho=0.3, adaptive=adaptive), agent={"lr": 0.0}, experience=True)
    before = lab.params(p)
    lab.learn(p)
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())


def test_the_second_gradient_is_what_is_clipped():
    """With a tiny limit the optimizer sees a gradient of exactly that length, whatever the second one was."""
    p = lab.parts(lab.nodes("sam", rho=5.0), agent={"max_grad_norm": 1e-2}, experience=True)
    seen = []
    optimizer = p.learner.surgeon._optimizers[0]
    moments = [m for m in optimizer._first]
    lab.learn(p)
    p.learner.learn(0.0)
    before = [m.clone() for m in moments]
    phase, lr, batch = next(iter(p.learner.agent.batches(0.0)))
    p.learner.flush()
    p.learner.updates[phase](batch, lr)
    for old, new in zip(before, moments, strict=True):
        seen.append((new - 0.9 * old) / 0.1)
    assert float(global_norm(seen)) == pytest.approx(1e-2, rel=1e-3)
