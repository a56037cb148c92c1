"""The README keeps its word: its example runs as it stands, and what it names exists."""

import re
from pathlib import Path

import chex
import jax.numpy as jnp

import efficient as ef

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_example_runs(capsys):
    first, second = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {}
    exec(compile(first, "README.md", "exec"), names)
    assert names["logits"].shape == (8, 10)
    assert ef.stored_bytes(names["packed"]) < ef.stored_bytes(names["params"]) / 2
    plain = names["model"].apply(ef.dense(names["packed"]), names["x"])
    assert jnp.allclose(names["logits"], plain, atol=1e-5)
    assert "QuantizedLeaf" in capsys.readouterr().out
    before = names["state"].train
    exec(compile(second, "README.md", "exec"), names)
    chex.assert_trees_all_equal_shapes_and_dtypes(names["train"], before)
    assert names["logits"].shape == (8, 10)


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_its_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (?:PYTHON=\S+ )?(\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_its_experiments_exist():
    for module in set(re.findall(r"python -m experiments\.(\w+)", TEXT)):
        assert (ROOT / "experiments" / f"{module}.py").exists(), module
