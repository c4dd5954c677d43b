from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.noise import Streams
from plasticine.errors import UserError
from plasticine.methods import kron
from plasticine.methods.kron import FitSchedule, KronOptimizer, fit_, initial_factors, whitened
from tests.methods import lab

ALWAYS = FitSchedule(10**9, 0.0, 1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed))


def made(params, *, lr_scale=1.0, max_triangular=100, schedule=ALWAYS, momentum=0.9):
    optimizer = KronOptimizer(
        momentum=momentum, lr_scale=lr_scale, max_triangular=max_triangular, schedule=schedule
    )
    return optimizer, optimizer.bind(params)


def step(optimizer, grads, lr=0.01, noise=None):
    with torch.no_grad():
        optimizer.step(grads, lr)
        if noise is not None:
            optimizer.fit(0.1, noise)


# -- the preconditioner --------------------------------------------------------------------------------------
def full(q):
    q = q.double().numpy()
    return np.diag(q) if q.ndim == 1 else q


def fitted_by_hand(factors, x, v, lr):
    """One fit in float64 on full matrices: relative gradient, step bounded by the norm of both parts."""
    q = [full(f) for f in factors]
    x, v = (t.double().numpy().reshape(t.shape[0], -1) for t in (x, v))
    x = x + v * (3.5e-4 * np.abs(x).mean() + 1e-9)
    a, b = q[0] @ x, np.linalg.inv(q[0]).T @ v
    if len(q) == 2:
        a, b = a @ q[1].T, b @ np.linalg.inv(q[1])
    found = []
    for axis, factor in enumerate(q):
        grown, shrunk = (m @ m.T if axis == 0 else m.T @ m for m in (a, b))
        if factors[axis].dim() == 1:
            grown, shrunk = np.diag(np.diag(grown)), np.diag(np.diag(shrunk))
            size = np.diag(grown + shrunk).max()
        else:  # the published bound: a power step from the row of the largest length
            total = grown + shrunk
            y = total @ total[(total**2).sum(1).argmax()]
            size = np.linalg.norm(total @ (y / np.linalg.norm(y)))
            assert size <= np.linalg.norm(total, 2) * (1 + 1e-12)
        found.append(factor - lr / size * np.triu(grown - shrunk) @ factor)
    return found


CASES = [
    ((5, 7), 100),
    ((7, 5), 100),
    ((6,), 100),
    ((1, 8), 100),
    ((8, 1), 100),
    ((5, 9), 7),
    ((4, 3), 1),
    ((4, 3, 2, 2), 100),
]


