"""Config dataclasses as flags."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from absl import flags
from hypothesis import given
from hypothesis import strategies as st

from experiments.frame.flags import config_from_flags, define, help_text, parse
from tests.experiments.sample import closed_form

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 10  # optimizer steps, > 0
    # learning rate,
    # per step
    rate: float = 0.1
    flip: bool = True  # mirrors images
    name: str = "a"
    mode: Literal["fast", "slow"] = "fast"
    level: Literal[1, 2] = 1
    seeds: tuple[int, ...] = (0, 1)
    pair: tuple[float, float] = (0.9, 0.999)
    modes: tuple[Literal["x", "y"], ...] = ("x",)
    said: int = dataclasses.field(default=3, metadata={"help": "by metadata"})  # not this

    def __post_init__(self):
        if self.steps <= 0:
            raise ValueError(f"steps must be positive, got {self.steps!r}; try --steps=10.")


def configured(*argv, base=None):
    values = flags.FlagValues()
    define(Config, values)
    parse(values, ["program", *argv])
    return config_from_flags(Config, values, base=base)


def test_without_flags_the_defaults_are_kept():
    assert configured() == Config()


def test_every_type_is_parsed():
    found = configured(
        *("--steps=3", "--rate", "1e-3", "--noflip", "--name=b c", "--mode=slow", "--level=2"),
        *("--seeds=4, 5,6", "--pair=0.5,1", "--modes=y,x", "--said=4"),
    )
    expected = Config(
        steps=3,
        rate=1e-3,
        flip=False,
        name="b c",
        mode="slow",
        level=2,
        seeds=(4, 5, 6),
        pair=(0.5, 1.0),
        modes=("y", "x"),
        said=4,
    )
    assert found == expected
    assert configured("--flip=false", "--seeds=") == Config(flip=False, seeds=())


@given(st.lists(st.integers()), st.floats(allow_nan=False), st.text(alphabet="ab,= -", min_size=1))
def test_what_python_writes_is_parsed_back(seeds, rate, name):
    found = configured(f"--seeds={','.join(map(str, seeds))}", f"--rate={rate!r}", f"--name={name}")
    assert found == Config(seeds=tuple(seeds), rate=rate, name=name)


def test_what_is_not_given_comes_from_the_base():
    assert configured("--rate=2", base=Config(steps=1)) == Config(steps=1, rate=2.0)


def test_comments_and_metadata_are_the_help():
    values = flags.FlagValues()
    define(Config, values)
    texts = {name: values[name].help for name in ("steps", "rate", "flip", "said", "name")}
    assert texts == {
        "steps": "optimizer steps, > 0",
        "rate": "learning rate, per step",
        "flip": "mirrors images",
        "said": "by metadata",
        "name": "name",
    }


def test_a_class_without_source_still_has_flags():
    made = dataclasses.make_dataclass("Made", [("size_bytes", int, 2)], frozen=True)
    values = flags.FlagValues()
    define(made, values)
    assert values["size_bytes"].help == "size bytes"


def test_help_shows_docstring_defaults_and_types():
    values = flags.FlagValues()
    define(Config, values, group="flags here")
    text = help_text(closed_form, values)
    for part in (
        "one more bit",
        "flags here:",
        "--[no]flip",
        "learning rate",
        "'0.9,0.999'",
        "one of fast, slow",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--sed=3", "flag must be a known one, got --sed; did you mean --seeds?"),
        ("--learning_speed=3", "got --learning_speed; see --help."),
        ("--steps=abc", "flag --steps=abc: must be an integer, got 'abc'; see --help."),
        ("--rate=fast", "must be a number, got 'fast'"),
        ("--flip=maybe", "must be true or false, got 'maybe'"),
        ("--mode=sloww", "must be one of fast, slow, got 'sloww'; did you mean 'slow'?"),
        ("--level=9", "must be one of 1, 2, got '9'; see --help."),
        ("--seeds=1,,2", "must be an integer, got ''"),
        ("--pair=1", "must be 2 values, each a number, commas between, got '1'"),
        ("--steps=-1", "steps must be positive, got -1; try --steps=10."),
        ("stray", "arguments must be flags (--name=value), got 'stray'"),
        ("--steps", "steps"),
    ],
)
def test_what_is_wrong_is_said(argument, message):
    with pytest.raises(ValueError) as error:
        configured(argument)
    assert message in str(error.value)


def test_an_annotation_that_no_flag_can_carry_is_refused():
    made = dataclasses.make_dataclass("Made", [("table", dict, None)])
    with pytest.raises(ValueError, match="table must be int, float, bool, str, Literal or a tuple"):
        define(made, flags.FlagValues())


def test_a_field_with_the_name_of_another_flag_is_refused():
    values = flags.FlagValues()
    define(Config, values)
    with pytest.raises(ValueError, match=r"Config.steps must not be named as a flag of every experiment"):
        define(Config, values)


def test_from_the_command_line_an_unknown_flag_is_an_error_without_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiments.sample.closed_form", "--sed=3"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: flag must be a known one, got --sed; did you mean --seeds?\n"
