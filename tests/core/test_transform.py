"""Transform: chains, scopes and layers, and what each hands to its parts."""

import operator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import State, Transform, at, chain, dense, identity, per_leaf, stacked
from efficient.adapt import LoRALeaf, lora
from efficient.core.leaf import Leaf, leaf
from efficient.core.schedules import cubic_ramp
from efficient.core.transform import Init, Update, is_float, like, require_transform
from efficient.prune import magnitude
from efficient.quantize import codebook, linear

KEY = jax.random.key(3)


def affine(a, b):
    """Makes a w + b of w: no two of these commute."""
    return per_leaf(init=lambda value, *, path, stats, key: State(), apply=lambda value, state: a * value + b)


def recorder():
    """Keeps the gradient that `update` is given, as RigL's growth would use it; hands the weights on."""
    return per_leaf(
        init=lambda value, *, path, stats, key: State(fixed=jnp.zeros(value.shape)),
        apply=lambda value, state: value,
        update=lambda state, value, *, grad, step: State(state.train, grad * step),
    )


def drawer():
    """Adds a draw of its key."""
    return per_leaf(
        init=lambda value, *, path, stats, key: State(fixed=jax.random.normal(key, value.shape)),
        apply=lambda value, state: value + state.fixed,
    )


def scaler():
    """Multiplies by its statistic, and remembers how many steps it was updated."""
    return per_leaf(
        init=lambda value, *, path, stats, key: State(fixed=(jnp.float32(0 if stats is None else stats), 0)),
        apply=lambda value, state: value * state.fixed[0],
        update=lambda state, value, *, grad, step: State((), (state.fixed[0], state.fixed[1] + step)),
    )


def weights(*shape, at_key=KEY):
    return jax.random.normal(at_key, shape)


class TestChain:
    def test_left_to_right(self):
        # 3 (2 w + 1) + 10 at w = 1 is 19; the other order, 2 (3 w + 10) + 1, is 27.
        t = chain(affine(2.0, 1.0), affine(3.0, 10.0))
        params = {"w": jnp.ones(2)}
        state = t.init(params)
        np.testing.assert_array_equal(t.apply(params, state)["w"], [19, 19])
        np.testing.assert_array_equal(t.pack(params, state)["w"], [19, 19])
        other = chain(affine(3.0, 10.0), affine(2.0, 1.0))
        np.testing.assert_array_equal(other.apply(params, other.init(params))["w"], [27, 27])

    def test_init_sees_the_weights_of_the_stage_before(self):
        params = {"w": jnp.arange(1.0, 5.0)}
        t = chain(affine(-1.0, 5.0), magnitude(0.5))  # [4, 3, 2, 1]: the last two go
        np.testing.assert_array_equal(t.init(params).fixed[1].masks["w"], [True, True, False, False])

    def test_pruned_then_quantized_by_hand(self):
        # [[4, -1], [-2, 3]]: half goes, [[4, 0], [0, 3]]; 3 bits, one scale: 4 / 3; 3 / (4/3) = 2.25 -> 2.
        params = {"w": jnp.array([[4.0, -1.0], [-2.0, 3.0]])}
        t = chain(magnitude(0.5), linear(3, axis=None))
        packed = t.pack(params, t.init(params))["w"]
        np.testing.assert_array_equal(packed.values, [[3, 0], [0, 2]])
        np.testing.assert_allclose(packed.dense(), [[4, 0], [0, 8 / 3]], rtol=1e-6)

    def test_empty_chain_is_the_identity(self):
        params = {"w": jnp.ones(2)}
        for t in (chain(), identity(), chain(identity(), identity())):
            state = t.init(params)
            assert t.apply(params, state) is params
            assert t.pack(params, state) is params
            assert t.update(state, params, grads=params, step=1) == state

    def test_update_pulls_the_gradient_back_to_each_stages_own_output(self):
        # The last stage sees g, the loss's gradient. Before it stands w -> 3 w + 1: 3 g. The first recorder
        # stands before the mask [1, 0, 1] too: 3 g [1, 0, 1].
        mask = per_leaf(
            init=lambda value, *, path, stats, key: State(),
            apply=lambda value, state: value * jnp.array([1.0, 0, 1]),
        )
        t = chain(recorder(), mask, recorder(), affine(3.0, 1.0), recorder())
        params = {"w": jnp.array([5.0, 6, 7])}
        g = {"w": jnp.array([1.0, 10, 100])}
        state = t.update(t.init(params), params, grads=g, step=2)
        first, _, third, _, last = (s["w"] for s in state.fixed)
        np.testing.assert_array_equal(last, [2, 20, 200])
        np.testing.assert_array_equal(third, [6, 60, 600])  # dense: the masked weight has a gradient
        np.testing.assert_array_equal(first, [6, 0, 600])

    def test_the_gradient_is_that_of_the_loss(self):
        """Through straight-through rounding, as autodiff has it, a rounding apart."""
        t = chain(magnitude(0.25), recorder(), linear(4), recorder())
        params = {"w": weights(4, 3)}
        state = t.init(params)
        target = weights(4, 3, at_key=jax.random.key(1))
        loss = lambda p: jnp.sum((p["w"] - target) ** 2)  # noqa: E731
        grads = jax.grad(loss)(t.apply(params, state))
        new = t.update(state, params, grads=grads, step=1)
        np.testing.assert_array_equal(new.fixed[3]["w"], grads["w"])
        pruned = magnitude(0.25).apply(params, State(state.train[0], state.fixed[0]))
        own = jax.grad(lambda p: loss(linear(4).apply(p, State({"w": ()}, {"w": ()}))))(pruned)
        np.testing.assert_allclose(new.fixed[1]["w"], own["w"], rtol=2**-22)
        np.testing.assert_allclose(own["w"], grads["w"], rtol=2**-22)  # nothing is clipped: straight through

    def test_update_without_gradients(self):
        t = chain(affine(2.0, 0.0), scaler())
        params = {"w": jnp.ones(2)}
        state = t.update(t.init(params), params, step=3)
        assert state.fixed[1]["w"][1] == 3

    def test_integers_pass_through_the_pullback(self):
        t = chain(recorder(), affine(3.0, 0.0))
        params = {"w": jnp.ones(2), "count": jnp.int32(4)}
        state = t.init(params)
        loss = lambda p: jnp.sum(p["w"]) * p["count"]  # noqa: E731
        grads = jax.grad(loss, allow_int=True)(t.apply(params, state))
        np.testing.assert_array_equal(t.update(state, params, grads=grads, step=1).fixed[0]["w"], [12, 12])

    def test_pack_hands_on_leaves(self):
        t = chain(linear(8), lora(2))
        params = {"w": weights(4, 3)}
        packed = t.pack(params, t.init(params, key=KEY))["w"]
        assert isinstance(packed, LoRALeaf)
        assert packed.base.values.dtype == jnp.int8

    def test_stages_draw_differently(self):
        t = chain(drawer(), drawer())
        one, two = t.init({"w": jnp.zeros(4)}, key=KEY).fixed
        assert np.all(np.asarray(one["w"]) != np.asarray(two["w"]))

    def test_a_state_of_another_chain(self):
        params = {"w": jnp.ones(2)}
        state = chain(affine(1.0, 0.0)).init(params)
        with pytest.raises(ValueError, match="state must be what init of the same transform returns"):
            chain(affine(1.0, 0.0), affine(1.0, 0.0)).apply(params, state)


