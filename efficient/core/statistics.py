"""Statistics: what is known of a weight, of what enters it and of its gradients, in a form that merges.

Each array is a sum, a least or a greatest value over samples, so that batches, steps of a loop and sites of
a shared weight merge in any order, and nothing grows with the number of samples.

All is kept in float32. With u = 2**-24, the sum of n terms is off by at most n * u * sum(|x|) to first order,
whatever the order of summation (Higham, 2002, "Accuracy and Stability of Numerical Algorithms", section
4.2). So `mean` is off by (n + 1) * u * mean(|x|), and `second_moment`, where nothing cancels, by (n + 2) * u
times itself; n counts the samples of a batch and the batches merged. `count` and the bins of `histogram` are
exact to 2**24; beyond, k merges are off by a fraction k * u. Nothing wraps round.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

Statistic = Literal[
    "absmax", "min", "max", "mean", "absmean", "second_moment", "zeros", "gram", "histogram", "rows"
]
BINS_AN_OCTAVE = 16
_DROPPED_BITS = 23 - int(math.log2(BINS_AN_OCTAVE))  # of a float32's 23 bits of mantissa
MAGNITUDES = 2 ** (31 - _DROPPED_BITS)  # bins of each sign

# How each array merges, and the value that changes nothing.
_MERGES: Mapping[str, tuple[Callable[[Any, Any], Any], float]] = MappingProxyType(
    {
        "count": (jnp.add, 0.0),
        "absmax": (jnp.maximum, 0.0),
        "min": (jnp.minimum, math.inf),
        "max": (jnp.maximum, -math.inf),
        "total": (jnp.add, 0.0),
        "abstotal": (jnp.add, 0.0),
        "squares": (jnp.add, 0.0),
        "zeros": (jnp.add, 0.0),
        "gram_count": (jnp.add, 0.0),
        "gram": (jnp.add, 0.0),
        "histogram": (jnp.add, 0.0),
        "rows": (jnp.add, 0.0),
        "gradient_count": (jnp.add, 0.0),
        "gradient": (jnp.add, 0.0),
        "gradient_squares": (jnp.add, 0.0),
        "hessian_gradient": (jnp.add, 0.0),
        "hessian_diagonal": (jnp.add, 0.0),
    }
)
# Sums that are means over a count: two statistics merge only if what both counted they both summed.
_COUNTED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "count": ("total", "abstotal", "squares", "zeros"),
        "gradient_count": ("gradient", "gradient_squares", "hessian_gradient", "hessian_diagonal"),
    }
)


def _static() -> Any:
    """A field that is part of the structure."""
    return dataclasses.field(default=(), metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Of one weight: of what enters it, and of the loss's derivatives; a field that nobody asked for is None.

    A feature is a place along the contracted axes of the weight, flattened in the weight's own order. For a
    convolution it is an input channel, group after group, over batch and space, padding left out. Axes that
    the product keeps apart (experts) and scanned layers lead, as `*lead`, in every array, `count` too.
    Where nothing entered (`count` zero), `mean` and `second_moment` are 0, `min` is inf and `max` -inf. NaN
    enters `absmax`, `min`, `max` and the sums.

    Derivatives are summed over batches, each that of its batch's loss; see `observe_gradients`.
    """

    path: str = dataclasses.field(metadata={"static": True})  # of the weight
    features: tuple[int, ...] = _static()  # axes of the weight that they run over, from its last: Dense (-2,)
    contracted: tuple[int, ...] = _static()  # those that `gram` runs over: a 2-D Conv has (-4, -3, -2)
    count: Any = None  # [*lead], samples: vectors of features
    absmax: Any = None  # [*lead, features], greatest magnitude
    min: Any = None  # [*lead, features]
    max: Any = None  # [*lead, features]
    total: Any = None  # [*lead, features], the sum
    abstotal: Any = None  # [*lead, features], the sum of magnitudes
    squares: Any = None  # [*lead, features], the sum of squares
    zeros: Any = None  # [*lead, features], how many are exactly zero
    gram: Any = None  # [*lead, inputs, inputs], X^T X over `contracted`; of g > 1 groups [*lead, g, ...]
    gram_count: Any = None  # [*lead], rows of that X; for a convolution its patches, padding included
    histogram: Any = None  # [*lead, 2, MAGNITUDES], all features; values >= 0, then < 0; see `bin_edges`
    rows: Any = None  # [rows], how often each row was looked up
    gradient_count: Any = None  # [], batches
    gradient: Any = None  # [*shape of the weight], the sum of gradients g
    gradient_squares: Any = None  # [*shape], the sum of g * g
    hessian_gradient: Any = None  # [*shape], the sum of H g, with H the Hessian in all chosen weights
    hessian_diagonal: Any = None  # [*shape], the sum of z * (H z), z random signs: unbiased for diag(H)

    def __repr__(self) -> str:
        arrays = {name: getattr(getattr(self, name), "shape", None) for name in _MERGES}
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in arrays.items() if shape is not None)
        return f"<Statistics of what enters {self.path!r}: {shapes}>"

    @property
    def mean(self) -> Any:
        """[*lead, features], the mean."""
        return self._over_samples(self.total)

    @property
    def absmean(self) -> Any:
        """[*lead, features], the mean magnitude."""
        return self._over_samples(self.abstotal)

    @property
    def second_moment(self) -> Any:
        """[*lead, features], the mean square; Wanda's norm is `sqrt(squares)`."""
        return self._over_samples(self.squares)

    @property
    def zero_fraction(self) -> Any:
        """[*lead, features], the share that is exactly zero."""
        return self._over_samples(self.zeros)

    @property
    def mean_gradient(self) -> Any:
        """[*shape], the gradient of the mean of the batches' losses."""
        return self._over_batches(self.gradient)

    @property
    def mean_gradient_square(self) -> Any:
        """[*shape], the diagonal of the empirical Fisher matrix, a batch a sample."""
        return self._over_batches(self.gradient_squares)

    @property
    def mean_hessian_gradient(self) -> Any:
        """[*shape], the mean of H g."""
        return self._over_batches(self.hessian_gradient)

    @property
    def mean_hessian_diagonal(self) -> Any:
        """[*shape], an unbiased estimate of the diagonal of the Hessian of the batches' mean loss."""
        return self._over_batches(self.hessian_diagonal)

    def _over_samples(self, total: Any) -> Any:
        """The mean over samples of a sum over them."""
        return None if total is None else total / jnp.maximum(self.count, 1.0)[..., None]

    def _over_batches(self, total: Any) -> Any:
        """The mean over batches of a sum over them."""
        return None if total is None else total / jnp.maximum(self.gradient_count, 1.0)

    def percentile(self, q: float) -> Any:
        """[*lead], the magnitude that a fraction q / 100 of all values does not exceed.

        It is the middle of the bin of the value of rank ceil(n q / 100), taken in float32, among the n
        magnitudes in ascending order: off by at most that value / (2 * BINS_AN_OCTAVE) if it is in
        [2**-126, 2**127).

        Args:
          q: in [0, 100]; 100 is the greatest magnitude.

        Raises:
          ValueError: q is out of range, or the histogram was not asked for.
        """
        if not 0 <= q <= 100:
            raise ValueError(f"q must be in [0, 100], got {q!r}; give a percentage.")
        if self.histogram is None:
            raise ValueError(f"histogram must be observed, got None at {self.path!r}; ask for 'histogram'.")
        magnitudes = self.histogram[..., 0, :] + self.histogram[..., 1, :]
        # From above: the few values beyond a high percentile are counted exactly, however many lie below.
        reached = jnp.flip(jnp.cumsum(jnp.flip(magnitudes, -1), axis=-1), -1)
        n = reached[..., :1]
        beyond = jnp.minimum(jnp.floor(n * ((100.0 - q) / 100.0)), n - 1.0)
        bin_ = jnp.sum(reached > beyond, axis=-1) - 1
        edges = bin_edges()
        return jnp.where(n[..., 0] > 0, 0.5 * edges[bin_] + 0.5 * edges[bin_ + 1], 0.0)

    def merge(self, other: "Statistics") -> "Statistics":
        """Of the samples of both.

        Raises:
          ValueError: the two have other features, as where a weight is also used transposed; or both counted
            samples, or batches, and did not sum the same things over them.
        """
        kinds = {(s.features, s.contracted) for s in (self, other) if s.features}
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in _MERGES}
        given = {name: [a for a in pair if a is not None] for name, pair in pairs.items()}
        if len(kinds) > 1 or any(len({a.shape for a in arrays}) > 1 for arrays in given.values()):
            raise ValueError(
                f"weight {self.path!r} must be contracted over the same axes wherever it is used, got "
                f"{_described(self)} and {_described(other)}; leave it out by `where`."
            )
        for counted, sums in _COUNTED.items():
            if len(given[counted]) == 2 and any(len(given[name]) == 1 for name in sums):
                mine, theirs = ([n for n in sums if getattr(s, n) is not None] for s in (self, other))
                raise ValueError(
                    f"statistics of {self.path!r} must have the same sums to merge, got {mine} and {theirs}; "
                    "ask for all of them at once."
                )
        arrays = {name: functools.reduce(_MERGES[name][0], two) for name, two in given.items() if two}
        features, contracted = next(iter(kinds), ((), ()))
        return Statistics(path=self.path, features=features, contracted=contracted, **arrays)

    def identity(self) -> "Statistics":
        """Of no samples, in the same structure; serves shapes too."""
        arrays = {
            name: jnp.full(a.shape, neutral, a.dtype)
            for name, (_, neutral) in _MERGES.items()
            if (a := getattr(self, name)) is not None
        }
        return Statistics(path=self.path, features=self.features, contracted=self.contracted, **arrays)


