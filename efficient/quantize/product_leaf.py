"""Product leaf: a weight, and what is done to whatever it is multiplied with, and to the product.

Activations are quantized, clipped, scaled and rotated in this way: where the weight meets them, in any model,
unedited. A `ProductRule` says what is done; the leaf knows where.
"""

import abc
import dataclasses
from typing import Any

import jax

from efficient.core.constant import Constant
from efficient.core.contraction import contraction
from efficient.core.leaf import Leaf, is_leaf, leaf, static
from efficient.quantize.codes import Step, product


@dataclasses.dataclass(frozen=True)
class ProductRule(Constant, abc.ABC):
    """What is done around the product of a weight. A value; its arrays are the leaf's `args`."""

    @property
    def mixes(self) -> bool:
        """Whether it treats input channels differently, so that it must know where they stand."""
        return False

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """What enters the product in place of `x`, of its shape and dtype; `axes` are those summed over."""
        del args, axes
        return x

    def step(self, x: Any, args: Any) -> Step | None:
        """The step, where `before` rounds to 8-bit integers, by one step for all or one a sum; else None."""
        del x, args
        return None

    def after(self, y: Any, args: Any) -> Any:
        """What leaves it in place of `y`."""
        del args
        return y

    def whole(self, weight: Any, args: Any, axis: int) -> Any:
        """The weight that, alone, gives the product; the weight itself where it is not changed."""
        del args, axis
        return weight


@leaf
class ProductLeaf(Leaf):
    """A weight, an array or a leaf, whose products go through a rule."""

    weight: Any
    args: Any
    rule: ProductRule = static()
    axis: int = static()  # of the weight's input channels, from the last; told to rules that mix them

    def __post_init__(self) -> None:
        if not isinstance(self.rule, ProductRule) or not isinstance(self.axis, int):
            raise ValueError(
                f"rule must be a ProductRule and axis a whole number, got {self.rule!r} and {self.axis!r}; "
                "use a transform that makes the leaf."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return tuple(self.weight.shape)

    @property
    def dtype(self) -> Any:
        """That of the weight."""
        return self.weight.dtype

    def astype(self, dtype: Any) -> "ProductLeaf":
        """The weight of another dtype."""
        return dataclasses.replace(self, weight=self.weight.astype(dtype))

    def dense(self) -> jax.Array:
        """The weight, without what is done to its inputs; what is done to both is undone."""
        weight = self.weight.dense() if is_leaf(self.weight) else self.weight
        return self.rule.whole(weight, self.args, self.axis).astype(self.dtype)

    def stack(self, length: int) -> Any:
        """Sliceable where the weight is, and all arrays of the rule have the leading axis."""
        weight = self.weight.stack(length) if is_leaf(self.weight) else self.weight
        has_axis = all(a.ndim and a.shape[0] == length for a in jax.tree.leaves(self.args))
        if weight is NotImplemented or not has_axis:
            return NotImplemented
        return dataclasses.replace(self, weight=weight)

    def dot_general(self, site: Any) -> Any:
        """Rule: the other operand goes through `before`, the product through `after`."""
        c = contraction(site)
        if self.rule.mixes and c.contract != (self.axis + self.ndim,):
            return NotImplemented
        return self._product(site, c.other_contract)

    def conv_general_dilated(self, site: Any) -> Any:
        """Rule: as `dot_general`; input channels are what is summed over."""
        lhs_spec, rhs_spec, _ = site.params["dimension_numbers"]
        is_apart = site.params["feature_group_count"] != 1 or site.params["batch_group_count"] != 1
        if site.index != 1 or (self.rule.mixes and (is_apart or rhs_spec[1] != self.axis + self.ndim)):
            return NotImplemented
        return self._product(site, (lhs_spec[1],))

    def _product(self, site: Any, axes: tuple[int, ...]) -> Any:
        step = self.rule.step(site.other, self.args)
        if step is not None:
            out = product(site, self.weight, step=step)
            if out is not None:
                return self.rule.after(out, self.args).astype(site.out_dtype)
        x = self.rule.before(site.other, self.args, axes).astype(site.other.dtype)
        out = site.bind(self.weight, other=x)
        return self.rule.after(out, self.args).astype(site.out_dtype)

    def gather(self, site: Any) -> Any:
        """Rule: a look-up has no other operand; the weight alone is asked."""
        if self.rule.mixes or not is_leaf(self.weight):
            return NotImplemented
        out = self.weight.gather(site) if hasattr(self.weight, "gather") else NotImplemented
        return out

    def transpose(self, site: Any) -> "ProductLeaf":
        """Rule: the input channels move too."""
        place = site.params["permutation"].index(self.axis + self.ndim)
        return dataclasses.replace(self, weight=site.bind(self.weight), axis=place - self.ndim)

    def _moved(self, site: Any) -> Any:
        """Rule, unless the rule has to know where the input channels are."""
        return NotImplemented if self.rule.mixes else dataclasses.replace(self, weight=site.bind(self.weight))

    reshape = squeeze = broadcast_in_dim = slice = dynamic_slice = rev = _moved
