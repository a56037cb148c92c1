"""Laws: what every tier of every operation must pass. A class of tests inherits them and says of what.

Values are hypothesis's, shapes are a class's own few. Results of C++ are nan until they are written (see
tests/conftest.py), and so are those of interpreted Pallas kernels: what is left out would be seen.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from tests.kernels.packed_cases import needs_compiler

PLATFORMS = {"pallas_tpu": ("tpu", "tpu_custom_call"), "pallas_gpu": ("cuda", "triton")}
KINDS = ("normal", "zeros", "large", "small", "spikes", "whole")


class Draw:
    """Numbers of a kind, from a seed."""

    def __init__(self, seed, kind):
        self.random, self.kind = np.random.default_rng(seed), kind

    def __call__(self, *shape):
        """Float32."""
        x = self.random.normal(size=shape)
        x = {
            "normal": x,
            "zeros": np.zeros(shape),
            "large": x * 1e3,
            "small": x * 1e-6,
            "spikes": x * np.where(self.random.random(shape) < 0.05, 100, 1),
            "whole": np.round(2 * x),
        }[self.kind]
        return jnp.asarray(x, jnp.float32)

    def whole(self, low, high, *shape, dtype=np.int32):
        """Whole numbers from low to below high."""
        return jnp.asarray(self.random.integers(low, high, shape), dtype)


class KernelLaws:
    """What a class must say."""

    native: ClassVar = ("cpu", "cpu_portable")  # tiers in C++
    pallas: ClassVar = ("pallas_tpu", "pallas_gpu")
    cases: ClassVar = {}  # names of shapes, and what `arguments` makes arguments of
    moving: ClassVar = ("x",)  # arguments that have a gradient
    rows: ClassVar = ("x",)  # arguments that are cut along their first axis, over devices and by vmap

    @classmethod
    def all_tiers(cls):
        native = [pytest.param(tier, marks=needs_compiler) for tier in cls.native]
        return ["reference", *native, *cls.pallas]

    def arguments(self, case, draw):
        """Arrays by name, and options."""
        raise NotImplementedError

    def run(self, arrays, options, implementation):
        """The operation."""
        raise NotImplementedError

    def exact(self, arrays, options):
        """Its result in float64 by numpy alone, and what rounding may come to."""
        raise NotImplementedError

    def close(self, found, arrays, options):
        want, slack = self.exact(arrays, options)
        assert found.shape == want.shape
        off = np.abs(np.asarray(found, np.float64) - want) - slack
        assert (off <= 0).all(), (float(off.max()), np.argwhere(~(off <= 0))[:3])

    def made(self, case, seed=0, kind="normal"):
        return self.arguments(self.cases[case], Draw(seed, kind))

    def first(self, seed=0):
        return self.made(next(iter(self.cases)), seed)

    def test_it_is_exact(self, case, tier):
        @settings(max_examples=8, deadline=None, derandomize=True, database=None)
        @given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
        def law(seed, kind):
            arrays, options = self.made(case, seed, kind)
            try:
                found = self.run(arrays, options, tier)
            except NotImplementedError:
                assert tier in self.pallas
                return
            self.close(found, arrays, options)

        law()

    def test_its_gradient_is_the_references(self, tier):
        if not self.moving:
            return
        arrays, options = self.first()

        def loss(moving, tier):
            out = self.run({**arrays, **moving}, options, tier)
            return jnp.sum(jnp.sin(out.astype(jnp.float32)))

        moving = {name: arrays[name] for name in self.moving}
        ours, theirs = (
            jax.jit(jax.grad(functools.partial(loss, tier=t)))(moving) for t in (tier, "reference")
        )
        for name in moving:
            size = np.abs(np.asarray(theirs[name])).max()
            assert np.abs(np.asarray(ours[name] - theirs[name])).max() <= 2e-4 * size, name

    def test_vmap_and_scan_are_a_loop(self, tier):
        arrays, options = self.first()
        other, _ = self.first(seed=1)
        stack = {name: jnp.stack([arrays[name], other[name]]) for name in self.rows}
        run = lambda own: self.run({**arrays, **own}, options, tier)  # noqa: E731
        mapped = jax.jit(jax.vmap(run))(stack)
        _, scanned = jax.lax.scan(lambda c, own: (c, run(own)), 0, stack)
        for i, own in enumerate((arrays, {**arrays, **{name: other[name] for name in self.rows}})):
            self.close(mapped[i], own, options)
            self.close(scanned[i], own, options)

    def test_devices_have_rows_each(self, tier):
        if tier in self.pallas:
            return  # interpreted programs are not cut
        arrays, options = self.first()
        double = {name: jnp.concatenate([arrays[name]] * 2) for name in self.rows}
        rest = {name: value for name, value in arrays.items() if name not in self.rows}
        run = jax.shard_map(
            lambda own, rest: self.run({**own, **rest}, options, tier),
            mesh=jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,)),
            in_specs=(P("rows"), P()),
            out_specs=P("rows"),
            check_vma=False,
        )
        found = jax.jit(run)(double, rest)
        for half in np.split(np.asarray(found), 2):
            self.close(half, arrays, options)

    def test_they_lower_for_their_platform(self, case, tier):
        arrays, options = self.made(case)
        platform, call = PLATFORMS[tier]
        for dtype in (jnp.float32, jnp.bfloat16):
            own = {n: a.astype(dtype) if n in self.moving else a for n, a in arrays.items()}
            run = jax.jit(lambda arrays: self.run(arrays, options, tier))
            try:
                text = run.trace(own).lower(lowering_platforms=(platform,)).as_text()
            except NotImplementedError as error:
                if "leave implementation out" not in str(error):
                    raise
                continue
            assert call in text
