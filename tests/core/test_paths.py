"""Paths: one name a value, and a pattern chooses exactly what it says."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from efficient.core.paths import flatten, map_with_path, matches, select, unflatten
from efficient.quantize import CodebookLeaf

TREE = {
    "params": {
        "Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "Dense_1": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
        "layers": [{"attn": {"kernel": jnp.ones((2, 2))}}, {"attn": {"kernel": jnp.ones((2, 2))}}],
    }
}


class Linear(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(2, 3, rngs=rngs)


@pytest.mark.parametrize(
    ("glob", "path", "chosen"),
    [
        ("kernel", "params/Dense_0/kernel", False),  # the whole path, not its end
        ("**/kernel", "params/Dense_0/kernel", True),
        ("**/kernel", "kernel", True),  # ** is any number of keys, none included
        ("**/kernel", "params/Dense_0/my_kernel", False),  # whole keys
        ("**/*kernel", "params/Dense_0/my_kernel", True),
        ("*/kernel", "params/Dense_0/kernel", False),  # * is one key
        ("*/*/kernel", "params/Dense_0/kernel", True),
        ("params/Dense_*/kernel", "params/Dense_12/kernel", True),
        ("params/Dense_*/kernel", "params/Dense_0/x/kernel", False),  # * does not cross keys
        ("params/**", "params/Dense_0/kernel", True),
        ("params/**", "params", True),
        ("params/**", "params2/kernel", False),
        ("params/**/kernel", "params/kernel", True),
        ("**/layers/**/kernel", "a/layers/0/b/kernel", True),
        ("**", "any/path", True),
        ("**", "", True),  # a bare array
        ("", "", True),
        ("a.b/*", "axb/c", False),  # only * is special
        ("a[0]", "a[0]", True),
        ("a[0]", "a0", False),
        ("D*s*0", "Dense_0", True),
        ("Kernel", "kernel", False),
    ],
)
def test_glob(glob, path, chosen):
    assert matches(glob, path) is chosen


def test_every_kind_of_pattern():
    value = jnp.ones((2, 3))
    assert matches(re.compile(r"a/\d+"), "a/12")
    assert not matches(re.compile(r"a/\d+"), "a/12/b")  # the whole path
    assert not matches(re.compile(r"\d+"), "a/12")
    assert matches(lambda path, v: path == "a" and v.ndim == 2, "a", value)
    assert not matches(lambda path, v: v.ndim == 1, "a", value)
    assert matches(["x", ["y", re.compile("a")]], "a")
    assert not matches([], "a")
    assert matches(("x", lambda path, v: True), "a")


def test_paths_of_every_container():
    tree = {"b": [1, (2, None)], "a": {10: 3, 7: 4}}
    by_path, treedef = flatten(tree)
    # In JAX's order: the keys of a dict sorted, here as numbers; None is no value.
    assert list(by_path.items()) == [("a/7", 4), ("a/10", 3), ("b/0", 1), ("b/1/0", 2)]
    assert unflatten(treedef, by_path) == tree
    assert flatten(5)[0] == {"": 5}


def test_nnx_state_has_the_paths_of_its_attributes():
    state = nnx.split(Linear(rngs=nnx.Rngs(0)))[1]
    assert sorted(flatten(state)[0]) == ["up/bias", "up/kernel"]
    doubled = map_with_path(lambda path, v: v * 2 if path == "up/bias" else v, state)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)


def test_a_flat_dict_of_paths_flattens_to_itself():
    flat = flatten(TREE)[0]
    assert flatten(flat)[0].keys() == flat.keys()
    assert "params/layers/1/attn/kernel" in flat


def test_a_value_key_alone_keeps_its_name():
    assert list(flatten({"value": 1, "w": {"value": 2}})[0]) == ["value", "w/value"]  # dict keys, not NNX's


def test_leaves_stay_whole():
    leaf = CodebookLeaf(
        codebook=jnp.ones(2), indices=jnp.zeros((2, 2), jnp.uint8), out_dtype=jnp.dtype("float32")
    )
    by_path, treedef = flatten({"w": leaf, "b": jnp.ones(2)})
    assert by_path["w"] is leaf
    assert unflatten(treedef, by_path)["w"] is leaf


def test_select_and_exclude():
    assert list(select(TREE, "**/kernel", exclude="**/layers/**")) == [
        "params/Dense_0/kernel",
        "params/Dense_1/kernel",
    ]
    wide = select(TREE, lambda path, v: v.ndim == 2 and v.shape[1] == 3)
    assert list(wide) == ["params/Dense_0/kernel"]
    both = select(TREE, ("params/Dense_0/*", "**/Dense_1/bias"), exclude=[re.compile(".*kernel")])
    assert list(both) == ["params/Dense_0/bias", "params/Dense_1/bias"]


@pytest.mark.parametrize(
    ("where", "exclude", "message"),
    [
        (
            "**/kernels",
            (),
            r"got '\*\*/kernels' that matches none; did you mean 'params/Dense_0/kernel' or 'params/Dense_1",
        ),
        ("params/dense_1/bias", (), r"did you mean 'params/Dense_1/bias' or"),
        (
            "**/zzz",
            (),
            r"pattern must match at least one path, got '\*\*/zzz' .* the tree has 'params/Dense_0/bias', ",
        ),
        ("**/kernel", "**", r"got '\*\*/kernel' without '\*\*' that matches none"),
        (re.compile("kernel"), (), r"got re.compile\('kernel'\) that matches none; did you mean 'params/"),
        (
            ("**/kernels", "x"),
            (),
            r"got \('\*\*/kernels', 'x'\) that matches none; did you mean 'params/",
        ),
        (lambda path, v: False, (), r"got <function .* that matches none; the tree has 'params/"),
        ("*", (), r"got '\*' that matches none; the tree has 'params/Dense_0/bias'"),
    ],
)
def test_near_misses_are_named(where, exclude, message):
    with pytest.raises(ValueError, match=message):
        select(TREE, where, exclude=exclude)


def test_the_nearest_comes_first():
    with pytest.raises(ValueError, match=r"did you mean 'params/layers/0/attn/kernel' or"):
        select(TREE, "params/layer/*/atn/kernel")


def test_two_values_of_one_path():
    with pytest.raises(
        ValueError, match=r"paths of a tree must differ, got 'a/b' twice; rename one of the two\."
    ):
        flatten({"a": {"b": 1}, "a/b": 2})
