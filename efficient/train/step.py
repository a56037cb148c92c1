"""Step: one update of a compressed model, as a pure function of its state and a batch.

    state = create(params, transform, optimizer, key=key)
    step = make_step(loss, optimizer, transform)
    state, metrics = step(state, batch)

The gradient is taken with respect to the weights that the model sees, and pulled back through
`transform.apply` to what the optimizer moves: a transform's `update` gets the dense gradient, in which
zeroed weights have entries too.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from efficient.core.freeze import Trainable
from efficient.core.transform import Key, State, Transform, is_float
from efficient.train.restart import Restarted, restart

Metrics = dict[str, jax.Array]
Loss = Callable[[Any, Any, Any, Key], tuple[jax.Array, tuple[Any, Mapping[str, jax.Array]]]]
Step = Callable[["TrainState", Any], tuple["TrainState", Metrics]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that a run needs to go on, but for its place in the data."""

    params: Any  # the weights that you train
    model_state: Any  # what the model remembers beside them: `batch_stats`, or {}
    compress: State  # of the transform
    opt_state: Any  # of the optimizer
    step: Any  # int32 [], optimizer steps taken
    key: Any  # typed PRNG key []; each step's is a function of this one and the step


def create(
    params: Any,
    transform: Transform,
    optimizer: optax.GradientTransformation,
    *,
    key: Key,
    model_state: Any = None,
    stats: Any = None,
    compress: State | None = None,
) -> TrainState:
    """The state before the first step.

    Its arrays are copies: a step gives its state's memory back, and `params` stay yours.

    Args:
      params: a pytree of arrays; only floating values are trained.
      transform: how the weights that the model sees are made from `params`.
      optimizer: the one given to `make_step`; it moves a `Trainable`.
      key: a typed key (`jax.random.key(seed)`), for `transform.init` and for every step.
      model_state: a pytree of what the model updates itself; None is {}.
      stats: statistics for `transform.init`, as `observe` returns them.
      compress: the transform's state, where it was made before; None makes it.

    Raises:
      ValueError: `key` is not a typed key.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(f"key must be a typed PRNG key, got {key.dtype!r}; use jax.random.key(seed).")
    init_key, run_key = jax.random.split(key)
    if compress is None:
        compress = transform.init(params, stats=stats, key=init_key)
    state = TrainState(
        params=params,
        model_state={} if model_state is None else model_state,
        compress=compress,
        opt_state=optimizer.init(_floats(Trainable(params, compress.train))),
        step=jnp.zeros((), jnp.int32),
        key=run_key,
    )
    return copied(state)


def copied(tree: Any) -> Any:
    """`tree` in memory of its own, with strong types."""
    return jax.tree.map(
        lambda v: jnp.array(v, dtype=v.dtype, copy=True) if hasattr(v, "dtype") else jnp.array(v), tree
    )


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    transform: Transform,
    *,
    restarted: Restarted | None = None,
) -> Step:
    """A jitted training step that takes over its state's memory: use the state that it returns.

    Args:
      loss: `loss(weights, model_state, batch, key) -> (scalar, (new_model_state, metrics))`. `weights` may
        hold leaves: call the model through `lift`. `metrics` is a dict of arrays.
      optimizer: moves the floating values of `Trainable(params, compress.train)`.
      transform: its `update` runs last, on the moved values, with the number of steps taken (1 after the
        first) and the gradient with respect to what `apply` returned.
      restarted: which params' moments the optimizer forgets, of the transform's states before and after its
        `update`, such as `regrown` of sparse training; None for none.

    Returns:
      `step(state, batch) -> (state, metrics)`; the metrics are the loss's, and `loss`.

    Raises:
      ValueError: at the first step, when the loss is not a scalar, or the state changes its structure, a
        shape or a dtype; or as `restart`.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        whole = Trainable(state.params, state.compress.train)
        moved = _floats(whole)

        def seen(floats: Trainable) -> Any:
            params, train = _filled(floats, whole)
            return transform.apply(params, State(train, state.compress.fixed))

        def scalar(weights: Any) -> Any:
            # Flax NNX writes to a variable only in the trace in which it was made: make them here.
            model_state = jax.tree.map(lambda v: v, state.model_state)
            return loss(weights, model_state, batch, jax.random.fold_in(state.key, state.step))

        weights, to_moved = jax.vjp(seen, moved)
        value, to_weights, (model_state, metrics) = jax.vjp(scalar, weights, has_aux=True)
        if jnp.shape(value) != ():
            raise ValueError(f"loss must return a scalar, got shape {jnp.shape(value)!r}; take its mean.")
        (dense_grads,) = to_weights(jnp.ones_like(value))
        updates, opt_state = optimizer.update(*to_moved(dense_grads), state.opt_state, moved)
        params, train = _filled(optax.apply_updates(moved, updates), whole)
        steps = state.step + 1
        compress = transform.update(State(train, state.compress.fixed), params, grads=dense_grads, step=steps)
        if restarted is not None:
            regrown = restarted(state.compress, compress) or {}
            opt_state = restart(opt_state, moved, {f"params/{path}": mask for path, mask in regrown.items()})
        new = TrainState(
            params=params,
            model_state=model_state,
            compress=compress,
            opt_state=opt_state,
            step=steps,
            key=state.key,
        )
        return _like(new, state), {**metrics, "loss": value}

    return jax.jit(step, donate_argnums=0)


def make_epoch(step: Step) -> Step:
    """Many steps in one call, for models so small that the calls themselves take the time.

    On a CPU only for models without convolutions: XLA runs their gradients many times slower inside a loop
    (github.com/jax-ml/jax/issues/12868).

    Returns:
      `epoch(state, batches) -> (state, metrics)`, jitted like a step: the arrays of `batches` have one more
      axis in front, the steps, and so have the metrics. Another number of steps compiles anew.
    """
    return jax.jit(lambda state, batches: jax.lax.scan(step, state, batches), donate_argnums=0)


def _floats(tree: Any) -> Any:
    """`tree` with None for what has no gradient: integers, booleans, keys."""
    return jax.tree.map(lambda v: v if is_float(v) else None, tree)


def _filled(floats: Any, whole: Any) -> Any:
    """`whole` with the values of `floats` where it has one."""
    old, treedef = jax.tree.flatten(whole)
    new = iter(jax.tree.leaves(floats))
    return jax.tree.unflatten(treedef, [next(new) if is_float(v) else v for v in old])


def _like(new: TrainState, old: TrainState) -> TrainState:
    """`new` with strong types, so that the next step is the same program; refuses what would be another."""
    for field in dataclasses.fields(old):
        before, after = (str(jax.tree.structure(getattr(state, field.name))) for state in (old, new))
        if after != before:
            raise ValueError(
                f"{field.name} must keep its structure over a step, got {after} for {before}; "
                "return what came in, updated."
            )

    def one(keys: Any, after: Any, before: Any) -> Any:
        made, kept = f"{after.dtype}{list(after.shape)}", f"{before.dtype}{list(before.shape)}"
        if made != kept:
            path = jax.tree_util.keystr(keys, simple=True, separator="/")
            raise ValueError(f"{path} must stay {kept} over a step, got {made!r}; cast or reshape it back.")
        return (
            after if jnp.issubdtype(before.dtype, jax.dtypes.extended) else jnp.asarray(after, before.dtype)
        )

    return jax.tree_util.tree_map_with_path(one, new, old)
