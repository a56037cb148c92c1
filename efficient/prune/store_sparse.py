"""Sparse: stores what earlier transforms have pruned in a smaller format.

    chain(magnitude(0.9), sparse("csr"))                  # as many as stay; `pack` is not traced
    chain(magnitude(0.9), sparse("csr", sparsity=0.9))    # room for one in ten: for plans, scans, jit
    chain(prune(absolute(), pattern=n_m(2, 4)), sparse("n_m"))

How many weights stay is data, and a program's shapes are not. So `sparsity` says at least how sparse each
weight is; then shapes are known beforehand, and a weight that does not fit is refused, never cut.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.paths import map_with_path
from efficient.core.transform import State, Transform, dense_value, is_float, keep_state, recipe
from efficient.prune.leaves.bitmap import BitmapLeaf
from efficient.prune.leaves.block_sparse import BlockSparseLeaf
from efficient.prune.leaves.csr import CSRLeaf
from efficient.prune.leaves.n_m import NMLeaf
from efficient.prune.leaves.relative_index import RelativeIndexLeaf
from efficient.prune.leaves.sparse import SparseLeaf, padded

Format = Literal["bitmap", "csr", "csc", "n_m", "block", "relative"]
# The leaf, what the name says of it, and what may be said besides.
FORMATS: dict[str, tuple[type[SparseLeaf], dict[str, Any], tuple[str, ...]]] = {
    "bitmap": (BitmapLeaf, {}, ("sparsity",)),
    "csr": (CSRLeaf, {"axis": 0}, ("sparsity",)),
    "csc": (CSRLeaf, {"axis": 1}, ("sparsity",)),
    "n_m": (NMLeaf, {}, ("n", "m", "axis")),
    "block": (BlockSparseLeaf, {}, ("sparsity", "block")),
    "relative": (RelativeIndexLeaf, {}, ("sparsity", "bits")),
}


@recipe
def sparse(
    format: Format,
    *,
    sparsity: float | None = None,
    n: int | None = None,
    m: int | None = None,
    axis: int | None = None,
    block: tuple[int, int] | None = None,
    bits: int | None = None,
) -> Transform:
    """Packs every weight in a sparse leaf; `apply` changes nothing, and there is no state.

    A zero of either sign is absent. A leaf that comes in is made dense first.

    Args:
      format: "bitmap", one bit a place; "csr" and "csc", compressed rows and columns; "n_m", n of m; "block",
        blocks; "relative", EIE's gaps of a few bits.
      sparsity: of every format but "n_m": at least this fraction of each weight is zero (of "block": of its
        blocks), in [0, 1); the leaf has room for the others, whatever stays. None: as many as stay are
        stored, and `pack` needs concrete values.
      n: of "n_m": how many of a group are stored, 2 unless given.
      m: of "n_m": how many stand in a group, 4 unless given.
      axis: of "n_m": along which groups run, -2 unless given.
      block: of "block": height and width, (4, 4) unless given.
      bits: of "relative": of a gap, 4 unless given.

    With `sparsity`, and in "n_m", `pack` may be traced: the host then packs, called back from the program.

    Raises:
      ValueError: at once, an unknown format, or an option that is out of range or of another format; at
        `init`, a weight without the axes that the format needs; at `pack`, a weight that is not as sparse
        (in a program perhaps a `jax.errors.JaxRuntimeError` in the same words), or tracers and no `sparsity`.

    Example:
      >>> t = sparse("bitmap")
      >>> params = {"kernel": jnp.zeros((8, 4)).at[0].set(1.0)}
      >>> t.pack(params, t.init(params))["kernel"].nbytes  # 4 float32 and 32 bits, of 128 bytes
      20
    """
    given = {"sparsity": sparsity, "n": n, "m": m, "axis": axis, "block": block, "bits": bits}
    given = {name: value for name, value in given.items() if value is not None}
    cls, options = _chosen(format, given)
    own = {**options, **{name: value for name, value in given.items() if name != "sparsity"}}
    sized = {"sparsity": sparsity or 0.0} if "sparsity" in FORMATS[format][2] else {}
    is_static = sparsity is not None or not sized
    cls.room((1,) * 8, jnp.float32, path="params", **sized, **own)  # options out of range

    def init(params: Any, *, stats: Any = None, key: Any = None) -> State:
        del stats, key

        def check(path: str, value: Any) -> Any:
            if is_float(value):
                cls.room(value.shape, value.dtype, path=path, **sized, **own)
            return value

        map_with_path(check, params)
        return State()

    def store(path: str, value: Any) -> Any:
        if not is_float(value):
            return value
        value = dense_value(value)
        room = cls.room(value.shape, value.dtype, path=path, **sized, **own)

        def on_host(array: Any) -> Any:
            made = cls.from_dense(np.asarray(array), path=path, **own)
            return padded(made, room, path) if is_static else made

        if not isinstance(value, jax.core.Tracer):
            return jax.tree.map(jnp.asarray, on_host(value))
        if not is_static:
            raise ValueError(
                f"sparsity must be given where {path!r} is traced (a plan, stacked, jit), got None; "
                f"write sparse({format!r}, sparsity=...), the least that it has."
            )
        return jax.pure_callback(on_host, room, value, vmap_method="sequential")

    return Transform(
        init, keep_state, lambda params, state: params, lambda params, state: map_with_path(store, params)
    )


def _chosen(format: str, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The leaf class of a format, and the options that its name says."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}; choose one.")
    cls, options, allowed = FORMATS[format]
    for name, value in given.items():
        if name not in allowed:
            raise ValueError(
                f"{name} must be no option of {format!r}, which has {', '.join(allowed)}, got {value!r}; "
                "leave it out."
            )
    if not 0 <= given.get("sparsity", 0.0) < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {given['sparsity']!r}; 0.9 is one weight in ten.")
    return cls, options
