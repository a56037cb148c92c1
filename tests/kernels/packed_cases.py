"""What kernels of packed codes are tried on: tiers, shapes, arguments drawn at random."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels import native

HAS_COMPILER = any(shutil.which(name) for name in native.COMPILERS)
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler")
TIERS = [
    "reference",
    pytest.param("cpu", marks=needs_compiler),
    pytest.param("cpu_portable", marks=needs_compiler),
]
# Rows of x, rows and columns of W: SmolLM2-135M, LeNet's, and what divides by nothing.
SHAPES = [
    (1, 576, 1536), (3, 800, 500), (17, 576, 192), (1, 31, 129), (8, 33, 257), (9, 130, 65), (200, 65, 63),
    (1, 1, 1), (2, 3, 128), (40, 70, 1100),
]  # fmt: skip


def on_shapes(tiers, shapes=SHAPES):
    """Pairs of a tier and a shape; the reference, which compiles anew for each shape, has three."""
    pairs = []
    for tier in tiers:
        name, marks = (tier, ()) if isinstance(tier, str) else (tier.values[0], tier.marks)
        own = shapes[1:4] if name == "reference" else shapes
        pairs += [pytest.param(name, shape, marks=marks, id=f"{name}-{shape}") for shape in own]
    return pairs


def problem(m, k, n, *, bits, group=0, has_shift=False, by_column=True, is_signed=False, seed=0):
    """Arguments drawn at random; codes are whole numbers."""
    draw = np.random.default_rng(seed)
    runs, wide = -(-k // (group or k)), n if by_column else 1
    p = {
        "x": draw.normal(size=(m, k)).astype(np.float32),
        "codes": draw.integers(0, 256, (k, -(-n * bits // 8))).astype(np.uint8),
        "scale": draw.uniform(0.5, 2, (runs, wide)).astype(np.float32),
        "shift": draw.normal(size=(runs, wide)).astype(np.float32) if has_shift else None,
        "bits": bits,
        "columns": n,
        "group": group,
        "is_signed": is_signed,
    }  # fmt: skip
    return {name: jnp.asarray(v) if isinstance(v, np.ndarray) else v for name, v in p.items()}


def codes_of(codes, bits, columns):
    """Codes as they were packed, [k, columns], by arithmetic alone."""
    codes, many = np.asarray(codes).view(np.uint8).astype(int), 8 // bits
    apart = [codes // 2 ** (bits * i) % 2**bits for i in range(many)]
    return np.stack(apart, -1).reshape(len(codes), -1)[:, :columns]


def whole_numbers(codes, bits, columns, is_signed):
    """What codes stand for, float64 [k, columns]."""
    numbers = codes_of(codes, bits, columns).astype(np.float64)
    return np.where(numbers >= 2 ** (bits - 1), numbers - 2**bits, numbers) if is_signed else numbers


def by_row(values, rows, columns, group):
    """A number of each run of rows, at every row and column, in float64."""
    whole = np.broadcast_to(np.asarray(values, np.float64), (len(values), columns))
    return whole[np.arange(rows) // (group or rows)]
