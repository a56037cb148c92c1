"""Masks and leaves against PyTorch's and SciPy's own.

More of the kind: `test_scores` (snip), `test_patterns` (L1 channels), `test_leaves` (SciPy's arrays).
PyTorch's weights are [out, in, *spatial], ours [*spatial, in, out].
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import chain
from efficient.prune import magnitude, prune, sparse
from efficient.prune.allocations import together
from efficient.prune.leaves import BlockSparseLeaf, CSRLeaf, NMLeaf
from efficient.prune.patterns import block, channel, n_m
from efficient.prune.scores import absolute, group_norm, random

torch = pytest.importorskip("torch", reason="torch is absent: nothing to compare with")
torch_prune = pytest.importorskip("torch.nn.utils.prune")

ORDERS = {2: (1, 0), 4: (3, 2, 0, 1)}  # ours to PyTorch's
LINEAR, CONV = (12, 8), (3, 3, 4, 8)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def module_of(weights):
    """A layer of PyTorch with these weights."""
    *_, inputs, outputs = weights.shape
    is_dense = weights.ndim == 2
    made = torch.nn.Linear(inputs, outputs) if is_dense else torch.nn.Conv2d(inputs, outputs, 3)
    made.weight = torch.nn.Parameter(torch.from_numpy(weights.transpose(ORDERS[weights.ndim]).copy()))
    return made


def mask_of(module):
    """PyTorch's mask in our layout."""
    mask = module.weight_mask.numpy()
    return mask.transpose(np.argsort(ORDERS[mask.ndim])).astype(bool)


def arrays(params):
    return jax.tree.map(jnp.asarray, params)


def ours(score, sparsity, params, *, key=None, **options):
    """Our masks by path."""
    return prune(score, sparsity, **options).init(arrays(params), key=key).fixed.masks


# ---- masks


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("amount", [0.3, 0.5, 0.8, 17])
def test_l1_unstructured(shape, amount):
    weights = normal(shape)
    module = torch_prune.l1_unstructured(module_of(weights), "weight", amount=amount)
    sparsity = amount if isinstance(amount, float) else amount / weights.size
    np.testing.assert_array_equal(ours(absolute(), sparsity, {"w": weights})["w"], mask_of(module))


def test_rounds_of_l1_unstructured():
    """PyTorch's later rounds take their fraction of what is left: twice a half is three quarters of all."""
    weights = normal(LINEAR)
    module = module_of(weights)
    for _ in range(2):
        torch_prune.l1_unstructured(module, "weight", amount=0.5)
    twice, params = chain(magnitude(0.5), magnitude(0.75)), arrays({"w": weights})
    shown = twice.apply(params, twice.init(params))["w"]
    np.testing.assert_array_equal(np.asarray(shown) != 0, mask_of(module))


@pytest.mark.parametrize("amount", [0.25, 0.9])
def test_global_unstructured(amount):
    """Layers of different size and scale compete; the tree's order is that of its paths."""
    params = {"a": normal(LINEAR), "b": 0.5 * normal(CONV, 1), "c": 2 * normal((8, 4), 2)}
    modules = {path: module_of(w) for path, w in params.items()}
    torch_prune.global_unstructured(
        [(module, "weight") for module in modules.values()],
        pruning_method=torch_prune.L1Unstructured,
        amount=amount,
    )
    masks = ours(absolute(), amount, params, allocation=together())
    for path, module in modules.items():
        np.testing.assert_array_equal(masks[path], mask_of(module))
    assert len({round(float(mask.mean()), 2) for mask in masks.values()}) == 3  # they did compete


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize(("axis", "dim"), [(-1, 0), (-2, 1)])
@pytest.mark.parametrize("order", [1, 2])
def test_ln_structured(shape, axis, dim, order):
    """Filters and input channels by L1 and L2 norm: half of them, by fraction."""
    weights = normal(shape, 3)
    module = torch_prune.ln_structured(module_of(weights), "weight", amount=0.5, n=order, dim=dim)
    masks = ours(group_norm(order), 0.5, {"w": weights}, pattern=channel(axis=axis))
    np.testing.assert_array_equal(masks["w"], mask_of(module))


def test_the_norms_choose_differently():
    """L1 of (3, 3) is above that of (5, 0), L2 is below: else the test before would show little."""
    weights = np.array([[3, 5], [3, 0]], np.float32)
    for order, kept in ((1, [True, False]), (2, [False, True])):
        module = torch_prune.ln_structured(module_of(weights), "weight", amount=1, n=order, dim=0)
        mask = ours(group_norm(order), 0.5, {"w": weights}, pattern=channel())["w"]
        np.testing.assert_array_equal(mask, mask_of(module))
        assert mask[0].tolist() == kept


@pytest.mark.parametrize("shape", [(2, 5), (12, 8)])
def test_random_unstructured_has_the_same_count(shape):
    """Halves go to the even number in both, as 2.5 of 10; but ours never lets all go, as 9.5 of 10."""
    for sparsity in (0.1, 0.25, 0.5, 0.625, 0.77, 0.95):
        module = torch_prune.random_unstructured(module_of(normal(shape)), "weight", amount=sparsity)
        mask = ours(random(), sparsity, {"w": normal(shape)}, key=jax.random.key(0))["w"]
        assert int(mask.sum()) == max(1, int(mask_of(module).sum())), sparsity


