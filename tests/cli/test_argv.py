import pytest

from plasticine.cli.argv import expand_range, is_range, shown, split
from plasticine.errors import UserError


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("method=snp env=x -m seed=0-9", ["--multirun", "method=snp", "env=x", "seed=0-9"]),
        ("-m seed=1,2", ["--multirun", "seed=1,2"]),
        ("seed=1,2 --multirun", ["--multirun", "seed=1,2"]),
        ("a=1 --cfg job b=2", ["--cfg=job", "a=1", "b=2"]),
        ("a=1 -c=all --resolve", ["--cfg=all", "--resolve", "a=1"]),
        ("a=1 --config-dir ./mine method=my", ["--config-dir=./mine", "a=1", "method=my"]),
        ("--info a=1", ["--info", "a=1"]),
        ("a=1 --info defaults-tree", ["--info=defaults-tree", "a=1"]),
        ("~metrics a=-1", ["~metrics", "a=-1"]),
        ("", []),
    ],
)
def test_flags_may_stand_anywhere(argv, expected):
    assert split(argv.split()).argv() == expected


def test_the_multirun_flag_is_known():
    assert split(["a=1", "-m"]).multirun
    assert not split(["a=-m"]).multirun


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--mulitrun", "did you mean '--multirun'"),
        ("a=1 --config-dir", "--config-dir needs a value"),
        ("-m=3", "takes no value"),
        ("snp", "method=snp"),
    ],
)
def test_a_wrong_flag_is_named(argv, words):
    with pytest.raises(UserError, match=words):
        split(argv.split())


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("0-9", list(range(10))),
        ("0-4,7", [0, 1, 2, 3, 4, 7]),
        ("7,0-4", [7, 0, 1, 2, 3, 4]),
        ("0-20:5", [0, 5, 10, 15, 20]),
        ("0-21:5", [0, 5, 10, 15, 20]),
        ("0-2,10-12", [0, 1, 2, 10, 11, 12]),
        ("3-3", [3]),
    ],
)
def test_both_ends_of_a_range_belong_to_it(value, numbers):
    assert is_range(value)
    assert expand_range("seed", value) == numbers


@pytest.mark.parametrize(
    "value", ["3", "1,2", "a-b", "-3", "1e-5", "0-", "range(0,3)", "0 -9", "2020-01-01", "0-9:", "", "0-9,a"]
)
def test_other_values_are_no_ranges(value):
    assert not is_range(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("9-0", "seed=0-9"),
        ("0-9:0", "step 0"),
        ("0-4,3", "3 more than once"),
        ("0-999999999", "more than 100000"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(value, words):
    with pytest.raises(UserError, match=words):
        expand_range("seed", value)


def test_long_lists_are_shortened():
    assert shown([0, 1, 2]) == "0,1,2"
    assert shown(list(range(10))) == "0,1,...,9"