def _described(statistics: Statistics) -> str:
    """The axes and the shape of statistics, for a message."""
    of = statistics.count if statistics.absmax is None else statistics.absmax
    return f"axes {statistics.contracted} (shape {list(getattr(of, 'shape', ()))})"


def combined(*several: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """All that several calls of `observe` and `observe_gradients` found, by path; of one path, merged.

    Raises:
      ValueError: as `Statistics.merge`.
    """
    found: dict[str, Statistics] = {}
    for one in several:
        found |= {path: found[path].merge(s) if path in found else s for path, s in one.items()}
    return found


def known(stats: Any, field: str, *, path: str, how: str) -> Any:
    """A field of the statistics of one path.

    Raises:
      ValueError: there are none, or not this one; `how` says what to call.
    """
    found = getattr(stats, field, None)
    if found is None:
        raise ValueError(f"stats of {path!r} must have {field!r}, got {stats!r}; {how}.")
    return found


def bin_edges() -> Float[Array, " edges"]:
    """Edges of the bins of magnitudes, ascending: bin i holds `edges[i] <= |x| < edges[i + 1]`.

    Each octave of float32 has `BINS_AN_OCTAVE` bins of equal width. The last edges are inf; the bins between
    them hold inf and NaN.
    """
    bits = jnp.arange(MAGNITUDES + 1, dtype=jnp.uint32) << _DROPPED_BITS
    return jnp.where(bits < 0x7F800000, jax.lax.bitcast_convert_type(bits, jnp.float32), jnp.inf)


def asked_for(statistics: Any) -> tuple[Statistic, ...]:
    """`statistics` as a tuple, each known.

    Raises:
      ValueError: there is no statistic of a name, or none at all.
    """
    names = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    if not names or any(name not in get_args(Statistic) for name in names):
        known = ", ".join(get_args(Statistic))
        raise ValueError(f"statistics must be one or more of {known}, got {statistics!r}; name those.")
    return names


def measure(
    x: Num[Array, "*lead samples features"],
    *,
    asked: tuple[Statistic, ...],
    path: str,
    features: tuple[int, ...],
    contracted: tuple[int, ...],
    gram: tuple[Any, Any] | None = None,
) -> Statistics:
    """The statistics of one product.

    Args:
      x: what enters the weight; made float32.
      asked: which to take; `count` always is.
      path: of the weight.
      features: see `Statistics`.
      contracted: see `Statistics`.
      gram: `(gram, gram_count)` where they are not those of `x`.
    """
    x = x.astype(jnp.float32)
    lead, samples = x.shape[:-2], x.shape[-2]
    makes: dict[str, Callable[[], Any]] = {
        "absmax": lambda: {"absmax": jnp.max(jnp.abs(x), axis=-2, initial=0.0)},
        "min": lambda: {"min": jnp.min(x, axis=-2, initial=jnp.inf)},
        "max": lambda: {"max": jnp.max(x, axis=-2, initial=-jnp.inf)},
        "mean": lambda: {"total": jnp.sum(x, axis=-2)},
        "absmean": lambda: {"abstotal": jnp.sum(jnp.abs(x), axis=-2)},
        "second_moment": lambda: {"squares": jnp.sum(jnp.square(x), axis=-2)},
        "zeros": lambda: {"zeros": jnp.sum(x == 0, axis=-2, dtype=jnp.float32)},
        "gram": lambda: dict(zip(("gram", "gram_count"), gram or gram_of(x), strict=True)),
        "histogram": lambda: {"histogram": _histogram(x)},
        "rows": dict,
    }
    taken: dict[str, Any] = {"count": jnp.full(lead, samples, jnp.float32)}
    for name in asked:
        taken.update(makes[name]())
    return Statistics(path=path, features=features, contracted=contracted, **taken)


def gram_of(
    x: Num[Array, "*lead samples features"],
) -> tuple[Float[Array, "*lead features features"], Float[Array, "*lead"]]:
    """`(X^T X, rows of X)`, the products exact to float32."""
    x = x.astype(jnp.float32)
    product = jnp.einsum("...sf,...sg->...fg", x, x, precision=jax.lax.Precision.HIGHEST)
    return product, jnp.full(x.shape[:-2], x.shape[-2], jnp.float32)


def _histogram(x: Float[Array, "*lead samples features"]) -> Float[Array, "*lead 2 magnitudes"]:
    """Counts by sign and by the leading bits of the float32: no logarithm, no edge that rounding can move."""
    lead = x.shape[:-2]
    bins = (jax.lax.bitcast_convert_type(x, jnp.uint32) >> _DROPPED_BITS).astype(jnp.int32)
    flat = bins.reshape(math.prod(lead), math.prod(x.shape[-2:]))
    own = jnp.arange(flat.shape[0])[:, None]
    counts = jnp.zeros((flat.shape[0], 2 * MAGNITUDES), jnp.int32).at[own, flat].add(1)
    return counts.reshape(*lead, 2, MAGNITUDES).astype(jnp.float32)
