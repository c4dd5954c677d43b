"""Adam with a counter for every entry."""

from __future__ import annotations

import pytest
import torch

from plasticine.core.optim import Adam
from plasticine.methods.element_adam import ElementAdam


def test_element_adam_is_adam_until_something_is_overwritten():
    torch.manual_seed(0)
    start = torch.randn(4, 3)
    twins = [start.clone() for _ in range(2)]
    adams = [cls(betas=(0.9, 0.999), eps=1e-5) for cls in (Adam, ElementAdam)]
    for adam, twin in zip(adams, twins, strict=True):
        adam.bind({"a": twin})
    for _ in range(50):
        grad = torch.randn(4, 3)
        for adam in adams:
            adam.step([grad.clone()], 1e-2)
    torch.testing.assert_close(*twins, rtol=1e-5, atol=1e-6)


def test_overwritten_entries_begin_as_new_ones_do():
    param, fresh = torch.zeros(2, 2), torch.zeros(1)
    adam, new = ElementAdam(betas=(0.9, 0.999), eps=1e-8), ElementAdam(betas=(0.9, 0.999), eps=1e-8)
    adam.bind({"a": param})
    new.bind({"b": fresh})
    for _ in range(30):
        adam.step([torch.full((2, 2), 0.3)], 1e-2)
    mask = torch.tensor([[True, False], [False, False]])
    param[0, 0] = 0.0
    others = param.clone()
    adam.overwritten("a", mask, moments=True)
    for k in range(1, 12):
        adam.step([torch.full((2, 2), 0.3)], 1e-2)
        new.step([torch.full((1,), 0.3)], 1e-2)
        assert float(param[0, 0]) == pytest.approx(float(fresh), rel=1e-6)
        assert float(param[0, 0]) == pytest.approx(-1e-2 * k, rel=1e-4)  # never longer than lr
    assert float(param[1, 1] - others[1, 1]) == pytest.approx(-1e-2 * 11, rel=1e-3)
