"""Rows: what a kernel takes of x; rows of a batch, `vmap`'s too, are rows like others."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def rows_together(kernel: Callable[..., Any], *, is_each: bool = True) -> Callable[..., Any]:
    """`kernel(x, *rest)`, x [m, k] to [m, n]: where `vmap` maps over x alone, one call has all rows.

    Where `rest` is mapped over too, or a row's result is not its own alone (`is_each`), the calls follow one
    another.
    """
    run = jax.custom_batching.custom_vmap(kernel)

    @run.def_vmap
    def _(size: int, is_mapped: list[Any], x: Any, *rest: Any) -> tuple[Any, bool]:
        if is_each and is_mapped[0] and not any(jax.tree.leaves(is_mapped[1:])):
            out = run(x.reshape(-1, x.shape[-1]), *rest)
            return out.reshape(size, -1, out.shape[-1]), True
        args = (x, *rest)
        mapped = [
            a if own is True else None if a is None else jnp.broadcast_to(a, (size, *a.shape))
            for a, own in zip(args, is_mapped, strict=True)
        ]
        return jax.lax.map(lambda one: run(*one), tuple(mapped)), True

    return run


def flat_rows(x: Any) -> Any:
    """All leading axes of x as one."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def like_rows(out: Any, x: Any) -> Any:
    """A kernel's result [rows, n], with the leading axes and the dtype of x."""
    out = out if x.ndim == 2 else out.reshape(*x.shape[:-1], out.shape[-1])
    return out if out.dtype == x.dtype else out.astype(x.dtype)
