"""The laws table: one row a method. `test_laws.py` holds every row, and every ordered pair, to all laws.

To add a method: one row in METHODS.
"""

import dataclasses

from efficient import Transform
from efficient.adapt import lora
from efficient.factorize import low_rank
from efficient.prune import magnitude, prune, rigl, sparse_evolutionary, static_sparse, straight_through
from efficient.prune.patterns import n_m
from efficient.prune.scores import absolute
from efficient.quantize import (
    binary,
    cluster_means,
    codebook,
    dorefa,
    group,
    linear,
    lsq,
    mixed,
    quantize,
    quantizers,
    ttq,
    twn,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What the theory says of a method."""

    make: Transform
    keeps_zeros: bool  # a zero that comes in goes out as zero
    is_idempotent: bool  # applying twice is applying once
    prunes: bool = False  # state.fixed.masks is masks by path, which keep half and never change
    is_sparse: bool = False  # one of several ways to choose zeros: not paired with the others
    is_few: bool = False  # one of several ways to round: paired with one method of each other kind


METHODS: dict[str, Method] = {
    "magnitude": Method(make=magnitude(0.5), keeps_zeros=True, is_idempotent=True, prunes=True),
    "codebook": Method(make=codebook(3), keeps_zeros=True, is_idempotent=True),
    "linear": Method(make=linear(8), keeps_zeros=True, is_idempotent=True),
    "quantize": Method(
        make=quantize(quantizers.affine(4, group(4)), is_frozen=True), keeps_zeros=True, is_idempotent=True
    ),
    "low_rank": Method(make=low_rank(3), keeps_zeros=False, is_idempotent=True),
    "lora": Method(make=lora(2), keeps_zeros=False, is_idempotent=False),
    "n_m": Method(
        make=prune(absolute(), pattern=n_m(1, 2)),
        keeps_zeros=True,
        is_idempotent=True,
        prunes=True,
        is_sparse=True,
    ),
    "static_sparse": Method(
        make=static_sparse(0.5), keeps_zeros=True, is_idempotent=True, prunes=True, is_sparse=True
    ),
    "sparse_evolutionary": Method(
        make=sparse_evolutionary(0.5, every=3), keeps_zeros=True, is_idempotent=True, is_sparse=True
    ),
    "rigl": Method(make=rigl(0.5, end=40, every=3), keeps_zeros=True, is_idempotent=True, is_sparse=True),
    "straight_through": Method(
        make=straight_through(0.5), keeps_zeros=True, is_idempotent=True, is_sparse=True
    ),
    "lsq": Method(make=lsq(4), keeps_zeros=True, is_idempotent=True, is_few=True),
    "dorefa": Method(make=dorefa(3), keeps_zeros=False, is_idempotent=False, is_few=True),
    "twn": Method(make=twn(), keeps_zeros=True, is_idempotent=True, is_few=True),
    "ttq": Method(make=ttq(), keeps_zeros=True, is_idempotent=True, is_few=True),
    "binary": Method(make=binary(), keeps_zeros=False, is_idempotent=True, is_few=True),
    "cluster_means": Method(make=cluster_means(2), keeps_zeros=False, is_idempotent=True, is_few=True),
    "mixed": Method(make=mixed.mixed(has_inputs=False), keeps_zeros=True, is_idempotent=True, is_few=True),
}
PARTNERS = ("magnitude", "low_rank", "lora")


def is_pair(a: str, b: str) -> bool:
    """Whether two methods are tried one after the other."""
    if METHODS[a].is_few or METHODS[b].is_few:
        return a in PARTNERS or b in PARTNERS
    return not (METHODS[a].is_sparse and METHODS[b].is_sparse)


PAIRS = [(a, b) for a in METHODS for b in METHODS if is_pair(a, b)]