@pytest.mark.parametrize(("shape", "largest"), CASES)
def test_one_fit_by_hand(shape, largest):
    factors = initial_factors(shape, largest)
    sizes = shape if len(shape) < 2 else (shape[0], int(np.prod(shape[1:])))
    assert [f.shape for f in factors] == [
        (n,) if len(shape) < 2 or n == 1 or n > largest else (n, n) for n in sizes
    ]
    for i in range(30):  # away from the identity
        fit_(factors, normal(*shape, seed=2 * i + 1), normal(*shape, seed=2 * i + 2), 0.1)
    x, v = normal(*shape, seed=100) * 3.0, normal(*shape, seed=101)
    expected = fitted_by_hand(factors, x, v, 0.1)
    fit_(factors, x, v, 0.1)
    for got, wanted in zip(factors, expected, strict=True):
        np.testing.assert_allclose(full(got), wanted, rtol=1e-3, atol=1e-5)
    p = [f.T @ f for f in (full(f) for f in factors)]
    matrix = x.double().numpy().reshape(sizes if len(sizes) == 2 else (-1, 1))
    product = p[0] @ matrix @ (p[1] if len(p) == 2 else np.eye(1))
    np.testing.assert_allclose(whitened(x, factors).numpy(), product.reshape(shape), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("largest", [100, 1])
def test_whitens_gradients_with_very_different_scales(largest):
    """Rows and columns of scales 1e-2 .. 1e2 (rotated, for the triangular factors): unit covariance afterwards."""
    rows, columns = (torch.diag(torch.logspace(-1, 1, n)) for n in (4, 6))
    if largest > 1:
        rows = rows @ torch.linalg.qr(normal(4, 4))[0]
        columns = torch.linalg.qr(normal(6, 6, seed=1))[0] @ columns
    g = generator(7)
    factors = initial_factors((4, 6), largest)
    for i in range(4000):
        x = rows @ torch.randn(4, 6, generator=g) @ columns
        fit_(factors, x, torch.randn(4, 6, generator=g), 0.1 if i < 2000 else 0.01)
    rows_done = torch.stack(
        [whitened(rows @ torch.randn(4, 6, generator=g) @ columns, factors) for _ in range(4000)]
    )
    covariance = np.cov(rows_done.reshape(4000, 24).double().numpy().T)
    assert np.abs(covariance - np.eye(24)).max() < 0.6  # before: between 1e-4 and 1e4
    assert np.diag(covariance).mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("shape", [(4, 6), (5,)])
@pytest.mark.parametrize("pattern", ["zero", "one row", "huge"])
def test_stays_bounded(shape, pattern):
    """Where there is no gradient, the added noise of 1e-9 is whitened: the preconditioner ends near 1e9."""
    factors = initial_factors(shape, 100)
    x = torch.zeros(shape)
    if pattern != "zero":
        x[0] = 1e10 if pattern == "huge" else 1.0
    for i in range(3000):
        fit_(factors, x, normal(*shape, seed=i), 0.1)
    assert all(bool(torch.isfinite(f).all()) for f in factors)
    assert float(whitened(torch.ones(shape), factors).abs().max()) < 1e11


def test_balancing_keeps_the_preconditioner():
    factors = [10.0 * torch.triu(normal(3, 3)), 0.01 * torch.triu(normal(4, 4, seed=1))]
    x = normal(3, 4, seed=2)
    before = whitened(x, factors)
    kron._balance(factors)
    torch.testing.assert_close(whitened(x, factors), before, rtol=1e-4, atol=1e-6)
    assert float(factors[0].abs().max()) == pytest.approx(float(factors[1].abs().max()), rel=1e-5)


# -- the optimizer -------------------------------------------------------------------------------------------
def three_tensors():
    return {
        "q/body.0.weight": normal(3, 4).requires_grad_(True),
        "q/body.0.bias": normal(3, seed=1).requires_grad_(True),
        "q/head.q.weight": normal(1, 3, seed=2).requires_grad_(True),
    }


def gradients(params, count, scale=1.0):
    g = generator(3)
    return [[scale * torch.randn(p.shape, generator=g) for p in params.values()] for _ in range(count)]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_steps_by_hand(scale):
    """Momentum, bias correction, whitening, clipping and descent, with the preconditioner the optimizer has then."""
    params = three_tensors()
    theta = {k: p.detach().double().numpy().copy() for k, p in params.items()}
    optimizer, state = made(params, lr_scale=0.5)
    momentum = {k: np.zeros(p.shape) for k, p in params.items()}
    noise, clipped = generator(5), []
    for t, grads in enumerate(gradients(params, 25, scale), 1):
        for (name, m), g in zip(momentum.items(), grads, strict=True):
            m *= 0.9
            m += 0.1 * g.double().numpy()
            p = [full(state[f"kron_{s}/{name}"]) for s in ("left", "right") if f"kron_{s}/{name}" in state]
            matrix = (m / (1 - 0.9**t)).reshape(m.shape[0], -1)
            u = p[0].T @ p[0] @ matrix @ (p[1].T @ p[1] if len(p) == 2 else np.eye(1))
            rms = np.sqrt((u**2).mean())
            clipped.append(rms > 1.1)
            theta[name] -= 0.02 * 0.5 * u.reshape(m.shape) * min(1.0, 1.1 / rms)
        step(optimizer, [g.clone() for g in grads], 0.02, noise)
        for name, p in params.items():
            np.testing.assert_allclose(p.detach().numpy(), theta[name], rtol=1e-3, atol=1e-5)
    assert any(clipped) or scale < 1
    assert not all(clipped)


def test_no_step_is_longer_than_allowed():
    params = three_tensors()
    optimizer, _ = made(params)
    for grads in gradients(params, 30, 1e6):
        before = {k: p.detach().clone() for k, p in params.items()}
        step(optimizer, grads, 0.01, generator(1))
        for name, p in params.items():
            assert float((p.detach() - before[name]).square().mean().sqrt()) <= 0.011 * 1.001


def test_converges_on_an_ill_conditioned_quadratic_far_faster_than_gradient_descent():
    """1/2 |A x B|^2 with condition numbers of 100 for A and for B, that is 1e8 in all."""
    a = torch.diag(torch.logspace(-1, 1, 5)) @ torch.linalg.qr(normal(5, 5))[0]
    b = torch.linalg.qr(normal(6, 6, seed=1))[0] @ torch.diag(torch.logspace(-1, 1, 6))

    def loss(x):
        return 0.5 * (a @ x @ b).square().sum()

    def gradient(x):
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(loss(x), [x])[0]

    start = normal(5, 6, seed=2)
    params = {"q/body.0.weight": start.clone().requires_grad_(True)}
    optimizer, _ = made(params, schedule=FitSchedule(500, 1e-3, 0.03))
    noise = generator(9)
    for i in range(2000):
        step(optimizer, [gradient(params["q/body.0.weight"])], 0.02 * (1 - i / 2000), noise)
    x = start.clone()
    for _ in range(2000):
        x = x - 1e-4 * gradient(x)  # the largest stable step: curvature is 1e4 at most
    # Along the flattest direction descent has hardly begun.
    mine, theirs = params["q/body.0.weight"].detach(), x
    assert float(mine.norm()) < 0.2 * float(theirs.norm())


def test_schedule():
    schedule = FitSchedule(flat=500, decay=1e-3, least=0.03)
    assert [schedule.share(n) for n in (0, 499, 500)] == [1.0, 1.0, 1.0]
    assert schedule.share(1500) == pytest.approx(np.exp(-1.0))
    assert schedule.share(10**6) == 0.03
    params = three_tensors()
    optimizer, state = made(params, schedule=FitSchedule(flat=3, decay=1.0, least=0.25))
    noise, fits = generator(0), []
    for grads in gradients(params, 24):
        before = state["kron_left/q/body.0.weight"].clone()
        step(optimizer, grads, 0.01, noise)
        fits.append(not torch.equal(before, state["kron_left/q/body.0.weight"]))
    assert fits[:4] == [True] * 4
    assert sum(fits[8:]) == 4
    assert state["kron_schedule/q/body.0.weight"].tolist()[::2] == [24, sum(fits)]


def test_overwritten():
    params = three_tensors()
    optimizer, state = made(params)
    for grads in gradients(params, 5):
        step(optimizer, grads, 0.01, generator(1))
    before = {k: v.clone() for k, v in state.items()}
    mask = torch.tensor([True, False, True])
    optimizer.overwritten("q/body.0.bias", mask, moments=True)
    key = "kron_momentum/q/body.0.bias"
    assert torch.equal(state[key], torch.where(mask, 0.0, before[key]))
    assert all(torch.equal(v, before[k]) for k, v in state.items() if k != key)
    optimizer.overwritten("q/body.0.weight", None, moments=False)
    optimizer.overwritten("q/frozen.0.body.0.weight", None, moments=True)
    assert all(torch.equal(v, before[k]) for k, v in state.items() if k != key)
    optimizer.overwritten("q/body.0.weight", None, moments=True)
    assert not state["kron_momentum/q/body.0.weight"].any()
    assert float(state["kron_step/q/body.0.weight"]) == 0.0
    assert torch.equal(state["kron_left/q/body.0.weight"], torch.eye(3))
    assert torch.equal(state["kron_right/q/body.0.weight"], torch.eye(4))
    assert not state["kron_schedule/q/body.0.weight"].any()
    assert torch.equal(state["kron_left/q/head.q.weight"], before["kron_left/q/head.q.weight"])


# -- the method ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("agent", "actions"),
    [("ppo", "continuous"), ("pqn", "discrete"), ("c51", "discrete"), ("td3", "continuous")],
)
def test_every_parameter_of_every_agent(agent, actions):
    p = lab.parts(lab.nodes("kron"), agent_name=agent, actions=actions)
    covered = {
        k.partition("/")[2] for opt in p.learner.state.opt.values() for k in opt if k.startswith("kron_mom")
    }
    assert covered == set(p.learner.state.params)
    assert not any(k.startswith("exp_avg") for opt in p.learner.state.opt.values() for k in opt)
    assert len(lab.method(p, "kron")._optimizers) == len(p.learner.state.opt)


