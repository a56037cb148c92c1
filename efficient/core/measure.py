"""Measure: wall-clock time of a function, a race of two, and the time that the roofline predicts.

The prediction for an equation of F FLOPs that moves B bytes, on a device of peak P (FLOP/s) and bandwidth W
(byte/s), is

    t = max(F / P, B / W)

summed over equations. P and W are measured (`calibrate`), so it is the time of a program each of whose
equations runs as well as a large matrix product, or the reading of a large matrix, does: a lower bound, not
an estimate of kernels that do worse.

Source: Williams et al., 2009, doi:10.1145/1498765.1498785, the roofline model.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.cost import Equation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of repeated calls."""

    samples_ms: tuple[float, ...]  # in the order of the calls, milliseconds

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ValueError("samples_ms must not be empty, got (); time at least one call.")

    @property
    def n(self) -> int:
        """Number of calls timed."""
        return len(self.samples_ms)

    @property
    def median_ms(self) -> float:
        """Half of the calls took no longer."""
        return self._quantile(0.5)

    @property
    def lower_ms(self) -> float:
        """The first quartile."""
        return self._quantile(0.25)

    @property
    def upper_ms(self) -> float:
        """The third quartile."""
        return self._quantile(0.75)

    @property
    def min_ms(self) -> float:
        """The fastest call."""
        return min(self.samples_ms)

    def __repr__(self) -> str:
        return (
            f"<Timing: median {self.median_ms:.4g} ms of {self.n}, "
            f"quartiles {self.lower_ms:.4g} to {self.upper_ms:.4g}>"
        )

    def _quantile(self, share: float) -> float:
        """The time within which `share` of the calls ended, interpolated."""
        return float(np.quantile(self.samples_ms, share))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Race:
    """Two functions timed in turns, so that a change of the machine's load meets both."""

    first: Timing
    second: Timing

    @property
    def ratio(self) -> float:
        """Median time of the first over that of the second: above 1, the second is faster."""
        return self.first.median_ms / self.second.median_ms

    @property
    def ratio_quartiles(self) -> tuple[float, float]:
        """Quartiles of the ratios of turns: where 1 lies between them, no winner is shown."""
        ratios = np.divide(self.first.samples_ms, self.second.samples_ms)
        low, high = np.quantile(ratios, (0.25, 0.75))
        return float(low), float(high)

    def __repr__(self) -> str:
        low, high = self.ratio_quartiles
        times = f"{self.first.median_ms:.4g} ms against {self.second.median_ms:.4g} ms"
        return f"<Race: {times}, ratio {self.ratio:.3f}, quartiles {low:.3f} to {high:.3f}>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """What a device does at its best."""

    name: str
    peak_flops: float  # FLOP/s of a large matrix product, two a MAC
    bandwidth: float  # bytes/s, read by a product with a large matrix

    def __post_init__(self) -> None:
        for field in ("peak_flops", "bandwidth"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be above 0, got {getattr(self, field)!r}; see calibrate.")

    def predict_ms(self, equations: Iterable[Equation]) -> float:
        """The roofline's time of these equations of a `CostReport`, milliseconds."""
        return 1e3 * sum(
            max(2 * one.products / self.peak_flops, one.bytes_moved / self.bandwidth) for one in equations
        )


def measure(
    fn: Callable[..., Any], *args: Any, warmup: int = 2, repeats: int = 20, jit: bool = False
) -> Timing:
    """Times `fn(*args)`, waiting for every output; compilation falls into the warm-up.

    Args:
      fn: what is timed, usually compiled already.
      *args: what it is called with; bring arrays to the device before, or their transfer is timed too.
      warmup: calls that are not timed, at least 1.
      repeats: calls that are timed, at least 1.
      jit: compile `fn` first.

    Raises:
      ValueError: `warmup` or `repeats` is below 1.
    """
    _check(warmup, repeats)
    call = _caller(fn, args, jit)
    for _ in range(warmup):
        call()
    return Timing(samples_ms=tuple(call() for _ in range(repeats)))


def race(
    first: Callable[..., Any],
    second: Callable[..., Any],
    *args: Any,
    warmup: int = 2,
    repeats: int = 20,
    jit: bool = False,
) -> Race:
    """Times `first(*args)` and `second(*args)` in turns: first, second, first, second, ...

    Args:
      first: usually the baseline; functions of other arguments are closures over them.
      second: usually the treatment.
      *args: what both are called with.
      warmup: turns that are not timed, at least 1.
      repeats: turns that are timed, at least 1.
      jit: compile both first.

    Raises:
      ValueError: `warmup` or `repeats` is below 1.
    """
    _check(warmup, repeats)
    calls = [_caller(fn, args, jit) for fn in (first, second)]
    turns = [[call() for call in calls] for _ in range(warmup + repeats)][warmup:]
    ours, theirs = zip(*turns, strict=True)
    return Race(first=Timing(samples_ms=ours), second=Timing(samples_ms=theirs))


def calibrate(*, size: int = 1024, read_bytes: int = 1 << 26, repeats: int = 7) -> DeviceProfile:
    """Measures the default device in float32, by a product of two matrices and one with a vector.

    A product of a large matrix with a vector does little but read the matrix, as a model does its weights; a
    copy would measure how fast the operating system hands out pages instead.

    Args:
      size: rows and columns of the square matrices.
      read_bytes: bytes of the matrix that is read for the bandwidth; more than the caches hold.
      repeats: calls timed of each; the fastest counts.

    Raises:
      ValueError: `size` is below 1, `read_bytes` below one row of 4 KiB, or `repeats` below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size!r}; 1024 suits most devices.")
    if read_bytes < 4096:
        raise ValueError(f"read_bytes must be at least 4096, got {read_bytes!r}; exceed the caches.")
    square = jnp.full((size, size), 0.5, jnp.float32)
    tall, vector = jnp.ones((read_bytes // 4096, 1024), jnp.float32), jnp.ones(1024, jnp.float32)
    compute = measure(jnp.matmul, square, square, repeats=repeats, jit=True)
    read = measure(jnp.matmul, tall, vector, repeats=repeats, jit=True)
    return DeviceProfile(
        name=jax.devices()[0].device_kind,
        peak_flops=2 * size**3 / compute.min_ms * 1e3,
        bandwidth=tall.nbytes / read.min_ms * 1e3,
    )


def _caller(fn: Callable[..., Any], args: tuple[Any, ...], jit: bool) -> Callable[[], float]:
    """A call that returns its milliseconds."""
    compiled = jax.jit(fn) if jit else fn

    def call() -> float:
        start = time.perf_counter_ns()
        jax.block_until_ready(compiled(*args))
        return (time.perf_counter_ns() - start) / 1e6

    return call


def _check(warmup: int, repeats: int) -> None:
    """Refuses counts that would time a compilation, or nothing."""
    if warmup < 1:
        raise ValueError(f"warmup must be at least 1, got {warmup!r}; the first call compiles.")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats!r}; the median needs a call.")
