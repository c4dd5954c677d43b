"""One assembled optimizer step, piece by piece."""

from __future__ import annotations

import torch

from plasticine.core.update import _separate, global_norm


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
