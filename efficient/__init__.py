"""efficient: composable model compression for JAX.

Pure functions over params: `chain(at("**/kernel", magnitude(0.9)), at("**/kernel", linear(8)))` on any
model, unedited. See README.md.
"""

from efficient.core.cost import cost
from efficient.core.freeze import freeze
from efficient.core.leaf import Leaf, dense, stored_bytes
from efficient.core.lift import explain, lift
from efficient.core.measure import measure, race
from efficient.core.observe import observe
from efficient.core.per_leaf import per_leaf
from efficient.core.plan import Plan, Rule
from efficient.core.scope import at, stacked
from efficient.core.store import load, save
from efficient.core.transform import State, Transform, chain, identity

__all__ = [
    "Leaf",
    "Plan",
    "Rule",
    "State",
    "Transform",
    "at",
    "chain",
    "cost",
    "dense",
    "explain",
    "freeze",
    "identity",
    "lift",
    "load",
    "measure",
    "observe",
    "per_leaf",
    "race",
    "save",
    "stacked",
    "stored_bytes",
]
