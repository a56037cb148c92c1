"""The arms of `sparse_storage`: matrices pruned by each pattern, stored in each format, and raced."""

import dataclasses
import functools
import math
import re
import statistics
import timeit
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from efficient import Transform, lift
from efficient.core.interpret import DenseError
from efficient.prune import Pattern, prune, sparse
from efficient.prune.patterns import block, n_m, unstructured
from efficient.prune.scores import absolute


class Format(NamedTuple):
    """How a matrix is pruned, and stored."""

    kind: str  # of PATTERNS
    store: Callable[..., Transform]  # takes `sparsity`, for leaves with room for so many weights


def of_four(sparsity: float) -> int:
    """How many of 4 stay; 0 where that is no whole number."""
    kept = 4 - 4 * sparsity
    return round(kept) if kept.is_integer() else 0


PATTERNS: Mapping[str, Callable[[float], Pattern | None]] = {
    "weights": lambda sparsity: unstructured(),
    "n_m": lambda sparsity: n_m(of_four(sparsity), 4) if of_four(sparsity) else None,
    "block_4": lambda sparsity: block((4, 4)),
    "block_16": lambda sparsity: block((16, 16)),
}
FORMATS: Mapping[str, Format] = {
    "csr": Format("weights", functools.partial(sparse, "csr")),
    "csc": Format("weights", functools.partial(sparse, "csc")),
    "relative": Format("weights", functools.partial(sparse, "relative", bits=4)),
    "bitmap": Format("weights", functools.partial(sparse, "bitmap")),
    "n_m": Format("n_m", functools.partial(sparse, "n_m", m=4)),  # and takes `n`
    "block_4": Format("block_4", functools.partial(sparse, "block", block=(4, 4))),
    "block_16": Format("block_16", functools.partial(sparse, "block", block=(16, 16))),
}
PACKED = ("csr", "csc", "block_4", "block_16")  # those that have a rule for matmul
SCIPY = {"scipy_csr": scipy.sparse.csr_array, "scipy_csc": scipy.sparse.csc_array}
BITS = {32: jnp.float32, 16: jnp.float16}
Values = dict[str, dict[str, Any]]  # arm -> metric -> value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is stored and timed."""

    shapes: tuple[str, ...] = ("784x300", "1024x4096", "2048x2048")  # inputs x outputs
    sparsities: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99)  # rising, in (0, 1)
    batches: tuple[int, ...] = (1, 32)  # rows of x
    rounds: int = 11  # in each of which every arm runs once, >= 1
    calls: int = 3  # of an arm in a round, >= 1
    seeds: tuple[int, ...] = (0, 1, 2)  # matrices and inputs; each is measured anew

    def __post_init__(self) -> None:
        for shape in self.shapes:
            if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", shape):
                raise ValueError(f"shapes must be INPUTSxOUTPUTS, got {shape!r}; e.g. --shapes=784x300.")
        rising = sorted(set(self.sparsities))
        if not rising or list(self.sparsities) != rising or not 0 < rising[0] <= rising[-1] < 1:
            raise ValueError(
                f"sparsities must rise and be in (0, 1), got {self.sparsities!r}; e.g. --sparsities=0.5,0.9."
            )
        for name in ("rounds", "calls", *(["batches"] if self.batches else [])):
            if np.min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}; leave it out.")

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on one small matrix."""
        return cls(shapes=("40x64",), sparsities=(0.5, 0.9), batches=(1,), rounds=2, calls=1, seeds=(0,))


def percent(sparsity: float) -> str:
    """A sparsity as metrics name it."""
    return f"{100 * sparsity:g}"


def pruned(weight: Float[Array, "inputs outputs"], sparsity: float) -> dict[str, Float[Array, "in out"]]:
    """The matrix pruned by each pattern that has such a sparsity."""
    made = {}
    for kind, pattern in PATTERNS.items():
        if (chosen := pattern(sparsity)) is not None:
            transform = prune(absolute(), sparsity, pattern=chosen)
            made[kind] = transform.apply({"w": weight}, transform.init({"w": weight}))["w"]
    return made


def packed(weight: Float[Array, "inputs outputs"], store: Transform) -> Any:
    """The leaf of a matrix."""
    params = {"w": weight}
    return store.pack(params, store.init(params))["w"]


def leaves(
    matrices: Mapping[str, Float[Array, "inputs outputs"]], sparsity: float, least: float
) -> dict[str, Any]:
    """By format, the leaf of a matrix pruned to `sparsity`.

    What is made dense again has room for a sparsity of `least`: of one shape, it is compiled once.

    Raises:
        AssertionError: a leaf that, made dense, is not the matrix bit for bit.
    """
    made = {}
    for name, (kind, store) in FORMATS.items():
        if kind not in matrices:
            continue
        exact: dict[str, Any] = {"n": of_four(sparsity)} if name == "n_m" else {}
        room = exact or {"sparsity": least}
        made[name], roomy = (packed(matrices[kind], store(**options)) for options in (exact, room))
        if np.asarray(roomy.dense()).tobytes() != np.asarray(matrices[kind]).tobytes():
            raise AssertionError(f"{name} must come back bit for bit, got another matrix; mend its leaf.")
    return made


def sizes(dense: Float[Array, "in out"], stored: Mapping[str, Any], shape: str, at: str) -> Values:
    """By format, bytes over those of the dense matrix in the same dtype; SciPy's are of float32 only."""
    made: Values = {name: {"round_trips": 1} for name in stored}
    for bits, dtype in BITS.items():
        for name, leaf in stored.items():
            cast = jax.eval_shape(functools.partial(type(leaf).astype, dtype=dtype), leaf)
            made[name][f"{shape}.bytes{bits}@{at}"] = cast.nbytes / (dense.size * bits // 8)
    for name, cls in SCIPY.items():
        theirs = cls(np.asarray(dense))
        held = theirs.data.nbytes + theirs.indices.nbytes + theirs.indptr.nbytes
        made[name] = {f"{shape}.bytes32@{at}": held / dense.nbytes}
    return made


multiply = jax.jit(lift(jnp.matmul))


def is_packed(leaf: Any, x: Float[Array, "batch inputs"]) -> bool:
    """Whether `x @ leaf` runs on what is stored."""
    try:
        jax.eval_shape(lift(jnp.matmul, strict=True), x, leaf)
    except DenseError:
        return False
    return True


def products(
    dense: Float[Array, "in out"], stored: Mapping[str, Any], x: Float[Array, "batch in"]
) -> dict[str, Callable[[], Any]]:
    """By arm, a call that multiplies and waits."""
    host = np.asarray(x)

    def ours(weight: Any) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(multiply(x, weight))

    def theirs(matrix: Any) -> Callable[[], Any]:
        return lambda: host @ matrix

    return {
        "baseline": ours(dense),
        **{name: ours(stored[name]) for name in PACKED},
        **{name: theirs(cls(np.asarray(dense))) for name, cls in SCIPY.items()},
    }


class Timed(NamedTuple):
    """Medians over rounds."""

    ms: float  # of a call
    ratio: float  # to the baseline, within a round


def raced(arms: Mapping[str, Callable[[], Any]], *, rounds: int, calls: int) -> dict[str, Timed]:
    """Times every arm once a round, in alternating order."""
    taken: dict[str, list[float]] = {arm: [] for arm in arms}
    for call in arms.values():
        call()
    for index in range(rounds):
        for arm in list(arms)[:: 1 if index % 2 == 0 else -1]:
            taken[arm].append(1e3 * timeit.timeit(arms[arm], number=calls) / calls)
    found = {}
    for arm, values in taken.items():
        ratios = [own / dense for own, dense in zip(values, taken["baseline"], strict=True)]
        found[arm] = Timed(statistics.median(values), statistics.median(ratios))
    return found


def measured(config: Config, shape: str, sparsity: float, seed: int) -> Values:
    """One shape at one sparsity: arm -> metric -> value."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), round(1e6 * sparsity)), 2)
    rows, columns = map(int, shape.split("x"))
    matrices, at = pruned(jax.random.normal(keys[0], (rows, columns)), sparsity), percent(sparsity)
    stored, dense = leaves(matrices, sparsity, config.sparsities[0]), matrices["weights"]
    made = sizes(dense, stored, shape, at)
    for batch in config.batches:
        x = jax.random.normal(keys[1], (batch, rows))
        timed = raced(products(dense, stored, x), rounds=config.rounds, calls=config.calls)
        for arm, (ms, ratio) in timed.items():
            found = made.setdefault(arm, {})
            found[f"{shape}.ms_{batch}@{at}"] = ms
            found[f"{shape}.time_{batch}@{at}"] = ratio
            if arm in PACKED:
                found[f"{shape}.packed_{batch}@{at}"] = is_packed(stored[arm], x)
    return made


def crossing(sparsities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """The sparsity in percent from which on the ratio is below 1, interpolated in the logarithms of both.

    The lowest sparsity where all ratios are below 1; None where that of the highest is not.
    """
    slow = [index for index, ratio in enumerate(ratios) if ratio >= 1]
    if not slow:
        return 100 * sparsities[0]
    if slow[-1] == len(ratios) - 1:
        return None
    both = slice(slow[-1], slow[-1] + 2)
    r0, r1 = map(math.log, ratios[both])
    d0, d1 = (math.log(1 - sparsity) for sparsity in sparsities[both])
    return 100 * (1 - math.exp(d0 + (d1 - d0) * r0 / (r0 - r1)))


def summarized(values: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """An arm's metrics over shapes: mean bytes, geometric mean of times, and where the time crosses 1."""
    made: dict[str, Any] = {}
    for metric, middle in (
        *((f"bytes{bits}", statistics.fmean) for bits in BITS),
        *((f"time_{batch}", statistics.geometric_mean) for batch in config.batches),
    ):
        names = {s: [f"{shape}.{metric}@{percent(s)}" for shape in config.shapes] for s in config.sparsities}
        found = {s: middle([values[n] for n in own]) for s, own in names.items() if own[0] in values}
        made |= {f"{metric}@{percent(s)}": value for s, value in found.items()}
        if metric.startswith("time") and found:
            made[metric.replace("time", "crossing")] = crossing(list(found), list(found.values()))
    return made
