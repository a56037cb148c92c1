"""Derivative: a kernel's, taken from the plain program that it stands for."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def derived_from(plain: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, whose derivatives of any order and mode, in every float argument, are those of `plain`.

    Args:
      plain: a differentiable function of arrays, in jnp.
      kernel: the same function, computed otherwise. Both may be given None for an array.

    What the derivative needs is made again when it is needed: only the arguments are kept until then.
    """

    @jax.custom_jvp
    def run(*args: Any) -> Any:
        return kernel(*args)

    @run.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        moving = [i for i, a in enumerate(primals) if a is not None and jnp.issubdtype(a.dtype, jnp.floating)]

        @jax.checkpoint
        def slope(primals: Any, directions: Any) -> Any:
            def of_moving(*values: Any) -> Any:
                full = list(primals)
                for i, value in zip(moving, values, strict=True):
                    full[i] = value
                return plain(*full)

            return jax.jvp(of_moving, tuple(primals[i] for i in moving), directions)[1]

        return run(*primals), slope(primals, tuple(tangents[i] for i in moving))

    return run
