"""Features: what the products of chosen weights take in or give out, by path, of any model, unedited.

    out, found = features(model.apply, where="**/conv2/kernel")(params, x)
    loss = task(out) + distill.attention(found["params/conv2/kernel"], teacher_features)

Like `observe`, by the interpreter; but the arrays themselves, through which gradients flow.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.interpret import Frame
from efficient.core.leaf import leaf, static
from efficient.core.lift import evaluate
from efficient.core.paths import Where, flatten, select, unflatten
from efficient.core.tap import Atom, Tap
from efficient.core.transform import dense_value, is_float


@jax.tree_util.register_pytree_node_class
class Captured:
    """One array on its way out of the program."""

    def __init__(self, value: Any, path: str) -> None:
        self.value, self.path = value, path

    def tree_flatten(self) -> tuple[tuple[Any], str]:
        """As JAX asks."""
        return (self.value,), self.path

    @classmethod
    def tree_unflatten(cls, path: str, children: tuple[Any]) -> "Captured":
        """As JAX asks."""
        return cls(children[0], path)

    def merge(self, other: "Captured") -> "Captured":
        """Two products of one weight have two features.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            f"{self.path!r} must be used once to have a feature, got a second product of "
            f"{other.value.shape}; choose another weight."
        )

    def identity(self) -> "Captured":
        """A loop would have one feature a turn.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{self.path!r} is used inside a loop and not sliced by it: its features have no one value; "
            "choose a weight that the loop scans over."
        )


@leaf
class FeatureTap(Tap):
    """A weight whose products hand out their input or output."""

    side: str = static()

    def dot_general(self, site: Any) -> Any:
        """Rule: the product, as it is, and one array handed out."""
        out = site.bind(self.value)
        site.emit(Captured(out if self.side == "outputs" else site.other, site.path))
        return out

    conv_general_dilated = dot_general

    def gather(self, site: Any) -> Any:
        """Rule: a look-up is no product."""
        return NotImplemented


def features(
    fn: Callable[..., Any], *, where: Where = "**/kernel", side: str = "outputs"
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """`fn`, returning also what the products of the chosen weights give out, or take in.

    Args:
      fn: any JAX function of params, such as `model.apply`.
      where: which weights, as `paths.matches` takes it.
      side: "outputs" of the products, before any bias, or their "inputs".

    Returns:
      `(params, *args, **kwargs) -> (out, {path: array})`; it composes with `jit`, `grad` and `vmap`. Weights
      that a scan slices have a leading axis of layers. A chosen value that no product consumes is left out.

    Raises:
      ValueError: another side; at the call, when `where` chooses nothing or nothing that a product consumes,
        or a weight is used twice.
      NotImplementedError: at the call, a chosen weight is used in a loop that does not slice it.

    Example:
      >>> import numpy as np
      >>> tapped = features(lambda p, x: 2 * (x @ p["a"]), where="a")
      >>> out, found = tapped({"a": np.eye(2)}, np.ones((1, 2)))
      >>> found["a"].tolist()
      [[1.0, 1.0]]
    """
    if side not in ("outputs", "inputs"):
        raise ValueError(f"side must be 'outputs' or 'inputs', got {side!r}; outputs are usual.")

    @functools.wraps(fn)
    def with_features(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        by_path, treedef = flatten(params)
        taps = {path: _tapped(v, side) for path, v in select(params, where).items() if is_float(v)}
        frame = Frame(observing=True)
        out = evaluate(fn, (unflatten(treedef, {**by_path, **taps}), *args), kwargs, frame)
        if not frame.emitted:
            raise ValueError(
                f"where must choose a weight that a product consumes, got {where!r}, of {len(taps)} that "
                "none does; choose others."
            )
        return out, {path: one.value for path, one in frame.emitted.items()}

    return with_features


def _tapped(value: Any, side: str) -> FeatureTap:
    """A tap on a weight."""
    whole = jnp.asarray(dense_value(value))
    layout = tuple((Atom(i - whole.ndim, 1, n),) for i, n in enumerate(whole.shape))
    return FeatureTap(value=whole, layout=layout, asked=(), side=side)
