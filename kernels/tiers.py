"""Tiers: which implementation of an operation runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from efficient.kernels.native import registered


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


def tier_words(tier: str) -> str:
    """What a reader is told of a tier: `auto` by the platform of the default device."""
    if tier != "auto":
        return tier
    return "cpu" if jax.default_backend() == "cpu" else "reference"
