"""Every score with every pattern, at once and along a ramp, on every kind of tree, obeys the laws of a mask.

Each combination is made and updated by itself, eagerly. Under `jit` the scores of a tree share one program
(`panel`), which also trains; that its masks are those of the combination is the law `jit == eager`.
"""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import State, Transform, at, chain, dense
from efficient.adapt import lora
from efficient.core.gradients import observe_gradients
from efficient.core.observe import observe
from efficient.core.paths import flatten, map_with_path, select
from efficient.factorize import low_rank
from efficient.prune import kept_of, patterns, scores
from efficient.prune.lottery import fixed_masks
from efficient.prune.score import Score
from efficient.quantize import codebook, linear
from tests.laws import METHODS
from tests.prune_grid import (
    END,
    PATTERNS,
    SCHEDULES,
    SCORES,
    combinations,
    place,
    pruning,
    scoped,
    score_of,
)
from tests.trees import TREES

KEY = jax.random.key(11)
GRID = list(combinations())
STEPS = (END // 2, END, END + 1)  # of the ramp: on the way, at its end, after it
OTHERS = {"linear": linear(8), "codebook": codebook(3), "lora": lora(2), "low_rank": low_rank(2)}


def ids(names: Any) -> str:
    return "-".join(names)


def test_every_export_has_a_row():
    """A new score or pattern joins the grid, or this says so."""
    for rows, module in ((SCORES, scores), (PATTERNS, patterns)):
        assert {row.export for row in rows.values()} == set(module.__all__)
    assert len(GRID) > 1000


# ---- One combination, eagerly.


def gradients(weights: Any) -> Any:
    """Of a loss that wants the weights shown to be others: where they are zero too."""
    return jax.tree.map(lambda w: w - jnp.ones((), w.dtype), weights)


@functools.cache
def made(kind: str, score: str, pattern: str, schedule: str) -> tuple[Transform, State]:
    """A combination, and its state."""
    here = place(kind, pattern)
    t = scoped(kind, pattern, pruning(kind, score_of(kind, score, pattern), pattern, schedule))
    return t, t.init(here.params, stats=here.stats, key=KEY)


def check_promise(kind: str, pattern: str, masks: Any, sparsity: float, *, is_last: bool) -> None:
    """What the pattern promises of each mask, and of each layer that has its own budget."""
    row = PATTERNS[pattern]
    if pattern == "layer":
        layers = [one for mask in masks.values() for one in (mask if kind == "scanned" else [mask])]
        assert all(one.all() or not one.any() for one in layers)
        kept = kept_of(len(layers), sparsity) if kind == "scanned" else 1 if sparsity else len(layers)
        assert sum(bool(one.all()) for one in layers) == kept
        return
    for mask in masks.values():
        for one in mask if kind == "scanned" else [mask]:
            assert row.promise(one, sparsity, is_last)


def check_zeros(names: Any, params: Any, t: Transform, state: State) -> None:
    """The tree as it was, zeros where the mask says, the others bit for bit; once, twice and packed."""
    here = place(names[0], names[2])
    shown = t.apply(params, state)
    assert jax.tree.structure(shown) == jax.tree.structure(params)
    again, packed = (flatten(tree)[0] for tree in (t.apply(shown, state), t.pack(params, state)))
    for path, new in flatten(shown)[0].items():
        old = flatten(params)[0][path]
        if path not in here.paths:
            assert new is old
            continue
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        expected = np.where(state.fixed.masks[path], old, 0)
        for one in (new, again[path], packed[path]):
            np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("names", [names for names in GRID if names[3] == "one_shot"], ids=ids)
def test_at_once(names):
    """Tree, dtypes, the budget, zeros, `apply` once and twice, `pack`; masks that stay; and jit == eager."""
    kind, score, pattern, _ = names
    here, (t, state) = place(kind, pattern), made(*names)
    masks = {path: np.asarray(mask) for path, mask in state.fixed.masks.items()}
    assert set(masks) == set(here.paths)
    check_promise(kind, pattern, masks, PATTERNS[pattern].sparsity, is_last=True)
    check_zeros(names, here.params, t, state)
    moved = jax.tree.map(lambda v: v + jnp.ones((), v.dtype), here.params)
    check_zeros(names, moved, t, state)
    later = t.update(state, moved, grads=gradients(moved), step=1)
    assert jax.tree.structure(later) == jax.tree.structure(state)
    for path, mask in masks.items():
        np.testing.assert_array_equal(later.fixed.masks[path], mask)
        under_jit = trained(kind)[pattern, "one_shot"][path]
        np.testing.assert_array_equal(under_jit[list(SCORES).index(score), 0], mask)


# ---- All scores in one program.


def panel(kind: str, pattern: str, index: Any) -> Score:
    """The score of this number, traced: all are started and told of every step, one is asked."""
    own = [score_of(kind, name, pattern) for name in SCORES]

    def start(value, *, path, stats, key):
        return tuple(score.start(value, path=path, stats=stats, key=key) for score in own)

    def track(memory, value, grad):
        return tuple(score.track(m, value, grad) for score, m in zip(own, memory, strict=True))

    def of(memory, value):
        return jnp.stack([score.of(m, value) for score, m in zip(own, memory, strict=True)])[index]

    return Score(start, track, of)


@functools.cache
def trained(kind: str) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """By pattern, schedule and path: masks [scores, steps, *shape]; weights are shown zero off the mask."""
    places = {pattern: place(kind, pattern) for pattern in PATTERNS}

    def one(index, pattern, schedule):
        here = places[pattern]
        t = scoped(kind, pattern, pruning(kind, panel(kind, pattern, index), pattern, schedule))
        state = t.init(here.params, stats=here.stats, key=KEY)
        if schedule == "one_shot":
            return jax.tree.map(lambda m: m[None], state.fixed.masks), jnp.bool(True)

        def step(carry, i):
            params, state = carry
            grads = gradients(t.apply(params, state))
            state = t.update(state, params, grads=grads, step=i)
            shown = select(t.apply(params, state), here.where)
            is_zero = [jnp.all(mask | (shown[path] == 0)) for path, mask in state.fixed.masks.items()]
            descend = lambda p, g: p - jnp.asarray(0.1, p.dtype) * g  # noqa: E731
            params = jax.tree.map(descend, params, grads)
            return (params, state), (state.fixed.masks, jnp.stack(is_zero).all())

        masks, is_zero = jax.lax.scan(step, (here.params, state), jnp.array(STEPS))[1]
        return masks, is_zero.all()

    def everything(index):
        return {(p, s): one(index, p, s) for p in PATTERNS for s in SCHEDULES}

    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    program = jax.jit(lambda: jax.lax.map(everything, jnp.arange(len(SCORES))), compiler_options=quick)
    found = program()
    for names, (_, is_zero) in found.items():
        assert is_zero.all(), (kind, *names, is_zero)
    return {names: {p: np.asarray(m) for p, m in masks.items()} for names, (masks, _) in found.items()}


@pytest.mark.parametrize("names", [names for names in GRID if names[3] == "cubic"], ids=ids)
def test_along_a_cubic_ramp(names):
    """While weights train: what has gone stays gone, and the budget is met on the way and at the end."""
    kind, score, pattern, _ = names
    masks = {p: m[list(SCORES).index(score)] for p, m in trained(kind)[pattern, "cubic"].items()}
    for i, step in enumerate(STEPS):
        if i:
            assert not any(np.any(m[i] & ~m[i - 1]) for m in masks.values())
        share = PATTERNS[pattern].sparsity * (1 - (1 - min(step / END, 1)) ** 3)
        check_promise(kind, pattern, {p: m[i] for p, m in masks.items()}, share, is_last=i > 0)


# ---- In chains.


def descended(t: Transform, params: Any, where: Any, state: State) -> tuple[Any, State]:
    """Five steps of gradient descent to ones, of what is pruned and of what the transform trains."""

    def loss(own, train):
        whole = map_with_path(lambda path, v: own.get(path, v), params)
        shown = select(dense(t.apply(whole, State(train, state.fixed))), where)
        return sum(jnp.sum(jnp.square(v - 1)) for v in shown.values()) / 2

    def step(carry, _):
        grads = jax.grad(loss, (0, 1))(*carry)
        return jax.tree.map(lambda v, g: v - 0.1 * g, carry, grads), None

    (own, train), _ = jax.lax.scan(step, (select(params, where), state.train), None, length=5)
    return map_with_path(lambda path, v: own.get(path, v), params), State(train, state.fixed)


def zeros_in_chains(kind: str, pattern: str, other: str, masks: Any) -> jax.Array:
    """True if training in either order leaves exact zeros off the masks, where the other hands them on."""
    here = place(kind, pattern)
    pruned, second = at(here.where, fixed_masks(masks)), scoped(kind, pattern, OTHERS[other])
    is_zero = []
    for t, is_last in ((chain(pruned, second), False), (chain(second, pruned), True)):
        start = t.init(here.params, key=KEY)
        params, state = descended(t, here.params, here.where, start)
        for out in (t.apply(params, state), t.pack(params, state)):
            shown = select(out, here.where)
            if not is_last and other == "lora":
                shown = {path: leaf.base for path, leaf in shown.items()}  # the change beside it is dense
            if is_last or METHODS[other].keeps_zeros or other == "lora":
                is_zero += [jnp.all(masks[path] | (dense(v) == 0)) for path, v in shown.items()]
    return jnp.stack(is_zero).all()


@pytest.mark.parametrize("is_spatial", [False, True], ids=["matrices", "convolutions"])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", TREES)
def test_zeros_stay_zero_in_chains(kind, other, is_spatial):
    """The masks of every score, pattern and schedule, before and after each other technique, in training."""
    own = [p for p, row in PATTERNS.items() if row.is_spatial == is_spatial and p != "layer"]
    found = trained(kind)
    first = {
        path: np.concatenate([found[pattern, s][path][:, -1] for pattern in own for s in SCHEDULES])
        for path in place(kind, own[0]).paths
    }
    flat = np.concatenate([mask.reshape(len(mask), -1) for mask in first.values()], 1)
    distinct = np.unique(flat, axis=0, return_index=True)[1]
    masks = {path: jnp.asarray(m[distinct]) for path, m in first.items()}
    check = jax.jit(lambda m: jax.lax.map(lambda one: zeros_in_chains(kind, own[0], other, one), m))
    assert len(distinct) > 20
    assert check(masks).all()


# ---- What the scores are told is what is observed.


@pytest.mark.parametrize("kind", TREES)
def test_the_statistics_are_those_that_models_give(kind):
    """Fields, shapes and dtypes of the grid's made up statistics are the observed ones."""
    tree, here = TREES[kind](), place(kind, "unstructured")
    entering = observe(tree.fn, tree.params, [tree.x], where=here.where, statistics=("second_moment", "gram"))
    derivatives = observe_gradients(
        lambda p, x: jnp.sum(jnp.square(tree.fn(p, x))),
        tree.params,
        [(tree.x,)],
        where=here.where,
        statistics=("gradient", "gradient_squares", "hessian_gradient", "hessian_diagonal"),
        key=KEY,
    )
    assert set(entering) == set(derivatives) == set(here.paths)
    for path, made_up in here.stats.items():
        for real in (entering[path], derivatives[path]):
            known = {f.name: getattr(real, f.name) for f in dataclasses.fields(real)}
            for name, value in known.items():
                if isinstance(value, jax.Array):
                    chex.assert_equal_shape([value, getattr(made_up, name)])
