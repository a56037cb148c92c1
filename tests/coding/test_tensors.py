"""Tensors of a compressed network: what they mean, and what is no tensor. The examples of the package run."""

import doctest
import importlib
import inspect

import numpy as np
import pytest

from efficient.coding import Dense, Shared


def untyped(kind, *fields):
    """A tensor made without the check of types that tests run under, which would speak first."""
    tensor = object.__new__(kind)
    inspect.unwrap(kind.__init__)(tensor, *fields)
    return tensor


def test_golden_shared():
    shared = Shared(
        np.array([0.5, -2.0], np.float16), np.array([[0, 1], [9, 1]]), np.array([[True, True], [False, True]])
    )
    np.testing.assert_array_equal(shared.dense(), np.array([[0.5, -2.0], [0.0, -2.0]], np.float16))
    assert shared.dense().dtype == np.float16  # The 9 stands where nothing is kept: it has no meaning.
    np.testing.assert_array_equal(shared.kept_indices(), [0, 1, 1])


def test_a_scalar_has_no_dimension():
    assert Shared(np.ones(1), np.array(0)).dense().shape == ()


@pytest.mark.parametrize(
    ("codebook", "indices", "mask", "message"),
    [
        (np.ones(2, np.int32), [0], None, "codebook must be a vector of float16, .* got int32"),
        (np.ones((2, 1)), [0], None, r"codebook must be a vector .* of shape \(2, 1\)"),
        (np.ones(2), [0.0], None, "indices must be integers, got float64"),
        (np.ones(2), [0, 2], None, "indices must be in 0 to 1, got 0 to 2"),
        (np.ones(2), [0, -1], [False, True], "indices must be in 0 to 1, got -1 to -1"),
        (np.ones(0), [0], None, "indices must be in 0 to -1, got 0 to 0"),
        (np.ones(2), [0], [True, False], r"mask must be bool of shape \(1,\), got bool of shape \(2,\)"),
        (np.ones(2), [0], [1], r"mask must be bool of shape \(1,\), got int64"),
    ],
)
def test_shared_refuses(codebook, indices, mask, message):
    with pytest.raises(ValueError, match=message):
        untyped(Shared, codebook, np.array(indices), None if mask is None else np.array(mask))


@pytest.mark.parametrize("values", [np.ones(2, bool), np.ones(2, np.complex64)])
def test_dense_refuses(values):
    with pytest.raises(ValueError, match=f"values must be one of float16, .* got {values.dtype.name}"):
        untyped(Dense, values)


@pytest.mark.parametrize("module", ["bits", "byte_reader", "huffman", "relative_index", "tensors"])
def test_examples_run(module):
    result = doctest.testmod(importlib.import_module(f"efficient.coding.{module}"))
    assert result.failed == 0
    assert result.attempted > 0
