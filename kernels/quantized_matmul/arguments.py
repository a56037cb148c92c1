"""What both products take: their shapes checked before any compute, and the tier that is used."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from efficient.kernels.native import registered


def checked_group(x: Any, codes: Any, scale: Any, shift: Any, *, bits: int, columns: int, group: int) -> int:
    """Rows of a run, 0 replaced by all.

    Raises:
      ValueError: shapes or sizes that do not go together.
    """
    rows = codes.shape[0] if codes.ndim == 2 else -1
    group = group or max(rows, 1)
    runs = -(-rows // group) if group > 0 else -1
    want = (-(-columns // 2) if bits == 4 else columns) if columns > 0 else -1
    if x.ndim < 1 or group < 1 or codes.shape != (x.shape[-1], want):
        raise ValueError(
            f"codes must be a row for each of {x.shape[-1:]} of x, bytes of {columns} columns, and group "
            f"from 0, got {codes.shape} and {group}; pack along the columns."
        )
    for name, values in (("scale", scale), ("shift", shift)):
        if values is not None and values.shape not in ((runs, columns), (runs, 1)):
            raise ValueError(
                f"{name} must be [{runs} runs of {group} rows, {columns} columns or 1], got {values.shape}."
            )
    return group


def picked(
    implementation: str | None, natives: Mapping[str, int], source: Path, symbol: str, target: str
) -> str:
    """The tier, of the reference and those in C++; `auto` is decided where the program is lowered.

    Raises:
      NotImplementedError: an implementation that is not to be had here.
    """
    if implementation is None:
        return "auto" if registered(source, symbol, target) else "reference"
    if implementation not in ("reference", *natives):
        raise NotImplementedError(
            f"implementation must be one of reference, {', '.join(natives)}, got {implementation!r}; "
            "leave it out."
        )
    if implementation != "reference" and not registered(source, symbol, target):
        raise NotImplementedError(
            f"implementation must be one that this machine has, got {implementation!r}, for which nothing "
            "could be compiled; install g++."
        )
    return implementation


def by_tier(tier: str, plain: Callable[..., Any], native: Callable[..., Any], *args: Any) -> Any:
    """The reference's result or the C++ kernel's; `auto` is the latter where the program runs on a CPU."""
    if tier == "reference":
        return plain(*args)
    if tier != "auto":
        return native(*args)
    return jax.lax.platform_dependent(*args, cpu=native, default=plain)