def test_random_structured_has_the_same_count():
    module = torch_prune.random_structured(module_of(normal(LINEAR)), "weight", amount=0.25, dim=0)
    mask = ours(random(), 0.25, {"w": normal(LINEAR)}, key=jax.random.key(0), pattern=channel())["w"]
    for one in (np.asarray(mask), mask_of(module)):
        assert one.any(0).sum() == one.all(0).sum() == 6


def sparsified(weights, **options):
    """The mask of PyTorch's sparsifier of [out, in], in our layout."""
    sparsifier = torch.ao.pruning.WeightNormSparsifier(**options)
    model = torch.nn.Sequential(module_of(weights))
    sparsifier.prepare(model, [{"tensor_fqn": "0.weight"}])
    sparsifier.step()
    return model[0].parametrizations.weight[0].mask.numpy().T.astype(bool)


def test_two_of_four():
    """Groups run along the inputs in both; PyTorch's packed form itself needs a GPU."""
    weights = normal((16, 8), 4)
    theirs = sparsified(weights, sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    mask = ours(absolute(), 0.5, {"w": weights}, pattern=n_m(2, 4))["w"]
    np.testing.assert_array_equal(mask, theirs)
    assert NMLeaf.from_dense(np.where(theirs, weights, 0)).values.size == weights.size // 2


def test_blocks():
    """Blocks of 2 x 4 by Euclidean norm, half of them; PyTorch's (4, 2) are of [out, in]."""
    weights = normal((16, 8), 5)
    theirs = sparsified(weights, sparsity_level=0.5, sparse_block_shape=(4, 2), zeros_per_block=8)
    mask = ours(group_norm(2), 0.5, {"w": weights}, pattern=block((2, 4)))["w"]
    np.testing.assert_array_equal(mask, theirs)


# ---- leaves


def sparse_matrix():
    """A matrix whose single weights are pruned, with a row and a column of nothing."""
    weights = normal((12, 18), 6)
    mask = np.random.default_rng(7).random(weights.shape) < 0.3
    mask[3] = mask[:, 5] = False
    return np.where(mask, weights, 0).astype(np.float32)


def block_matrix():
    """A matrix of whole blocks of 2 x 3."""
    weights = normal((12, 18), 8)
    mask = ours(absolute(), 0.75, {"w": weights}, pattern=block((2, 3)))["w"]
    return np.where(mask, weights, 0).astype(np.float32)


LEAVES = {  # our leaf; PyTorch's layout; the names of its pointers and places, and ours
    "csr": (CSRLeaf.from_dense, lambda t: t.to_sparse_csr(), "crow", "col", "indices"),
    "csc": (lambda a: CSRLeaf.from_dense(a, axis=1), lambda t: t.to_sparse_csc(), "ccol", "row", "indices"),
    "bsr": (
        lambda a: BlockSparseLeaf.from_dense(a, block=(2, 3)),
        lambda t: t.to_sparse_bsr((2, 3)),
        "crow",
        "col",
        "columns",
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")  # its compressed tensors are in beta, it says
@pytest.mark.parametrize("name", list(LEAVES))
def test_arrays_of_compressed_tensors(name):
    make, convert, pointers, places, own_places = LEAVES[name]
    array = block_matrix() if name == "bsr" else sparse_matrix()
    leaf, theirs = make(array), convert(torch.from_numpy(array))
    np.testing.assert_array_equal(leaf.values, theirs.values().numpy())
    np.testing.assert_array_equal(leaf.pointers, getattr(theirs, f"{pointers}_indices")().numpy())
    np.testing.assert_array_equal(getattr(leaf, own_places), getattr(theirs, f"{places}_indices")().numpy())
    np.testing.assert_array_equal(leaf.dense(), theirs.to_dense().numpy())


def test_blocks_where_pruning_left_zeros_inside():
    """SciPy's arrays of blocks of which only a part is present, and of rows of blocks that are empty."""
    peer = pytest.importorskip("scipy.sparse")
    array = sparse_matrix()
    array[6:10] = 0
    leaf, theirs = BlockSparseLeaf.from_dense(array, block=(2, 3)), peer.csr_array(array).tobsr((2, 3))
    theirs.sort_indices()
    for ours_, other in ((leaf.values, theirs.data), (leaf.columns, theirs.indices)):
        np.testing.assert_array_equal(ours_, other)
    np.testing.assert_array_equal(leaf.pointers, theirs.indptr)
    assert (np.diff(leaf.pointers.astype(int)) == 0).any()
    assert (leaf.values == 0).any()


def test_a_pruned_model_packs_to_what_pytorch_packs():
    """From weights to arrays: the mask and then the leaf, against PyTorch's mask and then its CSR."""
    weights = normal(LINEAR, 9)
    module = torch_prune.l1_unstructured(module_of(weights), "weight", amount=0.8)
    params = arrays({"w": weights})
    transform = chain(magnitude(0.8), sparse("csc"))  # PyTorch's rows are our columns
    leaf = transform.pack(params, transform.init(params))["w"]
    theirs = module.weight.detach().numpy()
    rows, columns = np.nonzero(theirs)
    np.testing.assert_array_equal(leaf.values, theirs[rows, columns])
    np.testing.assert_array_equal(leaf.indices, columns)
    np.testing.assert_array_equal(np.diff(leaf.pointers.astype(int)), np.bincount(rows, minlength=8))
