from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.optim import Adam
from plasticine.errors import UserError
from plasticine.methods.spectral_norm import SpectralOptimizer, raw_gradient, scale_of
from plasticine.networks.initializers import Initializer
from plasticine.testing import record, tiny_config
from tests.methods import lab

NAME = "spectral_norm"
WEIGHT, BIAS = "q/body.0.weight", "q/body.0.bias"


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def largest(tensor):
    return np.linalg.svd(tensor.detach().double().numpy().reshape(tensor.shape[0], -1), compute_uv=False)[0]


# -- the reparametrisation -----------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 2, 2, 2)])
@pytest.mark.parametrize("size", [0.7, 100.0])
@pytest.mark.parametrize("limit", [False, True])
def test_gradient_passes_through_the_singular_value(shape, size, limit):
    raw, grad = normal(*shape).double().requires_grad_(True), normal(*shape, seed=1).double()
    exact = torch.linalg.svdvals(raw.flatten(1))[0]
    factor = size / exact
    normalised = raw * (factor.clamp(max=1.0) if limit else factor)
    (expected,) = torch.autograd.grad((normalised * grad).sum(), [raw])
    u, _, vh = torch.linalg.svd(raw.detach().flatten(1), full_matrices=False)
    scale = scale_of(raw.detach(), u[:, 0], vh[0], size, limit=limit)
    got = raw_gradient(grad, normalised.detach(), u[:, 0], vh[0], scale, size, limit=limit)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)
    assert (float(scale) == 1.0) == (limit and size == 100.0)


def parameters():
    weight = normal(5, 3)
    return {
        WEIGHT: (weight / torch.linalg.matrix_norm(weight, 2)).requires_grad_(True),
        BIAS: normal(5, seed=1).requires_grad_(True),
    }


def wrapped(params, size=1.0, limit=False):
    optimizer = SpectralOptimizer(
        Adam(betas=(0.9, 0.999), eps=1e-8), {WEIGHT}, size, limit=limit, iterations=1
    )
    return optimizer, optimizer.bind(params)


def descend(optimizer, params, steps, lr=0.05):
    """Steps on the squared error of a linear map on random inputs."""
    for i in range(steps):
        x, y = normal(16, 3, seed=100 + i), normal(16, 5, seed=200 + i)
        loss = (torch.nn.functional.linear(x, params[WEIGHT], params[BIAS]) - y).square().mean()
        grads = torch.autograd.grad(loss, list(params.values()))
        with torch.no_grad():
            optimizer.step([g.clone() for g in grads], lr)


