"""Sparse: pruned weights become sparse leaves; plans, scanned layers and jit know their shapes beforehand."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import Plan, Rule, at, chain, dense, lift, stacked
from efficient.prune import magnitude, prune
from efficient.prune.leaves import BitmapLeaf, BlockSparseLeaf, CSRLeaf, NMLeaf, RelativeIndexLeaf
from efficient.prune.patterns import block, n_m
from efficient.prune.scores import absolute
from efficient.prune.store_sparse import sparse
from efficient.quantize import linear

KEY = jax.random.key(0)
PARAMS = {"kernel": jax.random.normal(KEY, (20, 8)), "count": jnp.int32(3)}
#          what prunes, what stores, the leaf, its bytes: 16 of 160 float32 stay
STORES = {
    "bitmap": (magnitude(0.9), {"sparsity": 0.9}, BitmapLeaf, 16 * 4 + 20),
    "csr": (magnitude(0.9), {"sparsity": 0.9}, CSRLeaf, 16 * 5 + 21),
    "csc": (magnitude(0.9), {"sparsity": 0.9}, CSRLeaf, 16 * 5 + 9),
    "n_m": (prune(absolute(), pattern=n_m(2, 4)), {}, NMLeaf, 80 * 4 + 80 * 2 // 8),
    # 10 blocks of 16 weights: 1 stays.
    "block": (prune(absolute(), 0.9, pattern=block((4, 4))), {"sparsity": 0.9}, BlockSparseLeaf, 65 + 6),
    # 16 and room for a filler for every 16 of 144 zeros.
    "relative": (magnitude(0.9), {"sparsity": 0.9}, RelativeIndexLeaf, 25 * 4 + 13 + 21),
}
EVERY = pytest.mark.parametrize("name", list(STORES))


def same(got, want):
    assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


@EVERY
def test_pack_stores_what_apply_shows(name):
    pruned, options, leaf, size = STORES[name]
    for given in ({}, options):
        t = chain(pruned, sparse(name, **given))
        state = t.init(PARAMS)
        weights, packed = t.apply(PARAMS, state), t.pack(PARAMS, state)
        assert isinstance(packed["kernel"], leaf)
        same(packed["kernel"].dense(), weights["kernel"])
        assert packed["count"] is PARAMS["count"]
        # Without room there is what is there: at most as much.
        assert packed["kernel"].nbytes == size if given == options else packed["kernel"].nbytes <= size


@EVERY
def test_a_plan_knows_the_bytes(name):
    pruned, options, _, size = STORES[name]
    compiled = Plan([Rule("kernel", chain(pruned, sparse(name, **options)))]).compile(PARAMS)
    (row,) = (row for row in compiled.coverage if row.path == "kernel")
    assert (row.status, row.packed_bytes) == ("matched", size)
    packed = compiled.transform.pack(PARAMS, compiled.transform.init(PARAMS))
    assert packed["kernel"].nbytes == size


def test_a_plan_refuses_what_has_no_shapes():
    plan = Plan([Rule("kernel", chain(magnitude(0.9), sparse("csr")))])
    with pytest.raises(
        ValueError,
        match=r"sparsity must be given where 'kernel' is traced \(a plan, stacked, jit\), got None; "
        r"write sparse\('csr', sparsity=...\)",
    ):
        plan.compile(PARAMS)


@EVERY
def test_scanned_layers(name):
    """Every layer has the same room, so that `scan` slices the leaf; no layer is made dense outside."""
    pruned, options, leaf, size = STORES[name]
    layers = jax.random.normal(KEY, (3, 8, 20)).swapaxes(1, 2)
    t = at("kernel", stacked(chain(pruned, sparse(name, **options))))
    state = t.init({"kernel": layers})
    packed = t.pack({"kernel": layers}, state)["kernel"]
    assert isinstance(packed, leaf)
    assert (packed.shape, packed.nbytes) == ((3, 20, 8), 3 * size)
    weights = t.apply({"kernel": layers}, state)["kernel"]
    same(packed.dense(), weights)
    seen = []

    def step(x, w):
        seen.append(type(w))
        return x @ w @ jnp.ones((8, 20)) / 20, None

    run = lambda w: jax.lax.scan(step, jnp.ones((1, 20)), w)[0]  # noqa: E731
    np.testing.assert_allclose(lift(run)(packed), run(weights), rtol=1e-5)


def test_pack_under_jit_refuses_what_does_not_fit():
    t = sparse("csr", sparsity=0.9)
    pruned = {"kernel": jnp.zeros((20, 8)).at[3].set(2.0)}
    pack = jax.jit(lambda p: t.pack(p, t.init(p)))
    same(pack(pruned)["kernel"].dense(), pruned["kernel"])
    message = (
        r"'kernel' must have at most 16 entries to store, as its sparsity says, got 160; prune it further"
    )
    with pytest.raises(ValueError, match=message):
        t.pack(PARAMS, t.init(PARAMS))
    with pytest.raises((ValueError, jax.errors.JaxRuntimeError), match=message):  # by how it is dispatched
        jax.block_until_ready(pack({"kernel": PARAMS["kernel"]}))


def test_a_leaf_that_comes_in_is_made_dense():
    t = chain(magnitude(0.9), linear(8), sparse("bitmap"))
    state = t.init(PARAMS)
    packed = t.pack(PARAMS, state)
    assert isinstance(packed["kernel"], BitmapLeaf)
    np.testing.assert_array_equal(dense(packed)["kernel"], t.apply(PARAMS, state)["kernel"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: inspect.unwrap(sparse)("coo"),
            r"format must be one of bitmap, csr, .*, got 'coo'; choose one",
        ),
        (
            lambda: sparse("csr", block=(4, 4)),
            r"block must be no option of 'csr', which has sparsity, got \(4, 4\); leave it out",
        ),
        (lambda: sparse("n_m", sparsity=0.5), r"sparsity must be no option of 'n_m', which has n, m, axis"),
        (lambda: sparse("csr", sparsity=1.0), r"sparsity must be in \[0, 1\), got 1.0; 0.9 is one weight in"),
        (lambda: sparse("n_m", n=5), r"n must be from 1 to m, .*, got n=5 and m=4"),
        (lambda: sparse("relative", bits=0), r"bits must be from 1 to 8, got 0"),
        (lambda: sparse("block", block=(0, 1)), r"block must be a height and a width of at least 1"),
        (
            lambda: sparse("n_m").init({"bias": jnp.ones(4)}),
            r"axis must be one of the 1 axes of 'bias', got -2; exclude the leaf",
        ),
        (
            lambda: sparse("n_m").pack({"kernel": jnp.ones((4, 4))}, sparse("n_m").init({})),
            r"'kernel' must have at most 2 of every 4 along axis 0, got 4",
        ),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
