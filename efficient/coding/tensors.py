"""What a compressed network is made of: tensors with shared weights, and tensors kept as they are."""

from dataclasses import dataclass

import ml_dtypes as ml_dtypes  # It makes bfloat16 known to NumPy by name.
import numpy as np
from jaxtyping import Bool, Float, Integer, Num

FLOATS = ("float16", "float32", "float64", "bfloat16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True, eq=False)
class Dense:
    """A tensor whose every value is kept as it is (a bias, a norm, a counter)."""

    values: Num[np.ndarray, "*shape"]  # One of FLOATS or INTEGERS.

    def __post_init__(self):
        if self.values.dtype.name not in FLOATS + INTEGERS:
            raise ValueError(
                f"values must be one of {', '.join(FLOATS + INTEGERS)}, got {self.values.dtype.name}; "
                "convert them."
            )

    def dense(self) -> Num[np.ndarray, "*shape"]:
        """The values."""
        return self.values


@dataclass(frozen=True, eq=False)
class Shared:
    """A tensor whose kept weights share the values of a codebook; the others are exact zeros.

    Raises:
        ValueError: a codebook that is no float vector, indices that are no integers, a mask of another shape,
            or a kept index outside the codebook.

    Example:
        >>> Shared(np.array([-0.5, 2.0]), np.array([1, 0, 1]), np.array([True, True, False])).dense()
        array([ 2. , -0.5,  0. ])
    """

    codebook: Float[np.ndarray, " k"]  # The shared values; their dtype is the tensor's.
    indices: Integer[np.ndarray, "*shape"]  # Which value each kept weight has; elsewhere without meaning.
    mask: Bool[np.ndarray, "*shape"] | None = None  # True: kept, False: zero. None: all are kept.

    def __post_init__(self):
        if self.codebook.dtype.name not in FLOATS or self.codebook.ndim != 1:
            raise ValueError(
                f"codebook must be a vector of {', '.join(FLOATS)}, got {self.codebook.dtype.name} of shape "
                f"{self.codebook.shape}; convert it."
            )
        if self.indices.dtype.name not in INTEGERS:
            raise ValueError(f"indices must be integers, got {self.indices.dtype.name}; convert them.")
        if self.mask is not None and (self.mask.dtype, self.mask.shape) != (np.bool_, self.indices.shape):
            raise ValueError(
                f"mask must be bool of shape {self.indices.shape}, got {self.mask.dtype.name} of shape "
                f"{self.mask.shape}; pass the mask of these indices."
            )
        kept = self.kept_indices()
        if kept.size and not 0 <= kept.min() <= kept.max() < self.codebook.size:
            raise ValueError(
                f"indices must be in 0 to {self.codebook.size - 1}, got {kept.min()} to {kept.max()}; "
                "check the codebook."
            )

    def kept_indices(self) -> Integer[np.ndarray, " kept"]:
        """The indices of the kept weights, in the order of their flat places."""
        return self.indices.reshape(-1) if self.mask is None else self.indices[self.mask]

    def dense(self) -> Float[np.ndarray, "*shape"]:
        """The weights: `codebook[indices]`, and +0.0 where the mask is False."""
        if self.mask is None:
            return self.codebook[self.kept_indices()].reshape(self.indices.shape)
        weights = np.zeros(self.indices.shape, self.codebook.dtype)
        weights[self.mask] = self.codebook[self.kept_indices()]
        return weights