def test_equals_pytorchs_parametrisation():
    params = parameters()
    layer = torch.nn.Linear(3, 5)
    with torch.no_grad():
        layer.weight.copy_(params[WEIGHT])
        layer.bias.copy_(params[BIAS])
    torch.manual_seed(0)
    torch.nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=1)
    norm = layer.parametrizations.weight[0]
    u, _, vh = torch.linalg.svd(params[WEIGHT].detach())
    with torch.no_grad():
        norm._u.copy_(u[:, 0])
        norm._v.copy_(vh[0])
    theirs = torch.optim.Adam(layer.parameters(), lr=0.05)
    for i in range(30):
        x, y = normal(16, 3, seed=100 + i), normal(16, 5, seed=200 + i)
        loss = (layer(x) - y).square().mean()
        theirs.zero_grad()
        loss.backward()
        theirs.step()
    optimizer, state = wrapped(params)
    descend(optimizer, params, 30)
    raw = layer.parametrizations.weight.original.detach()
    torch.testing.assert_close(state[f"spectral_raw/{WEIGHT}"], raw, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(params[BIAS].detach(), layer.bias.detach(), rtol=1e-3, atol=1e-4)
    assert largest(raw) > 1.05  # otherwise nothing was normalised
    assert largest(params[WEIGHT]) == pytest.approx(1.0, abs=1e-2)


def test_without_reaching_the_limit_it_is_the_base_optimizer():
    mine, theirs = parameters(), parameters()
    optimizer, _ = wrapped(mine, size=50.0, limit=True)
    plain = Adam(betas=(0.9, 0.999), eps=1e-8)
    plain.bind(theirs)
    descend(optimizer, mine, 10)
    descend(plain, theirs, 10)
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_what_others_change_is_carried_over():
    params = parameters()
    optimizer, state = wrapped(params)
    descend(optimizer, params, 10)
    raw, scale = state[f"spectral_raw/{WEIGHT}"].clone(), float(state[f"spectral_scale/{WEIGHT}"])
    assert scale < 0.95
    with torch.no_grad():
        params[WEIGHT].add_(0.1)
        optimizer.step([torch.zeros_like(p) for p in params.values()], 0.0)
    torch.testing.assert_close(state[f"spectral_raw/{WEIGHT}"], raw + 0.1 / scale)
    assert torch.equal(state[f"spectral_last/{WEIGHT}"], params[WEIGHT].detach())


def test_overwritten():
    params = parameters()
    optimizer, state = wrapped(params)
    descend(optimizer, params, 10)
    key = f"spectral_raw/{WEIGHT}"
    raw, scale = state[key].clone(), float(state[f"spectral_scale/{WEIGHT}"])
    mask = torch.zeros(5, 3, dtype=torch.bool)
    mask[1] = True
    with torch.no_grad():
        params[WEIGHT][1] = 0.25
    optimizer.overwritten(WEIGHT, mask, moments=True)
    torch.testing.assert_close(state[key], torch.where(mask, 0.25 / scale, raw))
    assert torch.equal(state[f"exp_avg/{WEIGHT}"] == 0, mask)
    fresh = normal(5, 3, seed=9)
    with torch.no_grad():
        params[WEIGHT].copy_(fresh)
    optimizer.overwritten(WEIGHT, None, moments=True)
    assert torch.equal(state[key], fresh)
    with torch.no_grad():
        optimizer.step([torch.zeros_like(p) for p in params.values()], 0.0)
    assert largest(params[WEIGHT]) == pytest.approx(1.0, rel=1e-4)
    optimizer.overwritten("q/frozen.0.body.0.weight", None, moments=True)


# -- initial values ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["orthogonal", "uniform_fan_in", "he_normal"])
@pytest.mark.parametrize("shape", [(60, 200), (200, 60), (16, 8, 3, 3)])
def test_initial_draws(kind, shape):
    draw = Initializer(kind, 1.3, largest=0.8)
    tensor = draw.draw_(torch.empty(shape), torch.Generator().manual_seed(0))
    assert largest(tensor) == pytest.approx(0.8, rel=1e-5)
    assert draw.std(shape) == pytest.approx(float(tensor.std()), rel=0.1)
    plain = Initializer(kind, 1.3)
    same = plain.draw_(torch.empty(shape), torch.Generator().manual_seed(0))
    torch.testing.assert_close(tensor * largest(same) / 0.8, same, rtol=1e-4, atol=1e-6)
    lax = Initializer(kind, 1.3, largest=100.0, limit=True)
    assert torch.equal(lax.draw_(torch.empty(shape), torch.Generator().manual_seed(0)), same)
    assert lax.std(shape) == plain.std(shape)


# -- the method ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"actor/body.1.weight", "critic/body.1.weight"}),
        ({"layers": 2}, {f"{n}/body.{i}.weight" for n in ("actor", "critic") for i in (0, 1)}),
        ({"layers": 7}, {f"{n}/body.{i}.weight" for n in ("actor", "critic") for i in (0, 1)}),
        ({"layers": "all", "scope": ["critic/*"]}, {"critic/body.0.weight", "critic/body.1.weight"}),
    ],
)
def test_which_weights(changes, expected):
    p = lab.parts(lab.nodes(NAME, **changes), actions="continuous")
    covered = {k.partition("/")[2] for k in p.learner.state.opt["update"] if k.startswith("spectral_raw")}
    assert covered == expected
    for name, value in lab.params(p).items():
        if name.endswith("weight") and "body" in name:
            assert largest(value) == pytest.approx(1.0 if name in expected else np.sqrt(2.0), rel=1e-4)


@pytest.mark.parametrize(
    ("agent", "actions", "network"),
    [
        ("ppo", "continuous", "mlp"),
        ("ppo", "discrete", "impala"),
        ("pqn", "discrete", "mlp"),
        ("td3", "continuous", "mlp"),
        ("c51", "discrete", "nature_cnn"),
    ],
)
def test_the_largest_singular_value_is_held_while_training(agent, actions, network):
    nodes = lab.nodes(NAME, layers="all", largest=0.9, iterations=20)
    config = tiny_config(nodes, agent_name=agent, actions=actions, network_name=network)
    config["env"]["num_tasks"] = 1
    run = record(config)
    for name, value in run.params.items():
        start = run.initial[f"params:{name}"]
        assert not torch.equal(value, start), name
        if name.endswith("weight") and "/body." in name:
            assert largest(start) == pytest.approx(0.9, rel=1e-4)
            assert largest(value) == pytest.approx(0.9, rel=2e-2), name
    for name, value in run.initial.items():  # slow copies start equal
        if name.startswith("targets:"):
            assert torch.equal(value, run.initial[name.replace("targets:", "params:")])


def test_a_fresh_tail_after_an_injection_is_normalised_and_the_function_is_kept():
    p = lab.parts({**lab.nodes(NAME), **lab.nodes("plasticity_injection")}, experience=True)
    lab.learn(p, 2)
    x = lab.observations(20)
    before = lab.outputs(p, x)
    lab.act(p, "plasticity_injection")
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, before[key], rtol=1e-4, atol=1e-5)
    assert largest(p.learner.state.params["critic/body.1.weight"]) == pytest.approx(1.0, rel=1e-4)


def test_refusals_and_composition():
    lab.parts({**lab.nodes(NAME), **lab.nodes("trac")})
    lab.parts({**lab.nodes("trac"), **lab.nodes(NAME)})
    lab.parts({**lab.nodes("kron"), **lab.nodes(NAME)})
    with pytest.raises(UserError, match="wrapped"):
        lab.parts({**lab.nodes(NAME), **lab.nodes("kron")})
    with pytest.raises(UserError, match="nothing to normalise"):
        lab.parts(lab.nodes(NAME, scope=["*/body.0.*"]))
    for changes in ({"layers": 0}, {"largest": 0.0}, {"iterations": 0}):
        with pytest.raises(UserError, match=next(iter(changes))):
            lab.parts(lab.nodes(NAME, **changes))