PARAMS = {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "b": {"kernel": jnp.ones((2, 2))}}


class TestAt:
    @pytest.mark.parametrize(
        ("where", "exclude", "chosen"),
        [
            ("**/kernel", (), {"a/kernel", "b/kernel"}),
            ("**/kernel", "b/**", {"a/kernel"}),
            (["a/*"], ["**/kernel"], {"a/bias"}),
            (lambda path, v: v.ndim == 1, (), {"a/bias"}),
            ("**", lambda path, v: path.startswith("a"), {"b/kernel"}),
        ],
        ids=["glob", "glob-without", "sequence", "predicate", "without-predicate"],
    )
    def test_only_what_is_chosen(self, where, exclude, chosen):
        t = at(where, affine(2.0, 5.0), exclude=exclude)
        state = t.init(PARAMS)
        assert set(state.train) == chosen
        for run in (t.apply, t.pack):
            out = run(PARAMS, state)
            assert jax.tree.structure(out) == jax.tree.structure(PARAMS)
            for path in ("a/kernel", "a/bias", "b/kernel"):
                module, name = path.split("/")
                old, new = PARAMS[module][name], out[module][name]
                assert (new is old) == (path not in chosen)
                np.testing.assert_array_equal(new, old * 7 if path in chosen else old)

    def test_update_gives_only_the_chosen_gradients(self):
        t = at("**/kernel", recorder(), exclude="b/**")
        grads = jax.tree.map(lambda v: 4 * v, PARAMS)
        state = t.update(t.init(PARAMS), PARAMS, grads=grads, step=1)
        assert set(state.fixed) == {"a/kernel"}
        np.testing.assert_array_equal(state.fixed["a/kernel"], np.full((2, 2), 4))

    def test_nested_scopes_keep_whole_paths(self):
        t = at("**/kernel", chain(at("a/**", affine(2.0, 0.0)), at("b/kernel", affine(3.0, 0.0))))
        out = t.apply(PARAMS, t.init(PARAMS))
        assert [float(jnp.max(v)) for v in jax.tree.leaves(out)] == [1, 2, 3]

    def test_it_acts_after_a_stage_that_made_leaves(self):
        t = chain(at("**/kernel", lora(1)), at("a/kernel", affine(2.0, 0.0)))
        out = t.apply(PARAMS, t.init(PARAMS, key=KEY))
        np.testing.assert_array_equal(out["a"]["kernel"], np.full((2, 2), 2))
        assert isinstance(out["b"]["kernel"], LoRALeaf)

    def test_nothing_chosen(self):
        with pytest.raises(
            ValueError, match=r"got '\*/kernle' that matches none; did you mean 'a/kernel' or"
        ):
            at("*/kernle", identity()).init(PARAMS)

    def test_a_bare_array(self):
        t = at("**", affine(2.0, 0.0))
        np.testing.assert_array_equal(t.apply(jnp.ones(2), t.init(jnp.ones(2))), [2, 2])


