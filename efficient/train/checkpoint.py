"""Checkpoint: a whole run on disk, so that one killed at any moment goes on bit for bit.

A checkpoint holds the arrays of the `TrainState`, the place in the data and the history so far. It is
written beside its place and moved there when it is whole (orbax): a run killed meanwhile has the one before.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.train.step import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """What a checkpoint gives back."""

    state: TrainState
    position: tuple[int, ...]  # in the data, before the next batch
    history: list[dict[str, float]]  # the rows so far


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one run, in one folder that nothing else writes to."""

    folder: str | os.PathLike[str]  # made where it is missing; another run needs another one
    every_s: float = 30.0  # seconds at least between two in `fit`, >= 0; the last step is always kept
    most: int = 2  # how many to keep, >= 1

    def __post_init__(self) -> None:
        if not self.every_s >= 0:
            raise ValueError(f"every_s must be at least 0, got {self.every_s!r}; 0 keeps one at every row.")
        if self.most < 1:
            raise ValueError(
                f"most must be at least 1, got {self.most!r}; 2 also keep the one before the last."
            )

    def save(
        self, state: TrainState, *, position: Sequence[int], history: Sequence[Mapping[str, float]]
    ) -> None:
        """Writes a checkpoint of `state.step`; one of that step that is there already stays."""
        import orbax.checkpoint as ocp

        arrays = _arrays(state)
        facts = {
            "position": [int(number) for number in position],
            "history": [dict(row) for row in history],
            "arrays": _inventory(state),
        }
        with self._manager() as manager:
            manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave({name: v for name, v in arrays.items() if v.size}),
                    facts=ocp.args.JsonSave(facts),
                ),
            )

    def restore(self, like: TrainState) -> Kept | None:
        """The newest checkpoint; None where there is none.

        Args:
          like: a state of the same run, such as the one it began with. It gives the structure.

        Raises:
          ValueError: the checkpoint is damaged, or of a run with other arrays; the message names the first.
        """
        import orbax.checkpoint as ocp

        with self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return None
            place = Path(self.folder) / str(step)
            try:
                facts = manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore())).facts
                position, history = _checked(facts, _inventory(like))
                empty = {name: np.empty(v.shape, v.dtype) for name, v in _arrays(like).items()}
                wanted = ocp.args.StandardRestore({name: v for name, v in empty.items() if v.size})
                found = manager.restore(step, args=ocp.args.Composite(arrays=wanted)).arrays
            except _OtherRunError as error:
                raise ValueError(
                    f"{place} must be a checkpoint of this run, {error}; use another folder."
                ) from None
            except Exception as error:
                raise ValueError(
                    f"{place} must be a whole checkpoint, got {type(error).__name__}: {error}; remove it, "
                    "and the run goes on from the one before."
                ) from error
        return Kept(state=_state(like, {**empty, **found}), position=position, history=history)

    def _manager(self) -> Any:
        """Orbax's keeper of the folder; it clears what a killed run left unfinished."""
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.most, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        return ocp.CheckpointManager(Path(self.folder).absolute(), options=options)


class _OtherRunError(Exception):
    """A checkpoint of something else."""


def _is_key(value: Any) -> bool:
    """True of a typed PRNG key, which is stored as its words."""
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _arrays(state: TrainState) -> dict[str, np.ndarray]:
    """The arrays of a state on the host, by their number."""
    flat = jax.device_get([jax.random.key_data(v) if _is_key(v) else v for v in jax.tree.leaves(state)])
    return {f"{i:05d}": np.array(value) for i, value in enumerate(flat)}


def _inventory(state: TrainState) -> list[list[Any]]:
    """Path, dtype and shape of every array of a state, in order."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(state)
    return [
        [jax.tree_util.keystr(keys, simple=True, separator="/"), str(v.dtype), list(v.shape)]
        for keys, v in pairs
    ]


def _checked(facts: Any, inventory: list[list[Any]]) -> tuple[tuple[int, ...], list[dict[str, float]]]:
    """Position and history from a checkpoint's JSON, which may have been damaged or of another run."""
    if not isinstance(facts, dict) or facts.keys() != {"position", "history", "arrays"}:
        raise ValueError("its facts are not position, history and arrays.")
    position, history, arrays = facts["position"], facts["history"], facts["arrays"]
    if not isinstance(arrays, list) or not isinstance(history, list) or not isinstance(position, list):
        raise ValueError("position, history and arrays are not lists.")
    if not all(type(number) is int for number in position):
        raise ValueError("a position is not an integer.")
    for row in history:
        if not isinstance(row, dict) or not all(type(value) in (int, float) for value in row.values()):
            raise ValueError("a row of the history is not a number by name.")
    for here, there in zip(inventory, arrays, strict=False):
        if here != there:
            raise _OtherRunError(f"whose arrays go {here!r}, got {there!r}")
    if len(inventory) != len(arrays):
        raise _OtherRunError(f"which has {len(inventory)} arrays, got {len(arrays)!r}")
    return tuple(position), history


def _state(like: TrainState, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """A state of the structure and placement of `like` with other arrays."""
    old, treedef = jax.tree.flatten(like)

    def placed(value: np.ndarray, before: Any) -> Any:
        new = jnp.array(value)
        if _is_key(before):
            new = jax.random.wrap_key_data(new, impl=jax.random.key_impl(before))
        return jax.device_put(new, before.sharding) if len(before.sharding.device_set) > 1 else new

    return jax.tree.unflatten(treedef, [placed(arrays[f"{i:05d}"], v) for i, v in enumerate(old)])
