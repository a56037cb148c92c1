"""What a Pallas kernel is compiled with, by its tier; one that both can have names it here."""

from typing import Any, Literal

from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu


def compile_for(
    tier: str,
    *,
    grid: tuple[Literal["parallel", "arbitrary"], ...] | None = None,
    warps: int = 4,
    stages: int = 2,
) -> Any:
    """Parameters of the compiler.

    Args:
      tier: "pallas_tpu" or "pallas_gpu" (through Triton).
      grid: on a TPU, "parallel" or "arbitrary" for each axis of the grid.
      warps: on a GPU, of a program.
      stages: on a GPU, of loads that overlap.
    """
    if tier == "pallas_tpu":
        return pltpu.CompilerParams(dimension_semantics=grid)
    return plgpu.CompilerParams(num_warps=warps, num_stages=stages)
