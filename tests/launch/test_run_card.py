"""What a run says about itself before it begins."""

import pytest

from plasticine.api import configure
from plasticine.launch.folder import run_card
from plasticine.launch.job import inspect
from plasticine.launch.provenance import Provenance

PROVENANCE = Provenance({"host": "h", "git": {"plasticine": None}}, "")
C51 = ("agent=c51", "env=classic", "agent.learning_starts=100")


@pytest.mark.parametrize(
    ("overrides", "exact"),
    [
        (("env=classic",), "true"),
        (("env=continual_dmc", "env.domain=walker"), "true"),
        (("env=standard_procgen",), "true"),
        (("env=open_craftax", "env.domain=craftax_classic_symbolic"), "true"),
        (("env=standard_ale",), "false"),
        (("env=continual_ale",), "false"),
        (("env=continual_ale", "env.shift=mode", "env.game=breakout"), "true"),
        ((*C51, "agent.checkpoint_replay=true"), "true"),
        ((*C51, "agent.checkpoint_replay=false"), "false"),
    ],
)
def test_the_tags_tell_whether_the_run_can_be_resumed_exactly(overrides, exact):
    config = configure(*overrides, "budget=laptop")
    card = run_card(config, inspect(config), PROVENANCE)
    assert card["tags"]["exact_resume"] == exact
