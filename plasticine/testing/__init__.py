"""For tests, yours included: a tiny level, tiny runs, and the contracts that parts of a run must keep.

::

    from plasticine.testing import check_method

    def test_my_method():
        check_method("my_method")   # the name of a YAML file in a `method` folder on Hydra's search path
"""

from plasticine.envs.contract import check_env_level
from plasticine.testing.contract import check_method, check_pair
from plasticine.testing.guests import check_agent, check_metric
from plasticine.testing.level import ToyLevel
from plasticine.testing.runs import Recording, method_names, method_nodes, record, tiny_config

__all__ = [
    "Recording",
    "ToyLevel",
    "check_agent",
    "check_env_level",
    "check_method",
    "check_metric",
    "check_pair",
    "method_names",
    "method_nodes",
    "record",
    "tiny_config",
]
