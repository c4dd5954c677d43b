"""A compiled loss gives the same numbers. Slow: PyTorch writes and compiles C++."""

from __future__ import annotations

import pytest
import torch

from tests.core.runs import parts, trainer


def trained(*overrides):
    t = trainer(parts("env.num_tasks=1", "env.steps_per_task=128", *overrides))
    t.fit()
    return {name: value.detach().clone() for name, value in t.learner.state.params.items()}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vanilla", "c_chain", "parseval", "[l2,sam]"])
def test_a_compiled_run_learns_the_same(method):
    eager, bare = trained(f"method={method}"), trained("method=vanilla")
    compiled = trained(f"method={method}", "compute.compile=true")
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)
    if method != "vanilla":  # and the method is in it
        assert max(float((compiled[k] - bare[k]).abs().max()) for k in bare) > 1e-5
