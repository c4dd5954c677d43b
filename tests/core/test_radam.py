"""RAdam against PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from plasticine.core.optim import RAdam


@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.999), 1e-8), ((0.8, 0.9), 1e-3)])
def test_equals_pytorch(betas, eps):
    """Over the unrectified first steps and the rectified later ones."""
    g = torch.Generator().manual_seed(0)
    params = {k: torch.randn(4, 3, generator=g).requires_grad_() for k in ("a", "b")}
    twins = [p.detach().clone().requires_grad_() for p in params.values()]
    mine, theirs = RAdam(betas=betas, eps=eps), torch.optim.RAdam(twins, lr=1.0, betas=betas, eps=eps)
    state = mine.bind(params)
    for step in range(20):
        lr = 0.1 / (step + 1)
        theirs.param_groups[0]["lr"] = lr
        for twin in twins:
            twin.grad = torch.randn(4, 3, generator=g)
        with torch.no_grad():
            mine.step([t.grad.clone() for t in twins], lr)
        theirs.step()
        for p, twin in zip(params.values(), twins, strict=True):
            assert torch.allclose(p, twin, rtol=1e-6, atol=1e-7)
    assert float(state["step/a"]) == 20


def test_a_wholly_overwritten_tensor_starts_again():
    """Its next step is the unrectified one of a new tensor: lr times the gradient."""
    params = {k: torch.zeros(2).requires_grad_() for k in ("a", "b")}
    radam = RAdam(betas=(0.9, 0.999), eps=1e-8)
    radam.bind(params)
    with torch.no_grad():
        for _ in range(10):
            radam.step([torch.ones(2), torch.ones(2)], 0.1)
        radam.overwritten("a", None, moments=True)
        params["a"].zero_()
        before = params["b"].clone()
        radam.step([torch.full((2,), 3.0), torch.full((2,), 3.0)], 0.1)
    assert torch.allclose(params["a"], torch.full((2,), -0.3))
    assert (params["b"] - before).abs().max() < 0.1
