"""Every method file keeps the contract with every agent; every two compose or say why not."""

from __future__ import annotations

import functools

import pytest
import torch

from plasticine.testing import check_method, check_pair, method_names, method_nodes, record, tiny_config

METHODS = method_names()
checked = functools.cache(check_method)


@functools.cache
def refused_with(first: str) -> dict[str, str]:
    """Methods that cannot follow `first`, and why. Each pair trains in one order and is built in the other."""
    answers = {s: check_pair(first, s, train=first < s) for s in METHODS if s != first}
    return {second: why for second, why in answers.items() if why}


@pytest.mark.parametrize("method", METHODS)
def test_contract(method):
    checked(method)


@pytest.mark.parametrize("method", METHODS)
def test_file_holds_one_method_of_its_own_name(method):
    assert list(method_nodes(method)) == [method]


@pytest.mark.parametrize("first", METHODS)
def test_pairs_train_or_are_refused(first):
    """``pytest -rP -k pairs`` shows what is refused, and why."""
    for second, why in refused_with(first).items():
        print(f"{first} + {second}: {why}")
        assert first in why or second in why


#: Pairs refused in both orders, for certain: what one builds the other would undo, or both set the same thing.
REFUSED = (
    ("adam_equal_betas", "adam_rel"),
    ("crelu", "dff"),
    ("hare_tortoise", "plasticity_injection"),
    ("layer_norm", "rms_norm"),
)
#: Composes with every other one, in both orders.
HARMLESS = ("vanilla", "l2", "regenerative", "sam", "snp", "head_reset")


@pytest.mark.parametrize(("first", "second"), [*REFUSED, *(pair[::-1] for pair in REFUSED)])
def test_contradictions_are_refused(first, second):
    assert second in refused_with(first)


@pytest.mark.parametrize("method", HARMLESS)
def test_what_contradicts_nothing_composes_with_everything(method):
    assert refused_with(method) == {}
    assert not [first for first in METHODS if method in refused_with(first)]


@pytest.mark.parametrize("method", HARMLESS)
def test_what_needs_nothing_special_fits_every_agent(method):
    assert checked(method) == {}


@pytest.mark.parametrize("shared", [False, True])
def test_vanilla_equals_no_method(shared):
    with_vanilla = record(tiny_config(method_nodes("vanilla"), shared=shared))
    without = record(tiny_config({}, shared=shared))
    for mine, theirs in zip(with_vanilla.iterations, without.iterations, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)
