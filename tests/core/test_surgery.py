"""Writing weights from outside takes everything along that remembers them."""

from __future__ import annotations

import pytest
import torch

from plasticine.core.optim import Adam
from plasticine.core.state import TrainState
from plasticine.core.surgery import Surgeon


def setup():
    torch.manual_seed(0)
    params = {k: torch.randn(4, 3).requires_grad_() for k in ("a", "b")}
    state = TrainState(params=params, frozen={"f": torch.zeros(2)}, targets={"a": torch.randn(4, 3)})
    adam = Adam(betas=(0.9, 0.999), eps=1e-8)
    state.opt["p"] = adam.bind(params)
    for _ in range(3):
        with torch.no_grad():
            adam.step([torch.randn(4, 3), torch.randn(4, 3)], 0.1)
    return state, adam, Surgeon(state, [adam])


def test_adam_equals_pytorch():
    torch.manual_seed(0)
    params = {k: torch.randn(4, 3).requires_grad_() for k in ("a", "b")}
    twins = [p.detach().clone().requires_grad_() for p in params.values()]
    adam = Adam(betas=(0.9, 0.99), eps=1e-5)
    adam.bind(params)
    reference = torch.optim.Adam(twins, lr=0.1, betas=(0.9, 0.99), eps=1e-5)
    for _ in range(5):
        grads = [torch.randn(4, 3) for _ in twins]
        for p, g in zip(twins, grads, strict=True):
            p.grad = g.clone()
        reference.step()
        with torch.no_grad():
            adam.step(grads, 0.1)
    for p, q in zip(params.values(), twins, strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_masked_write_clears_moments_on_the_mask_only():
    state, _, surgeon = setup()
    before = {k: v.detach().clone() for k, v in state.tensors().items()}
    addresses = {k: v.data_ptr() for k, v in state.tensors().items()}
    mask = torch.tensor([True, False, True, False])[:, None]
    surgeon.write("a", torch.full((4, 3), 7.0), mask)
    after = state.tensors()
    assert (after["params:a"][[0, 2]] == 7).all()
    assert torch.equal(after["params:a"][[1, 3]], before["params:a"][[1, 3]])
    for moment in ("opt:p:exp_avg/a", "opt:p:exp_avg_sq/a"):
        assert (after[moment][[0, 2]] == 0).all()
        assert torch.equal(after[moment][[1, 3]], before[moment][[1, 3]])
    assert after["opt:p:step/a"] == 3
    untouched = [k for k in before if k.endswith(("b", "f")) or k == "targets:a"]
    assert all(torch.equal(before[k], after[k]) for k in untouched)
    assert addresses == {k: v.data_ptr() for k, v in after.items()}


def test_whole_write_restarts_the_counter_and_may_take_the_target_along():
    state, _, surgeon = setup()
    surgeon.write("a", 0.5, target=True)
    t = state.tensors()
    assert (t["params:a"] == 0.5).all()
    assert (t["targets:a"] == 0.5).all()
    assert t["opt:p:step/a"] == 0
    assert t["opt:p:step/b"] == 3
    assert (t["opt:p:exp_avg/a"] == 0).all()


def test_moments_may_be_kept_and_frozen_tensors_written():
    state, _, surgeon = setup()
    kept = state.opt["p"]["exp_avg/a"].clone()
    surgeon.write("a", 1.0, moments=False)
    assert torch.equal(state.opt["p"]["exp_avg/a"], kept)
    surgeon.write("f", torch.ones(2))
    assert (state.frozen["f"] == 1).all()
    with pytest.raises(KeyError):
        surgeon.write("nobody", 0.0)
