"""x W with W as what of it is stored: compressed lines, blocks, or n of every m."""

from efficient.kernels.sparse_matmul.block_sparse import block_sparse_matmul
from efficient.kernels.sparse_matmul.csr import csr_matmul
from efficient.kernels.sparse_matmul.n_m import n_m_matmul

__all__ = ["block_sparse_matmul", "csr_matmul", "n_m_matmul"]
