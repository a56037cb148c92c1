"""Leaves: pruned weights as really smaller arrays, one format a file."""

from efficient.prune.leaves.bitmap import BitmapLeaf
from efficient.prune.leaves.block_sparse import BlockSparseLeaf
from efficient.prune.leaves.csr import CSRLeaf
from efficient.prune.leaves.n_m import NMLeaf
from efficient.prune.leaves.relative_index import RelativeIndexLeaf
from efficient.prune.leaves.sparse import SparseLeaf

__all__ = ["BitmapLeaf", "BlockSparseLeaf", "CSRLeaf", "NMLeaf", "RelativeIndexLeaf", "SparseLeaf"]
