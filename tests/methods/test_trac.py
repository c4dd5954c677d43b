from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from plasticine.core.method import Method
from plasticine.core.optim import Adam
from plasticine.errors import UserError
from plasticine.methods import trac
from plasticine.methods.trac import TracOptimizer, erfi, path_scale
from tests.methods import lab

BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


def wrapped(params, covers=lambda name: True, start=1e-8):
    optimizer = TracOptimizer(Adam(betas=(0.9, 0.999), eps=1e-8), covers, betas=BETAS, start=start, eps=1e-8)
    return optimizer, optimizer.bind(params)


def two_tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "q/body.0.weight": torch.randn(3, 2, generator=generator).requires_grad_(True),
        "q/body.0.bias": torch.randn(3, generator=generator).requires_grad_(True),
    }


def gradients(params, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(p.shape, generator=generator) for p in params.values()] for _ in range(count)]


def step(optimizer, grads, lr=0.01):
    with torch.no_grad():
        optimizer.step(grads, lr)


# -- pieces --------------------------------------------------------------------------------------------------
def test_erfi_against_scipy():
    x = np.linspace(-4, 4, 2001)
    np.testing.assert_allclose(erfi(torch.from_numpy(x)).numpy(), special.erfi(x), rtol=1e-10, atol=1e-14)
    x = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(erfi(torch.from_numpy(x)).numpy(), special.erfi(x), rtol=1e-10)


def test_erfi_stays_finite_far_out():
    far = erfi(torch.tensor([1e3, -1e3, float("inf"), 6.0]))
    assert bool(torch.isfinite(far).all())
    assert float(far[0]) == float(far[3]) == -float(far[1]) > 1e14


def test_path_scale_against_the_published_recurrence():
    rng = np.random.default_rng(0)
    betas = np.array(BETAS)
    v, s = np.zeros(6), np.full(6, 1e-8)
    tv, ts = torch.zeros(6, dtype=torch.float64), torch.full((6,), 1e-8, dtype=torch.float64)
    for _ in range(200):
        h = rng.normal(-0.3)
        v = betas**2 * v + h * h
        s = betas * s - h
        expected = sum(
            1e-3 * special.erfi(s / (np.sqrt(2) * np.sqrt(v) + 1e-8)) / special.erfi(1 / np.sqrt(2))
        )
        got = path_scale(torch.tensor(h), tv, ts, torch.tensor(betas), start=1e-3, eps=1e-8)
        assert float(got) == pytest.approx(max(expected, 0.0), rel=1e-4)
    np.testing.assert_allclose(ts.numpy(), s, rtol=1e-4)


# -- the optimizer -------------------------------------------------------------------------------------------
def reference(theta, grads, base_steps, start):
    """Algorithm 1 in float64, fed with the steps that Adam proposes."""
    betas = np.array(BETAS)
    ref, path = theta.copy(), np.zeros_like(theta)
    v, s = np.zeros(6), np.full(6, 1e-8)
    for g, u in zip(grads, base_steps, strict=True):
        h = path @ g
        path = path + u
        v, s = betas**2 * v + h * h, betas * s - h
        tuned = start * special.erfi(s / (np.sqrt(2 * v) + 1e-8)) / special.erfi(1 / np.sqrt(2))
        theta = ref + max(tuned.sum(), 0.0) * path
    return theta


