"""Every format with every granularity and every range, in chains, on every kind of tree."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import chain, dense
from efficient.adapt import lora
from efficient.factorize import low_rank
from efficient.prune import magnitude
from efficient.quantize import Quantizer, channel, formats, group, quantize, ranges, tensor, tile
from tests.trees import TREES

FORMATS = {
    "integer2": formats.Integer(2), "integer4": formats.Integer(4), "affine3": formats.Affine(3),
    "e4m3": formats.E4M3, "e5m2": formats.E5M2, "e3m2": formats.E3M2, "e2m3": formats.E2M3,
    "e2m1": formats.E2M1, "nf4": formats.NF4, "power": formats.PowerOfTwo(4),
}  # fmt: skip
BLOCKS = {"tensor": tensor(), "channel": channel(), "group": group(4), "tile": tile(3, 2)}
RANGES = {
    "minmax": ranges.minmax(), "percentile": ranges.percentile(95), "mse": ranges.mse(4),
    "octav": ranges.octav(4), "kl": ranges.kl(64), "absmean": ranges.absmean(),
}  # fmt: skip
EVERY = list(itertools.product(BLOCKS, RANGES))
CHAINS = {
    "pruned": lambda t: chain(magnitude(0.5), t),
    "low_rank": lambda t: chain(low_rank(2), t),
    "lora": lambda t: chain(t, lora(2)),
}


def is_defined(name, chosen):
    """Whether a range goes with a format; `test_ranges` has the refusals."""
    grid = FORMATS[name]
    if grid.is_affine:
        return chosen in ("minmax", "percentile", "mse")
    return chosen != "octav" or grid.is_even


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Much is compiled and little computed."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def some(name, kind, link):
    """A part of the combinations of a format: over all trees and links each comes up."""
    start = list(TREES).index(kind) * len(CHAINS) + list(CHAINS).index(link)
    pairs = [pair for pair in EVERY if is_defined(name, pair[1])]
    return pairs[start :: len(TREES) * len(CHAINS)]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", TREES)
def test_in_chains_what_is_shown_is_what_is_stored(kind, name):
    tree = TREES[kind]()
    for link in CHAINS:
        for blocks, chosen in some(name, kind, link):
            q = Quantizer(format=FORMATS[name], blocks=BLOCKS[blocks], range=RANGES[chosen])
            t = tree.scope(CHAINS[link](quantize(q)))
            state = t.init(tree.params, key=jax.random.key(0))
            shown = dense(t.apply(tree.params, state))
            stored = dense(t.pack(tree.params, state))
            for a, b in zip(jax.tree.leaves(shown), jax.tree.leaves(stored), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=f"{link}, {blocks}, {chosen}")


@pytest.mark.parametrize("name", FORMATS)
def test_alone_and_pruned_every_combination_keeps_zeros_and_is_idempotent_where_it_should(name):
    w = {"kernel": jax.random.normal(jax.random.key(1), (7, 5))}
    for blocks, chosen in EVERY:
        if not is_defined(name, chosen):
            continue
        q = Quantizer(format=FORMATS[name], blocks=BLOCKS[blocks], range=RANGES[chosen])
        pruned = chain(magnitude(0.5), quantize(q))
        state = pruned.init(w)
        shown = pruned.apply(w, state)["kernel"]
        assert int(jnp.sum(shown == 0)) >= 17, (blocks, chosen)
        np.testing.assert_array_equal(shown, dense(pruned.pack(w, state))["kernel"])
        frozen = quantize(q, is_frozen=True)
        once = frozen.apply(w, frozen.init(w))
        twice = frozen.apply(once, frozen.init(w))
        np.testing.assert_allclose(twice["kernel"], once["kernel"], rtol=1e-6, atol=1e-7)


def test_every_combination_comes_up_in_some_chain():
    for name in FORMATS:
        seen = {pair for kind in TREES for link in CHAINS for pair in some(name, kind, link)}
        assert seen == {pair for pair in EVERY if is_defined(name, pair[1])}