class TestKeys:
    def test_a_draw_belongs_to_its_path(self):
        """Same path, same key, same draw: whatever else the scope holds, and in whatever tree."""
        tree = {"x": {"kernel": jnp.zeros(4), "bias": jnp.zeros(4)}, "y": {"kernel": jnp.zeros(4)}}
        whole = drawer().init(tree, key=KEY).fixed
        scoped = at("x/**", drawer()).init(tree, key=KEY).fixed
        alone = drawer().init({"x/kernel": jnp.zeros(4)}, key=KEY).fixed
        for state in (scoped, alone):
            np.testing.assert_array_equal(state["x/kernel"], whole["x/kernel"])
        draws = [tuple(np.asarray(v)) for v in whole.values()]
        assert len(set(draws)) == 3
        assert not np.array_equal(
            drawer().init(tree, key=jax.random.key(4)).fixed["y/kernel"], whole["y/kernel"]
        )


METHODS = {
    "ramp": magnitude(lambda step: 0.25 * step),
    "codebook": codebook(2),
    "chain": chain(magnitude(0.5), scaler(), linear(8), lora(1)),
}


class TestStacked:
    @pytest.mark.parametrize("name", METHODS)
    def test_it_is_a_transform_a_layer(self, name):
        """init, update, apply and pack of layer i are those of the transform on layer i alone."""

        def run(t, params, stats, key):
            state = t.init(params, stats=stats, key=key)
            grads = jax.tree.map(jnp.ones_like, t.apply(params, state))
            after = t.update(state, params, grads=grads, step=2)
            return state, after, t.apply(params, after), dense(t.pack(params, after))

        params = {"w": weights(3, 4, 5), "v": weights(3, 2, 5, at_key=jax.random.key(8))}
        stats = {"w": jnp.array([1.0, 2.0, 3.0])}
        together = jax.jit(lambda p, s, k: run(stacked(METHODS[name]), p, s, k))(params, stats, KEY)
        alone = jax.jit(lambda p, s, k: run(METHODS[name], p, s, k))
        keys = jax.random.split(KEY, 3)
        for i in range(3):
            layer = lambda tree, i=i: jax.tree.map(operator.itemgetter(i), tree)  # noqa: E731
            # A batch and a layer may be compiled to round sums and products otherwise: a few units.
            chex.assert_trees_all_close(
                layer(together), alone(layer(params), layer(stats), keys[i]), rtol=2**-20, atol=2**-20
            )

    def test_every_layer_has_its_own_budget(self):
        # All of the second layer is smaller than all of the first; half of each goes all the same.
        params = {"w": jnp.array([[5.0, 6, 7, 8], [1, 2, 3, 4]])}
        mask = stacked(magnitude(0.5)).init(params).fixed.masks["w"]
        np.testing.assert_array_equal(mask, [[False, False, True, True]] * 2)

    def test_stats_of_other_paths_are_left_out(self):
        params = {"layers": {"w": jnp.ones((3, 2))}, "head": {"w": jnp.ones((2, 2))}}
        stats = {"layers/w": jnp.array([2.0, 3, 4]), "head/w": jnp.ones(7), "else": None}
        t = at("layers/**", stacked(scaler()))
        out = t.apply(params, t.init(params, stats=stats))
        np.testing.assert_array_equal(out["layers"]["w"], [[2, 2], [3, 3], [4, 4]])
        assert out["head"]["w"] is params["head"]["w"]

    def test_update_without_gradients(self):
        t = stacked(magnitude(lambda step: 0.5 * step))
        params = {"w": jnp.array([[1.0, 2], [4, 3]])}
        state = t.update(t.init(params), params, step=1)
        np.testing.assert_array_equal(state.fixed.masks["w"], [[False, True], [True, False]])

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            (
                {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))},
                r"stacked values must share their first axis \(the layers\), got {'a': 2, 'b': 3}; scope",
            ),
            ({"a": jnp.ones((2, 3)), "b": jnp.float32(1)}, r"got {'a': 2, 'b': None}; scope with at"),
            ({}, r"got {}; scope with at"),
        ],
    )
    def test_layers_must_agree(self, params, message):
        with pytest.raises(ValueError, match=message):
            stacked(linear(8)).init(params)


