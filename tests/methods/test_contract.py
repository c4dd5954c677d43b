"""Every method file keeps the contract; every two compose or say why not."""

from __future__ import annotations

import pytest
import torch

from plasticine.testing import check_method, check_pair, method_names, method_nodes, record, tiny_config

METHODS = method_names()


@pytest.mark.parametrize("method", METHODS)
def test_contract(method):
    check_method(method)


@pytest.mark.parametrize("method", METHODS)
def test_file_holds_one_method_of_its_own_name(method):
    assert list(method_nodes(method)) == [method]


@pytest.mark.parametrize("first", METHODS)
def test_pairs_train_or_are_refused(first):
    """Each pair trains in one order and is built in the other."""
    for second in METHODS:
        if second != first:
            check_pair(first, second, train=first < second)


@pytest.mark.parametrize("shared", [False, True])
def test_vanilla_equals_no_method(shared):
    with_vanilla = record(tiny_config(method_nodes("vanilla"), shared=shared))
    without = record(tiny_config({}, shared=shared))
    for mine, theirs in zip(with_vanilla.iterations, without.iterations, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)
