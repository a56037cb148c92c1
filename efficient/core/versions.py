"""What differs between the JAX versions that we run on: 0.10 to 0.12. Nothing else may ask for a version."""

import contextlib
from typing import Any

from jax.extend import core as jex_core


def bind_params(eqn: Any) -> tuple[list[Any], dict[str, Any]]:
    """The functions and the parameters that `eqn.primitive.bind` takes.

    By primitive and version `get_bind_params` returns `(functions, params)` or the params alone.
    """
    made = eqn.primitive.get_bind_params(eqn.params)
    functions, params = made if isinstance(made, tuple) else ([], made)
    return list(functions), dict(params)


def open_jaxpr(jaxpr: Any) -> tuple[Any, list[Any]]:
    """The equations' jaxpr and its constants; a closed jaxpr wraps it in 0.10, and is itself in 0.12."""
    consts = list(getattr(jaxpr, "consts", ()))
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    return inner, consts


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """`(number of constants, number of carried values)` of a scan equation."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))


def is_literal(atom: Any) -> bool:
    """True of a constant written into an equation."""
    return isinstance(atom, jex_core.Literal)


def is_dropped(var: Any) -> bool:
    """True of an output that nobody reads."""
    return isinstance(var, jex_core.DropVar)


def equation_context(eqn: Any) -> contextlib.AbstractContextManager[Any]:
    """The settings (compute type, XLA metadata) that an equation was traced under, where there are any."""
    context = eqn.ctx
    special = getattr(context, "compute_type", None) or getattr(context, "xla_metadata", None)
    return context.manager if special else contextlib.nullcontext()
