"""Convention: what counts as a multiply-accumulate (MAC). Published tables differ; a number needs its rule.

| convention | conv, matmul with a weight | two activations | affine norm | average pooling |
|---|---|---|---|---|
| `conv_fc` | 1 a MAC | 0 | 0 | 0 |
| `matmul` | 1 | 1 | 0 | 0 |
| `torchprofile` | 1 | 1 | 1 an output element | 1 an output element |
| `thop` | 1 | 0 | 4 an output element | 0 |

Max pooling, biases, activation functions and residual additions are free under all four. A transposed
convolution is counted on its output grid, and multiplications with padding are counted.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

from efficient.core.program import Step

Kind = Literal["weight", "activation", "norm", "pool", "move"]
Convention = Literal["conv_fc", "matmul", "torchprofile", "thop"]
_CHARGES: Mapping[str, Mapping[Kind, int]] = {
    "conv_fc": {"weight": 1},
    "matmul": {"weight": 1, "activation": 1},
    "torchprofile": {"weight": 1, "activation": 1, "norm": 1, "pool": 1},
    "thop": {"weight": 1, "norm": 4},
}


def charges(convention: str) -> Mapping[Kind, int]:
    """MACs for each unit (a product of a contraction, an output element of a norm or a pool) of each kind.

    Raises:
      ValueError: there is no such convention.
    """
    if convention not in _CHARGES:
        raise ValueError(
            f"convention must be one of {get_args(Convention)}, got {convention!r}; "
            "the table in efficient.core.convention says what each counts."
        )
    return _CHARGES[convention]


def contraction_macs(step: Step) -> int | None:
    """Products that a convolution or a matrix product sums up; None for any other step.

    Each output element of a convolution sums `in_features / groups * prod(window)` products, which is what
    the kernel holds for one output feature; each of a `dot_general`, what the contracted axes hold.
    """
    if step.primitive == "conv_general_dilated":
        kernel, out_features = step.operands[1].shape, step.params["dimension_numbers"].rhs_spec[0]
        return step.results[0].size * math.prod(n for axis, n in enumerate(kernel) if axis != out_features)
    if step.primitive == "dot_general":
        contracted = step.params["dimension_numbers"][0][0]
        return step.results[0].size * math.prod(step.operands[0].shape[axis] for axis in contracted)
    if step.primitive == "ragged_dot_general":
        (contracted, _), _ = step.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
        return step.results[0].size * math.prod(step.operands[0].shape[axis] for axis in contracted)
    return None