def test_scope_learning_rate_and_random_stream():
    p = lab.parts(lab.nodes("kron", scope=["critic/*"], lr_scale=0.25), experience=True)
    opt = p.learner.state.opt["update"]
    assert {k.partition("/")[2] for k in opt if k.startswith("exp_avg/")} == {
        k for k in p.learner.state.params if k.startswith("actor/")
    }
    phase, lr, batch = next(p.learner.agent.batches(0.0))
    name = "critic/head.value.weight"
    before = lab.params(p)[name]
    act = p.learner.streams["act"].get_state()
    p.learner.updates[phase](batch, lr)
    # Before the first fit the preconditioner is the identity: a step of plain gradient descent, in the bound.
    gradient = opt[f"kron_momentum/{name}"] / 0.1
    gradient = gradient / torch.clamp(gradient.square().mean().sqrt() / 1.1, min=1.0)
    torch.testing.assert_close(lab.params(p)[name], before - 0.25 * lr * gradient, rtol=1e-4, atol=1e-7)
    assert torch.equal(act, p.learner.streams["act"].get_state())
    expected = Streams(0).once("method/kron")
    factors = [q for k in ("left", "right") for q in [opt[f"kron_{k}/critic/body.0.weight"]]]
    by_hand = initial_factors((8, 5), 100)
    momentum = opt["kron_momentum/critic/body.0.weight"] / 0.1
    fit_(by_hand, momentum, torch.randn(8, 5, generator=expected), 0.1)
    for got, wanted in zip(factors, by_hand, strict=True):
        torch.testing.assert_close(got, wanted)


def test_composition():
    lab.parts({**lab.nodes("kron"), **lab.nodes("trac")})
    with pytest.raises(UserError, match="wrapped"):
        lab.parts({**lab.nodes("trac"), **lab.nodes("kron")})
    with pytest.raises(UserError, match="already replaced"):
        lab.parts({**lab.nodes("upgd"), **lab.nodes("kron")})
    with pytest.raises(UserError, match="replaces"):
        lab.parts({**lab.nodes("kron"), **lab.nodes("upgd")})


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_scale": 0.0},
        {"momentum": 1.0},
        {"fit_lr": 1.0},
        {"fit_flat": -1},
        {"fit_decay": -1.0},
        {"fit_least": 0.0},
    ],
)
def test_refuses_what_makes_no_sense(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        lab.parts(lab.nodes("kron", **changes))
