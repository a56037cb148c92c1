"""Prices: what a shrunk model costs, against the shrunk model itself."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import cost
from efficient.core.dependencies import dependencies
from efficient.core.measure import DeviceProfile
from efficient.core.paths import map_with_path
from efficient.core.resize import resized
from efficient.models import zoo
from efficient.prune import Price
from efficient.prune.price import remembered
from efficient.prune.prices import macs, measured_ms, predicted_ms, stored_bytes
from efficient.quantize import linear

KEY = jax.random.key(0)
MODELS = {
    "lenet5": {},
    "resnet20": {"width": 0.25},
    "mobilenet_v2": {"width": 0.35, "resolution": 32},
}
PROFILE = DeviceProfile(name="device", peak_flops=1e9, bandwidth=1e9)


@functools.cache
def traced(name):
    """A model's function, shapes of its variables, its groups, and an input."""
    model, x = zoo.get(name, **MODELS[name])
    variables = jax.eval_shape(model.init, KEY, x)
    return model.apply, variables, dependencies(model.apply, variables, x), x


def draws(found, n):
    """Some counts."""
    draw = np.random.default_rng(0)
    return [{k: int(draw.integers(1, g.size + 1)) for k, g in found.free.items()} for _ in range(n)]


def shrunk(fn, variables, found, counts):
    """The function and the shapes that are left."""
    keep = {name: np.arange(found.groups[name].size) < count for name, count in counts.items()}
    shapes = found.sizes_left(counts)
    small = map_with_path(lambda path, v: jax.ShapeDtypeStruct(shapes[path], v.dtype), variables)
    return resized(fn, found, keep), small


def test_by_hand():
    # 4 rows through dense layers 3 -> a -> b -> 2: 4 (3 a + a b + 2 b) MACs; float32 and a bias of b.
    p = {"a": jnp.ones((3, 5)), "b": jnp.ones((5, 6)), "c": jnp.ones((6, 2)), "shift": jnp.ones(6)}
    fn = lambda p, x: (jnp.tanh(x @ p["a"]) @ p["b"] + p["shift"][None]) @ p["c"]  # noqa: E731
    found = dependencies(fn, p, jnp.ones((4, 3)))
    work, size = macs(found, fn, p, jnp.ones((4, 3))), stored_bytes(found, p)
    counts = {"a:1": 2, "b:1": 3}
    assert work(counts) == 4 * (3 * 2 + 2 * 3 + 3 * 2)
    assert size(counts) == 4 * (3 * 2 + 2 * 3 + 3 * 2 + 3)
    assert work({}) == 4 * (15 + 30 + 12)
    assert (work.unit, size.unit) == ("MACs", "bytes")
    assert repr(work) == "<Price: macs(conv_fc), MACs>"


@pytest.mark.parametrize("name", MODELS)
def test_macs_and_bytes_are_those_of_the_shrunk_model(name):
    fn, variables, found, x = traced(name)
    work, size = macs(found, fn, variables, x), stored_bytes(found, variables)
    for counts in draws(found, 2):
        run, small = shrunk(fn, variables, found, counts)
        assert work(counts) == cost(run, small, x).macs
        assert size(counts) == sum(4 * v.size for v in jax.tree.leaves(small))


def test_the_labs_count_under_torchprofile():
    """Lab 1: 30 % of the channels of all convolutions but the last; norms and the last mean count."""
    model, x = zoo.get("lab_vgg")
    variables = jax.eval_shape(model.init, KEY, x)
    found = dependencies(model.apply, variables, x)
    counts = {name: round(0.7 * g.size) for name, g in found.free.items() if "layer7" not in name}
    assert macs(found, model.apply, variables, x, convention="torchprofile")(counts) == 305_388_064
    assert macs(found, model.apply, variables, x)(counts) == 305_097_920


def test_products_of_two_activations_are_taken_whole():
    p = {"q": jnp.ones((3, 4)), "k": jnp.ones((3, 4))}
    fn = lambda p, x: (x @ p["q"]) @ (x @ p["k"]).T  # noqa: E731
    found = dependencies(fn, p, jnp.ones((2, 3)))
    (name,) = found.free
    for convention, products in (("conv_fc", 0), ("matmul", 2 * 2 * 4)):
        price = macs(found, fn, p, jnp.ones((2, 3)), convention=convention)
        assert price({name: 1}) == 2 * (2 * 3 * 1) + products


