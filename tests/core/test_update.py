"""One assembled optimizer step, piece by piece."""

from __future__ import annotations

import torch

from plasticine.core.method import Method
from plasticine.core.update import _gradients, _separate, global_norm
from tests.core.test_trainer import run_with


def test_global_norm():
    tensors = [torch.randn(3, 4), torch.randn(5)]
    flat = torch.cat([t.flatten() for t in tensors])
    assert torch.allclose(global_norm(tensors), flat.norm())


def test_shared_and_expanded_gradients_are_scaled_once():
    """d(a + b)/da and d/db may be one tensor; the gradient of a sum is an expanded view."""
    a, b, c = (torch.randn(3, requires_grad=True) for _ in range(3))
    loss = ((a + b) * torch.arange(3.0)).sum() + c.sum()
    grads = torch.autograd.grad(loss, [a, b, c])
    expected = [2 * g.clone() for g in grads]
    separate = _separate(grads)
    torch._foreach_mul_(separate, torch.tensor(2.0))
    assert all(torch.equal(x, y) for x, y in zip(separate, expected, strict=True))


def test_ordinary_gradients_are_not_copied():
    grads = [torch.randn(3, 4), torch.randn(5)]
    assert all(x is y for x, y in zip(_separate(grads), grads, strict=True))


class Penalty(Method):
    """``0.05 * |params|^2`` as a term of the loss, or as its gradient; with what a wrapper sees of it."""

    def __init__(self):
        super().__init__(name="m", scope=["actor/*"], when=[])
        self.norms, self.seen = [], []

    def wrap_grad(self, grad_fn, params, slot):
        def wrapped(batch):
            found = grad_fn(batch)
            self.norms.append(float(found.norm))
            self.seen.append({k: found.grads[k].clone() for k in params})
            return found

        return wrapped


class AsLoss(Penalty):
    def loss_term(self, params, slot):
        return 0.05 * sum(p.square().sum() for p in params.values())


class AsGradient(Penalty):
    def gradient_term(self, params, slot):
        def add(grads):
            for name, p in params.items():
                grads[name].add_(p, alpha=0.1)

        return add


def test_a_gradient_term_is_the_loss_term_it_is_the_gradient_of():
    """In the gradient that is wrapped, in its norm, and in what is learnt; and it is really there."""
    loss, gradient, nothing = AsLoss(), AsGradient(), Penalty()
    runs = [run_with((m,)) for m in (loss, gradient, nothing)]
    torch.testing.assert_close(gradient.seen[0], loss.seen[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient.norms[0], loss.norms[0], rtol=1e-5, atol=0.0)
    assert abs(nothing.norms[0] - loss.norms[0]) > 1e-3
    params = [{k: v.detach() for k, v in t.learner.state.params.items()} for t in runs]
    torch.testing.assert_close(params[1], params[0], rtol=1e-2, atol=1e-3)
    moved = max(
        float((a - b).abs().max()) for a, b in zip(params[0].values(), params[2].values(), strict=True)
    )
    assert moved > 0.02


def test_a_gradient_term_reaches_its_own_tensor_only():
    """Though automatic differentiation has returned one tensor for both."""
    params = {"a": torch.zeros(3, requires_grad=True), "b": torch.zeros(3, requires_grad=True)}

    def loss_fn(batch):
        return ((params["a"] + params["b"]) * batch).sum(), ()

    found = _gradients(loss_fn, params, None, [lambda grads: grads["a"].add_(1.0)])(torch.arange(3.0))
    assert found.grads["a"].tolist() == [1.0, 2.0, 3.0]
    assert found.grads["b"].tolist() == [0.0, 1.0, 2.0]
