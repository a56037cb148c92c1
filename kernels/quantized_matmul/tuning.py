"""Tuning of `quantized_matmul` on a GPU: its blocks for a class of shapes, measured."""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import Packing
from efficient.kernels.quantized_matmul.pallas_gpu import OPERATION, Blocks, pallas_gpu
from efficient.kernels.tune import shape_class, tuned

CANDIDATES = tuple(
    Blocks(rows=rows, depth=depth, width=width, warps=warps, stages=stages)
    for rows, depth, width, warps, stages in itertools.product(
        (16, 64), (32, 64, 128), (32, 64, 128), (4, 8), (2, 4)
    )
)


def tune_quantized_matmul(
    rows: int,
    depth: int,
    columns: int,
    *,
    bits: int = 4,
    group: int = 128,
    dtype: Any = jnp.bfloat16,
    candidates: Iterable[Blocks] = CANDIDATES,
    seconds: Callable[[Callable[[], Any]], float] | None = None,
) -> Blocks:
    """The fastest blocks on this GPU for x [rows, depth] times W [depth, columns], kept on disk.

    Args:
      rows: of x.
      depth: what is summed over.
      columns: of W.
      bits: of a code.
      group: rows of a run.
      dtype: of x.
      candidates: what is tried.
      seconds: measures a call; None times 20 of them.

    Raises:
      RuntimeError: no candidate ran.
    """
    packing = Packing(bits, columns, group, True)
    x = jnp.ones((rows, depth), dtype)
    codes = jnp.zeros((depth, -(-columns * bits // 8)), jnp.uint8)
    scale = jnp.ones((-(-depth // group), columns))

    def measured(blocks: Blocks) -> float:
        run = jax.jit(lambda x, c, s: pallas_gpu(x, c, s, None, None, packing=packing, blocks=blocks))
        return (seconds or _seconds)(lambda: run(x, codes, scale))

    return tuned(OPERATION, shape_class(rows, depth, columns, bits), candidates, measured)


def _seconds(call: Callable[[], Any]) -> float:
    """Of one of 20 calls, after two."""
    for _ in range(2):
        jax.block_until_ready(call())
    start = time.perf_counter()
    for _ in range(20):
        out = call()
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / 20
