"""Matrix site: products and convolutions as rows times a matrix, held to what they were."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import lift
from efficient.core.leaf import Leaf, leaf
from efficient.core.matrix_site import matrix_site


@leaf
class Seen(Leaf):
    """An array whose products go through `matrix_site`; where it declines, they fail."""

    array: jax.Array

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype

    def dense(self):
        return self.array

    def dot_general(self, site):
        found = matrix_site(site)
        assert found is not None
        matrix = self.array.reshape(found.x.shape[-1], -1)
        return found.result(jnp.matmul(found.x, matrix))

    conv_general_dilated = dot_general


def draw(*shape, seed=0):
    """Whole numbers, so that sums are exact in any order."""
    return jnp.asarray(np.random.default_rng(seed).integers(-4, 5, shape), jnp.float32)


@pytest.mark.parametrize(
    ("equation", "x", "w"),
    [
        ("ak,kn->an", (3, 4), (4, 5)),
        ("kn,ak->na", (3, 4), (4, 5)),
        ("abk,knm->abnm", (2, 3, 4), (4, 5, 6)),
        ("axy,xyn->an", (2, 3, 4), (3, 4, 5)),
        ("ayx,xyn->an", (2, 4, 3), (3, 4, 5)),
        ("kan,kb->abn", (4, 2, 3), (4, 5)),
        ("k,kn->n", (4,), (4, 5)),
    ],
)
def test_products(equation, x, w):
    if equation == "kn,ak->na":
        run = lambda w, x: jnp.einsum(equation, w, x)  # noqa: E731
    elif equation == "kan,kb->abn":
        run = lambda w, x: jnp.einsum("kan,kb->anb", x, w)  # noqa: E731
    else:
        run = lambda w, x: jnp.einsum(equation, x, w)  # noqa: E731
    x, w = draw(*x, seed=1), draw(*w)
    np.testing.assert_array_equal(lift(run)(Seen(array=w), x), run(w, x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID", [(2, 0), (1, 3)]])
@pytest.mark.parametrize("window", [(1, 1), (3, 2)])
def test_convolutions(stride, dilation, padding, window):
    def run(w, x):
        return jax.lax.conv_general_dilated(
            x, w, (stride, 1), padding, rhs_dilation=(1, dilation), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, w = draw(2, 7, 6, 3, seed=1), draw(*window, 3, 4)
    np.testing.assert_array_equal(lift(run)(Seen(array=w), x), run(w, x))


def test_convolutions_of_one_axis_and_of_three():
    for places, names in (((9,), ("NHC", "HIO", "NHC")), ((5, 4, 6), ("NHWDC", "HWDIO", "NHWDC"))):
        x, w = draw(2, *places, 3, seed=1), draw(*(2 for _ in places), 3, 4)
        run = lambda w, x, names=names: jax.lax.conv_general_dilated(  # noqa: E731
            x, w, (1,) * (w.ndim - 2), "SAME", dimension_numbers=names
        )
        np.testing.assert_array_equal(lift(run)(Seen(array=w), x), run(w, x))


def test_what_is_no_product_of_two_matrices_is_declined():
    """Batch axes, sums over a trailing axis, groups, transposed convolutions, many patches."""
    met = []

    @leaf
    class Asking(Seen):
        """Writes down what `matrix_site` said."""

        def dot_general(self, site):
            met.append(matrix_site(site, most_patches=100))
            return NotImplemented

        conv_general_dilated = dot_general

    def ask(run, *shapes):
        w, x = (draw(*shape) for shape in shapes)
        lift(run)(Asking(array=w), x)
        return met.pop()

    def conv(**options):
        def run(w, x):
            padding = [(n // 2, n // 2) for n in w.shape[:2]]
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=numbers, **options)

        return run

    assert ask(lambda w, x: jnp.einsum("bkn,bk->bn", w, x), (2, 3, 4), (2, 3)) is None
    assert ask(lambda w, x: jnp.einsum("nk,ak->an", w, x), (3, 4), (2, 4)) is None
    assert ask(lambda w, x: jnp.einsum("k,ak->a", w, x), (4,), (2, 4)) is None
    assert ask(conv(feature_group_count=2), (3, 3, 2, 4), (1, 5, 5, 4)) is None
    assert ask(conv(lhs_dilation=(2, 1)), (3, 3, 2, 4), (1, 5, 5, 2)) is None
    assert ask(conv(), (3, 3, 2, 4), (1, 11, 11, 2)) is None  # 121 patches
    assert ask(conv(), (3, 3, 2, 4), (1, 9, 9, 2)) is not None
    assert ask(conv(), (1, 1, 2, 4), (1, 11, 11, 2)) is not None  # no copies
