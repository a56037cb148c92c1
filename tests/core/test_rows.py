"""Rows: which gathers are look-ups of whole rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import lift
from efficient.core.interpret import DenseError
from efficient.factorize import LowRankLeaf
from efficient.quantize import CodebookLeaf, QuantizedLeaf

F32 = jnp.dtype("float32")
LEAVES = {
    "quantized": QuantizedLeaf(
        values=jnp.arange(10, dtype=jnp.int8).reshape(5, 2), scale=jnp.array([[0.5, 2.0]]), out_dtype=F32
    ),
    "codebook": CodebookLeaf(
        codebook=jnp.array([-1.0, 0.25, 3.0]),
        indices=jnp.arange(10, dtype=jnp.uint8).reshape(5, 2) % 3,
        out_dtype=F32,
    ),
    "low_rank": LowRankLeaf(
        u=jnp.arange(5.0)[:, None], v=jnp.array([[1.0, -2.0]]), out_ndim=1, out_dtype=F32
    ),
}
TOKENS = jnp.array([[0, 4], [3, 99]])


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
class TestRows:
    @pytest.mark.parametrize("mode", ["clip", "fill"])
    def test_packed_in_every_mode(self, leaf, mode):
        fn = lambda w, t: w.at[t].get(mode=mode)  # noqa: E731
        np.testing.assert_array_equal(lift(fn, strict=True)(leaf, TOKENS), fn(leaf.dense(), TOKENS))

    def test_a_fill_value_that_is_asked_for_is_obeyed(self, leaf):
        """A row out of bounds was NaN, whatever `fill_value` said."""
        fn = lambda w, t: w.at[t].get(mode="fill", fill_value=7.0)  # noqa: E731
        out = lift(fn)(leaf, TOKENS)
        np.testing.assert_array_equal(out, fn(leaf.dense(), TOKENS))
        np.testing.assert_array_equal(out[1, 1], [7, 7])
        with pytest.raises(DenseError, match="'gather'"):
            lift(fn, strict=True)(leaf, TOKENS)

    def test_another_gather_is_dense(self, leaf):
        fn = lambda w, t: w[:, t]  # noqa: E731
        np.testing.assert_array_equal(lift(fn)(leaf, jnp.array([1, 0])), leaf.dense()[:, ::-1])
        with pytest.raises(DenseError, match="'gather'"):
            lift(fn, strict=True)(leaf, jnp.array([1, 0]))

    def test_mapped_over_tokens(self, leaf):
        fn = jax.vmap(lambda w, t: jnp.take(w, t, axis=0), in_axes=(None, 0))
        np.testing.assert_array_equal(lift(fn)(leaf, TOKENS % 5), fn(leaf.dense(), TOKENS % 5))
