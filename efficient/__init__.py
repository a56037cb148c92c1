"""efficient: composable model compression for JAX.

Pure functions over params: `chain(at("**/kernel", magnitude(0.9)), at("**/kernel", linear(8)))` on any
model, unedited. See README.md.
"""

from efficient.core.leaf import Leaf, dense, stored_bytes
from efficient.core.lift import explain, lift
from efficient.core.transform import State, Transform, at, chain, identity, per_leaf, stacked

__all__ = [
    "Leaf",
    "State",
    "Transform",
    "at",
    "chain",
    "dense",
    "explain",
    "identity",
    "lift",
    "per_leaf",
    "stacked",
    "stored_bytes",
]
