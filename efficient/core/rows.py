"""Rows: the gather of an embedding, `table[tokens]`, as a leaf's rule sees it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rows(NamedTuple):
    """A `gather` that takes whole rows along the first axis of its operand."""

    indices: jax.Array  # [..., 1] row numbers
    dimension_numbers: Any
    mode: Any
    offset_dims: tuple[int, ...]  # where the row's axes stand in the result

    def take(self, table: jax.Array, *, fill: Any = None) -> jax.Array:
        """Rows of `table`, `[rows, ...]`; `fill` stands for a row out of bounds where the mode says so."""
        return jax.lax.gather(
            table,
            self.indices,
            self.dimension_numbers,
            (1, *table.shape[1:]),
            mode=self.mode,
            fill_value=fill,
        )

    def along(self, values: jax.Array, ndim: int) -> jax.Array:
        """`values`, with a row's axes, laid along those axes of a result of `ndim` axes."""
        shape = [1] * ndim
        for size, axis in zip(values.shape, self.offset_dims, strict=True):
            shape[axis] = size
        return jnp.reshape(values, shape)


def rows(site: Any) -> Rows | None:
    """The row look-up that a `gather` site is, or None if it is another gather, or fills with a number."""
    numbers = site.params["dimension_numbers"]
    table, fill = site.operands[0], site.params["fill_value"]
    whole = tuple(site.params["slice_sizes"]) == (1, *table.shape[1:])
    is_rows = (
        site.index == 0
        and whole
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and tuple(numbers.start_index_map) == (0,)
        and not numbers.operand_batching_dims
        and (fill is None or fill != fill)  # a row out of bounds is NaN, as `take` fills it
    )
    if not is_rows:
        return None
    return Rows(site.operands[1], numbers, site.params["mode"], tuple(numbers.offset_dims))