def adam_steps(grads, lr):
    m, v, found = 0.0, 0.0, []
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        found.append(-lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
    return found


def test_follows_the_published_algorithm():
    params = two_tensors()
    theta = np.concatenate([p.detach().double().numpy().ravel() for p in params.values()])
    grads = gradients(params, 30)
    for g in grads:  # a steady direction, so that the scale grows
        for t in g:
            t.add_(1.0)
    optimizer, _ = wrapped(params, start=1e-5)
    for g in grads:
        step(optimizer, g)
    rows = [np.concatenate([t.double().numpy().ravel() for t in g]) for g in grads]
    expected = reference(theta, rows, adam_steps(rows, 0.01), 1e-5)
    now = np.concatenate([p.detach().numpy().ravel() for p in params.values()])
    assert np.abs(now - theta).max() > 0.05
    np.testing.assert_allclose(now, expected, rtol=2e-3, atol=2e-4)


def test_equals_the_base_optimizer_at_scale_one(monkeypatch):
    monkeypatch.setattr(trac, "path_scale", lambda *a, **k: torch.ones((), dtype=torch.float64))
    mine, theirs = two_tensors(), two_tensors()
    optimizer, _ = wrapped(mine)
    plain = Adam(betas=(0.9, 0.999), eps=1e-8)
    plain.bind(theirs)
    for g in gradients(mine, 50):
        step(optimizer, g)
        step(plain, g)
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_first_step_hardly_moves_and_a_large_parameter_still_takes_off():
    """In float32, with parameters of magnitude 1, and the smallest start."""
    params = {"q/body.0.weight": torch.ones(4, 4, requires_grad=True)}
    optimizer, _ = wrapped(params)
    step(optimizer, [torch.ones(4, 4)], lr=1e-3)
    assert float((params["q/body.0.weight"].detach() - 1).abs().max()) <= 1e-9
    for _ in range(3000):
        step(optimizer, [torch.ones(4, 4)], lr=1e-3)
    assert float((1 - params["q/body.0.weight"].detach()).min()) > 1e-3


def test_a_path_that_does_not_pay_off_is_given_up():
    params = two_tensors()
    before = {k: v.detach().clone() for k, v in params.items()}
    optimizer, state = wrapped(params, start=0.1)
    up = [torch.ones_like(p) for p in params.values()]
    for _ in range(5):
        step(optimizer, up)
    assert not torch.equal(params["q/body.0.bias"].detach(), before["q/body.0.bias"])
    for _ in range(3):  # the loss now rises steeply along the path
        step(optimizer, [-100.0 * g for g in up])
    assert float(state["trac_sigma"].max()) < 0
    for name in params:
        torch.testing.assert_close(params[name].detach(), before[name])


def test_what_others_change_between_steps_is_kept():
    edited, untouched = two_tensors(), two_tensors()
    optimizers = [wrapped(p, start=0.1)[0] for p in (edited, untouched)]
    shift = torch.tensor([0.5, 0.0, -2.0])
    for i, g in enumerate(gradients(edited, 8)):
        for optimizer in optimizers:
            step(optimizer, g)
        if i == 3:
            with torch.no_grad():
                edited["q/body.0.bias"].add_(shift)
    torch.testing.assert_close(edited["q/body.0.bias"], untouched["q/body.0.bias"] + shift)
    torch.testing.assert_close(edited["q/body.0.weight"], untouched["q/body.0.weight"])


def test_overwritten_entries_start_a_new_path():
    params = two_tensors()
    optimizer, state = wrapped(params, start=0.1)
    for g in gradients(params, 6):
        step(optimizer, g)
    path, ref = state["trac_path/q/body.0.bias"].clone(), state["trac_reference/q/body.0.bias"].clone()
    mask = torch.tensor([True, False, True])
    with torch.no_grad():
        params["q/body.0.bias"].masked_fill_(mask, 9.0)
    optimizer.overwritten("q/body.0.bias", mask, moments=True)
    assert torch.equal(state["trac_path/q/body.0.bias"], torch.where(mask, 0.0, path))
    assert torch.equal(state["trac_reference/q/body.0.bias"], torch.where(mask, 9.0, ref))
    assert torch.equal(state["exp_avg/q/body.0.bias"] == 0, mask)
    step(optimizer, [torch.zeros_like(p) for p in params.values()], lr=0.0)
    assert torch.equal(params["q/body.0.bias"].detach()[mask], torch.tensor([9.0, 9.0]))
    with torch.no_grad():
        params["q/body.0.weight"].fill_(-3.0)
    optimizer.overwritten("q/body.0.weight", None, moments=False)
    assert not state["trac_path/q/body.0.weight"].any()
    assert bool(state["exp_avg/q/body.0.weight"].any())
    optimizer.overwritten("q/frozen.0.body.0.weight", None, moments=True)


def test_parameters_out_of_scope_follow_the_base_optimizer():
    mine, theirs = two_tensors(), two_tensors()
    optimizer, state = wrapped(mine, covers=lambda name: name.endswith("weight"))
    plain = Adam(betas=(0.9, 0.999), eps=1e-8)
    plain.bind(theirs)
    for g in gradients(mine, 20):
        step(optimizer, g)
        step(plain, g)
    assert torch.equal(mine["q/body.0.bias"], theirs["q/body.0.bias"])
    assert not torch.equal(mine["q/body.0.weight"], theirs["q/body.0.weight"])
    assert "trac_path/q/body.0.bias" not in state


def test_base_optimizer_keeps_the_agents_constants():
    p = lab.parts(lab.nodes("trac"))
    optimizer = p.learner.surgeon._optimizers[0]
    assert isinstance(optimizer, TracOptimizer)
    assert optimizer._base.eps == 1e-5


# -- order ---------------------------------------------------------------------------------------------------
class Replacement(Method):
    """Another optimizer altogether."""

    def edit_optimizer(self, optimizer):
        return Adam(betas=(0.5, 0.5), eps=1e-3)


def test_a_replacement_after_a_wrapper_is_refused():
    node = {"_target_": f"{__name__}.Replacement", "scope": ["*"], "when": []}
    p = lab.parts({"other": node, **lab.nodes("trac")})
    assert p.learner.surgeon._optimizers[0]._base.eps == 1e-3
    with pytest.raises(UserError, match="wrapped"):
        lab.parts({**lab.nodes("trac"), "other": node})
    with pytest.raises(UserError, match="already replaced"):
        lab.parts({"other": node, "another": node})
    with pytest.raises(UserError, match="already"):
        lab.parts({**lab.nodes("trac"), "again": lab.nodes("trac")["trac"]})


@pytest.mark.parametrize("changes", [{"betas": []}, {"betas": [1.0]}, {"start": 0.0}, {"eps": 0.0}])
def test_refuses_what_makes_no_sense(changes):
    with pytest.raises(UserError):
        lab.parts(lab.nodes("trac", **changes))
