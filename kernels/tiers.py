"""Tiers: which implementation of an operation runs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from efficient.kernels.native import registered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Native:
    """An operation's C++ tiers."""

    name: str  # of the operation
    source: Path
    symbol: str  # of its handler
    tiers: Mapping[str, int]  # by name, and what C++ knows them by
    others: tuple[str, ...] = ()  # tiers that are not in C++

    @property
    def target(self) -> str:
        """What the FFI knows it by."""
        return f"efficient_{self.name}"

    @property
    def is_ready(self) -> bool:
        """Whether it could be compiled; the first to ask waits for that."""
        return registered(self.source, self.symbol, self.target)

    @property
    def words(self) -> str:
        """What a reader is told, when it picks its tier on the default device."""
        is_native = jax.default_backend() == "cpu" and self.is_ready
        return f"{self.name} ({'cpu' if is_native else 'reference'})"

    def picked(self, implementation: str | None) -> str:
        """The tier, of the reference and those in C++; `auto` is decided where the program is lowered.

        Raises:
          NotImplementedError: an implementation that is not to be had here.
        """
        if implementation is None:
            return "auto" if self.is_ready else "reference"
        known = ("reference", *self.tiers, *self.others)
        if implementation not in known:
            raise NotImplementedError(
                f"implementation of {self.name} must be one of {', '.join(known)}, got {implementation!r}; "
                "leave it out."
            )
        if implementation in self.tiers and not self.is_ready:
            raise NotImplementedError(
                f"implementation must be one that this machine has, got {implementation!r}, for which "
                "nothing could be compiled; install g++."
            )
        return implementation

    def call(self, tier: str, shape: tuple[int, ...], *args: Any, **attributes: Any) -> jax.Array:
        """The handler's float32 result of a shape."""
        return self.calls(tier, jax.ShapeDtypeStruct(shape, jax.numpy.float32), *args, **attributes)

    def calls(self, tier: str, results: Any, *args: Any, **attributes: Any) -> Any:
        """The handler's results, one or several, of shapes and dtypes; where `vmap` meets it, one by one."""
        call = jax.ffi.ffi_call(self.target, results, vmap_method="sequential")
        return call(*args, **attributes, tier=self.tiers.get(tier, 0))


PALLAS = {"pallas_tpu": "tpu", "pallas_gpu": "cuda"}  # and the platforms that they compile for


def by_tier(
    tier: str,
    plain: Callable[..., Any],
    native: Callable[..., Any],
    *args: Any,
    pallas: Callable[..., Any] | None = None,
) -> Any:
    """The result of a tier; `auto` is C++ where the program runs on a CPU, and else the reference.

    `pallas(..., interpret=)` is the kernel of a tier of `PALLAS`; off its platform it is interpreted.
    """
    if tier == "reference":
        return plain(*args)
    if tier in PALLAS and pallas is not None:
        interpreted = functools.partial(pallas, interpret=True)
        return jax.lax.platform_dependent(*args, **{PALLAS[tier]: pallas}, default=interpreted)
    if tier != "auto":
        return native(*args)
    return jax.lax.platform_dependent(*args, cpu=native, default=plain)