def test_more_channels_never_cost_less():
    fn, variables, found, x = traced("resnet20")
    prices = [macs(found, fn, variables, x), stored_bytes(found, variables)]
    for price, counts in itertools.product(prices, draws(found, 3)):
        for name, group in found.free.items():
            if counts[name] < group.size:
                assert price({**counts, name: counts[name] + 1}) > price(counts)


def test_packed_leaves_are_priced_by_their_bytes():
    p = {"a": jnp.ones((32, 8)), "b": jnp.ones((8, 2))}
    found = dependencies(lambda p, x: x @ p["a"] @ p["b"], p, jnp.ones((1, 32)))
    packed = linear(8).pack(p, linear(8).init(p))
    size = stored_bytes(found, packed)
    whole = sum(v.nbytes for v in packed.values())
    assert size({}) == whole < 4 * (256 + 16)
    assert size({"a:1": 4}) == whole / 2


def test_predicted_ms_is_the_rooflines_of_the_shrunk_model():
    fn, variables, found, x = traced("lenet5")
    price = predicted_ms(found, fn, variables, x, profile=PROFILE)
    (counts,) = draws(found, 1)
    run, small = shrunk(fn, variables, found, counts)
    assert price(counts) == PROFILE.predict_ms(cost(run, small, x).equations)
    assert price(counts) < price({})
    assert repr(price) == "<Price: predicted_ms(device), ms>"


def test_measured_ms_is_measured_once_for_each_counts():
    p = {"a": jnp.ones((3, 5)), "b": jnp.ones((5, 2))}
    fn = lambda p, x: x @ p["a"] @ p["b"]  # noqa: E731
    found = dependencies(fn, p, jnp.ones((4, 3)))
    price = measured_ms(found, fn, p, jnp.ones((4, 3)), repeats=3)
    first = price({"a:1": 2})
    assert first > 0
    assert [price({"a:1": 2}) for _ in range(5)] == [first] * 5  # measured anew they would differ
    assert price({"a:1": 5}) == price({})  # the same counts, written out


def test_what_is_remembered_belongs_to_one_object():
    p = {"a": jnp.ones((3, 5)), "b": jnp.ones((5, 2))}
    found = dependencies(lambda p, x: x @ p["a"] @ p["b"], p, jnp.ones((4, 3)))
    draw = iter(range(9))
    first, second = (remembered(found, lambda counts: next(draw)) for _ in range(2))
    assert [first({}), first({}), second({}), first({"a:1": 1})] == [0, 0, 1, 2]


def test_any_function_is_a_price():
    price = Price(lambda counts: 2.0 * sum(counts.values()), unit="J", name="energy")
    assert price({"a": 3}) == 6.0
    assert repr(price) == "<Price: energy, J>"
    assert repr(Price(len, name="groups")) == "<Price: groups>"


@pytest.mark.parametrize("counts", [{"a:1": 0}, {"a:1": 6}, {"z": 1}])
@pytest.mark.parametrize("make", ["macs", "bytes", "predicted", "measured"])
def test_counts_that_cannot_be_are_refused(make, counts):
    p, x = {"a": jnp.ones((3, 5)), "b": jnp.ones((5, 2))}, jnp.ones((4, 3))
    fn = lambda p, x: x @ p["a"] @ p["b"]  # noqa: E731
    found = dependencies(fn, p, x)
    price = {
        "macs": lambda: macs(found, fn, p, x),
        "bytes": lambda: stored_bytes(found, p),
        "predicted": lambda: predicted_ms(found, fn, p, x, profile=PROFILE),
        "measured": lambda: measured_ms(found, fn, p, x),
    }[make]()
    with pytest.raises(ValueError, match=r"counts\['a:1'\] must be a whole number|counts must name groups"):
        price(counts)


def test_wrong_options_are_refused():
    p, x = {"a": jnp.ones((3, 5)), "b": jnp.ones((5, 2))}, jnp.ones((4, 3))
    fn = lambda p, x: x @ p["a"] @ p["b"]  # noqa: E731
    found = dependencies(fn, p, x)
    with pytest.raises(ValueError, match=r"convention must be one of .* got 'flops'"):
        macs(found, fn, p, x, convention="flops")
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        measured_ms(found, fn, p, x, repeats=0)({})