class TestPerLeaf:
    def test_only_floats_are_treated(self):
        params = {"w": jnp.ones(2), "n": jnp.int32(3), "flag": jnp.array(True), "key": KEY, "h": 2.5}
        t = affine(2.0, 0.0)
        state = t.init(params)
        assert set(state.train) == {"w"}
        out = t.apply(params, state)
        for name in ("n", "flag", "key", "h"):
            assert out[name] is params[name]
        assert set(t.update(state, params, step=1).fixed) == {"w"}

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_the_dtype_is_kept(self, dtype):
        t = per_leaf(
            init=lambda value, *, path, stats, key: State(),
            apply=lambda value, state: value.astype(jnp.float32) + 1,
        )
        params = {"w": jnp.ones(2, dtype)}
        assert t.apply(params, t.init(params))["w"].dtype == dtype
        assert t.pack(params, t.init(params))["w"].dtype == dtype

    def test_leaves_are_made_dense_unless_it_nests(self):
        leaf = linear(8).pack({"w": weights(4, 3)}, State({"w": ()}, {"w": ()}))["w"]
        seen = []

        def see(value, state):
            seen.append(type(value).__name__)
            return value

        for nests in (False, True):
            t = per_leaf(init=lambda value, *, path, stats, key: State(), apply=see, nests=nests)
            t.apply({"w": leaf}, t.init({"w": leaf}))
        assert seen == ["ArrayImpl", "QuantizedLeaf"]

    def test_stats_by_path(self):
        t = scaler()
        params = {"a": {"w": jnp.ones(2)}, "b": jnp.ones(2)}
        out = t.apply(params, t.init(params, stats={"a/w": jnp.float32(5)}))
        np.testing.assert_array_equal(out["a"]["w"], [5, 5])
        np.testing.assert_array_equal(out["b"], [0, 0])  # told that it has none

    @pytest.mark.parametrize("params", [{}, {"n": jnp.int32(1), "m": jnp.ones(2, bool)}])
    def test_nothing_to_treat(self, params):
        message = (
            rf"params must have a floating value to transform, got none of {len(params)}; check the pattern"
        )
        with pytest.raises(ValueError, match=message):
            affine(2.0, 0.0).init(params)

    def test_other_params_than_those_of_init(self):
        t = scaler()
        state = t.init({"a": jnp.ones(2)})
        message = r"params must be those of init, got a new path 'b'; the state knows a\."
        for run in (t.apply, t.pack, lambda p, s: t.update(s, p, step=1)):
            with pytest.raises(ValueError, match=message):
                run({"a": jnp.ones(2), "b": jnp.ones(2)}, state)


def test_transforms_are_what_their_types_say():
    for t in (identity(), chain(), at("**", identity()), stacked(identity()), affine(1.0, 0.0)):
        assert isinstance(t, Transform)
        assert isinstance(t.init, Init)
        assert isinstance(t.update, Update)
    assert is_float(jax.ShapeDtypeStruct((), jnp.bfloat16))
    assert not any(map(is_float, (jnp.int8(1), KEY, 1.0, None)))


def test_what_is_no_transform_is_refused_at_once():
    """Asked directly: under test the annotations of `chain`, `at` and `stacked` would speak first."""
    require_transform(identity(), "chain(a, b)")
    with pytest.raises(ValueError, match=r"transform must be a Transform, got list; call chain\(a, b\)\."):
        require_transform([identity()], "chain(a, b)")


def test_a_transform_prints_as_the_call_that_built_it():
    made = chain(
        at("**/kernel", magnitude(cubic_ramp(final=0.9, end=10), every=2), exclude="head/**"),
        at(lambda path, value: value.ndim == 2, stacked(linear())),
    )
    assert repr(made) == (
        "chain(at('**/kernel', magnitude(polynomial_schedule(...), every=2), exclude='head/**'), "
        "at(test_a_transform_prints_as_the_call_that_built_it(...), stacked(linear())))"
    )
    assert repr(magnitude(is_float)) == "magnitude(is_float)"
    assert repr(Transform(*identity()[:4])) == "Transform(...)"


def test_a_leaf_without_a_dtype_of_its_own_is_refused_where_another_is_asked_for():
    @leaf
    class Plain(Leaf):
        values: Any

        shape = property(lambda self: self.values.shape)
        dtype = property(lambda self: self.values.dtype)

        def dense(self):
            return self.values

    with pytest.raises(ValueError, match="leaf Plain must stand for bfloat16 here, got float32; give its"):
        like(Plain(values=jnp.ones(2)), jnp.ones(2, jnp.bfloat16))
