import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxpr_as_fun

from efficient.core.cost import Weight, cost
from efficient.models import zoo
from efficient.models.lab_vgg import LabVGG


def shape(*dims, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(dims, dtype)


@functools.cache
def traced(name, options=()):
    """A zoo model as a program that is quick to trace again, with the shapes of its variables and input."""
    module, example = zoo.get(name, **dict(options))
    variables = jax.eval_shape(module.init, jax.random.key(0), example)
    run = jaxpr_as_fun(jax.make_jaxpr(module.apply)(variables, example))
    return lambda *args: run(*jax.tree.leaves(args)), variables, example


def of_module(module, x, **options):
    """The report of a Linen module on inputs of this shape."""
    return cost(module.apply, jax.eval_shape(module.init, jax.random.key(0), x), x, **options)


def charged(report, kind):
    return [(e.path, e.macs) for e in report.equations if e.kind == kind]


# --- published numbers -------------------------------------------------------------------------------

SMALL = (("width", 0.35), ("resolution", 144), ("head", "scale"))


@pytest.mark.parametrize(
    ("name", "options", "macs", "params"),
    [
        ("mobilenet_v2", (), 300_774_272, 3_504_872),
        ("mobilenet_v2", SMALL, 23_499_152, 750_280),
        ("mobilenet_v1", (), 568_740_352, None),
        ("efficientnet_lite0", (), 385_187_552, 4_652_008),
        ("resnet50", (), None, 25_557_032),
        ("lab_vgg", (), 605_754_368, 9_228_362),
        ("lenet_300_100", (), 266_200, 266_610),
        ("lenet5", (), None, 431_080),
    ],
)
def test_published_macs_and_params(name, options, macs, params):
    report = cost(*traced(name, options))
    assert macs in (None, report.macs)
    assert params in (None, report.params)
    assert report.flops == 2 * report.macs
    assert report.stored_bytes == 4 * report.params
    assert sum(report.macs_by_path.values()) == report.macs
    assert sum(layer.macs for layer in report.layers.values()) == report.macs
    assert sum(layer.params for layer in report.layers.values()) == report.params
    assert report.notes == ()


@pytest.mark.parametrize(
    ("name", "options", "naive", "in_place"),
    [
        ("mobilenet_v2", (), 1_505_280, 1_404_928),  # 112*112*96 + 56*56*96; 112*112*(16 + 96)
        ("mobilenet_v2", SMALL, 311_040, 290_304),  # 303.75 and 283.5 KiB
        ("efficientnet_lite0", (), 1_505_280, 1_404_928),
    ],
)
def test_published_peak_of_int8_activations(name, options, naive, in_place):
    model = traced(name, options)
    assert cost(*model, activation_dtype=jnp.int8).peak_activation_bytes == naive
    report = cost(*model, activation_dtype=jnp.int8, in_place_depthwise=True)
    assert report.peak_activation_bytes == in_place


def test_channel_pruned_vgg_under_four_conventions():
    """Every channel count but the last is multiplied by 0.7 and rounded."""
    pruned = LabVGG(stages=((45, 90), (179, 179), (358, 358), (358, 512)))
    reports = {
        c: of_module(pruned, shape(1, 32, 32, 3), convention=c) for c in ("conv_fc", "torchprofile", "thop")
    }
    assert reports["conv_fc"].macs == 305_097_920
    assert sum(macs for _, macs in charged(reports["torchprofile"], "norm")) == 289_632
    assert [macs for _, macs in charged(reports["torchprofile"], "pool")] == [512]
    assert reports["torchprofile"].macs == 305_388_064
    assert reports["thop"].macs == 305_097_920 + 4 * 289_632
    assert round(reports["conv_fc"].params / 1e6, 2) == 5.01


def test_dense_vgg_under_torchprofile():
    # BN: 32*32*(64 + 128) + 16*16*(256 + 256) + 8*8*(512 + 512) + 4*4*(512 + 512) = 409,600; mean: 512
    assert cost(*traced("lab_vgg"), convention="torchprofile").macs == 605_754_368 + 409_600 + 512


def test_training_mode_counts_the_same_norms():
    module, variables, x = LabVGG(), traced("lab_vgg")[1], shape(1, 32, 32, 3)

    def train(variables, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    assert cost(train, variables, x, convention="torchprofile").macs == 606_164_480


def test_scanned_and_rematerialised_layers_cost_what_unrolled_ones_do():
    reports = [
        cost(*traced("decoder_tiny", options), convention="torchprofile")
        for options in ((), (("scan_layers", True),), (("scan_layers", True), ("remat", True)))
    ]
    assert len({(r.macs, r.params, r.peak_activation_bytes) for r in reports}) == 1


# --- MACs by hand -------------------------------------------------------------------------------------


def conv(x, w, *, padding="VALID", **options):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=layout, **options)


@pytest.mark.parametrize(
    ("fn", "weight", "x", "macs"),
    [
        # 4*4 outputs, 6 channels, each 3*3*5 products
        (lambda w, x: conv(x, w), (3, 3, 5, 6), (1, 6, 6, 5), 16 * 6 * 45),
        # two groups: each output sees 2 of the 4 channels
        (lambda w, x: conv(x, w, feature_group_count=2), (3, 3, 2, 6), (1, 6, 6, 4), 16 * 6 * 18),
        # a dilated window spans 5 pixels: 2*2 outputs
        (lambda w, x: conv(x, w, rhs_dilation=(2, 2)), (3, 3, 5, 6), (1, 6, 6, 5), 4 * 6 * 45),
        # a transposed convolution is counted on its output grid: 11 - 2 = 9
        (
            lambda w, x: conv(x, w, lhs_dilation=(2, 2), padding=[(0, 0)] * 2),
            (3, 3, 5, 6),
            (1, 6, 6, 5),
            81 * 6 * 45,
        ),
        # two groups of the batch: 2 images, each output sees all 5 channels
        (lambda w, x: conv(x, w, batch_group_count=2), (3, 3, 5, 6), (4, 6, 6, 5), 2 * 16 * 6 * 45),
        (lambda w, x: x @ w, (5, 7), (2, 3, 5), 2 * 3 * 5 * 7),
        (lambda w, x: jnp.einsum("bie,beo->bio", x, w), (2, 5, 7), (2, 3, 5), 2 * 3 * 5 * 7),
        (lambda w, x: jax.lax.ragged_dot(x, w, jnp.array([1, 3])), (2, 5, 7), (4, 5), 4 * 5 * 7),
        (lambda w, x: jax.lax.scan(lambda c, one: (c @ one, c), x, w)[0], (3, 5, 5), (2, 5), 3 * 2 * 25),
        (lambda w, x: jax.lax.fori_loop(0, 4, lambda i, c: c @ w[i], x), (4, 5, 5), (2, 5), 4 * 2 * 25),
        (lambda w, x: jax.checkpoint(lambda v: jnp.tanh(v @ w))(x), (5, 7), (2, 5), 2 * 5 * 7),
        (lambda w, x: jax.jit(lambda w, x: jax.jit(jnp.matmul)(x, w))(w, x), (5, 7), (2, 5), 2 * 5 * 7),
        (lambda w, x: jax.vmap(lambda v: v @ w)(x), (5, 7), (2, 5), 2 * 5 * 7),
    ],
)
def test_macs_by_hand(fn, weight, x, macs):
    report = cost(fn, {"w": shape(*weight)}["w"], shape(*x))
    assert report.macs == macs
    assert report.macs_by_path == {"params": macs}


@pytest.mark.parametrize(
    ("fn", "x"),
    [
        (lambda w, x: x @ w.reshape(15, 15), (4, 15)),
        (lambda w, x: jnp.einsum("hid,hjd->hij", x @ w.reshape(15, 15), x), (2, 4, 15)),
        (lambda w, x: conv(x, w.reshape(3, 3, 5, 5)), (2, 6, 6, 5)),
        (lambda w, x: conv(x, w[:45].reshape(3, 3, 1, 5), feature_group_count=5), (2, 6, 6, 5)),
    ],
)
def test_flops_equal_those_that_xla_counts(fn, x):
    """Unpadded contractions alone, so that XLA, which leaves padding out, has to agree."""
    w, x = shape(225), shape(*x)
    assert cost(fn, w, x, convention="matmul").flops == jax.jit(fn).lower(w, x).cost_analysis()["flops"]


def test_while_is_counted_once_and_said_so():
    def fn(w, x):
        return jax.lax.while_loop(lambda c: (c @ w).sum() < 9, lambda c: c @ w, x)

    report = cost(fn, shape(5, 5), shape(2, 5))
    assert report.macs == 2 * (2 * 25)  # the test's product and the body's
    assert report.notes == ("while at the top: trip count unknown, counted once",)


def test_cond_counts_its_dearest_branch_and_says_so():
    def fn(w, x):
        return jax.lax.cond(x.sum() > 0, lambda v: v @ w @ w, lambda v: v @ w, x)

    report = cost(fn, shape(5, 5), shape(2, 5))
    assert report.macs == 2 * (2 * 25)
    assert report.notes == ("cond at the top: the branch of most MACs is counted",)


def test_opaque_calls_are_said_to_be_opaque():
    def fn(w, x):
        return jax.pure_callback(lambda v: v, x, x @ w)

    report = cost(fn, shape(5, 5), shape(2, 5))
    assert report.macs == 50
    assert report.notes == ("pure_callback at the top: opaque, its MACs are not counted",)


def test_sharded_program_counts_all_devices():
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.PartitionSpec("rows")

    def fn(w, x):
        mapped = jax.shard_map(lambda w, x: x @ w, mesh=mesh, in_specs=(jax.P(), rows), out_specs=rows)
        return mapped(w, x)

    report = cost(fn, shape(5, 7), shape(4, 5))
    assert report.macs == 4 * 5 * 7
    assert "all 2 devices" in report.notes[0]


@jax.custom_vjp
def doubled(w, x):
    return 2 * (x @ w)


doubled.defvjp(lambda w, x: (doubled(w, x), (w, x)), lambda saved, g: (saved[1].T @ g, g @ saved[0].T))


@pytest.mark.parametrize("fn", [lambda w, x: 2 * (x @ w), doubled])
def test_gradients_cost_two_more_products(fn):
    """Forward x w; then g wᵀ, with the weight, and xᵀ g, of two activations."""
    grads = jax.grad(lambda w, x: (fn(w, x) ** 2).sum(), argnums=(0, 1))
    assert cost(fn, shape(5, 7), shape(2, 5)).macs == 70
    assert cost(grads, shape(5, 7), shape(2, 5)).macs == 2 * 70
    assert cost(grads, shape(5, 7), shape(2, 5), convention="matmul").macs == 3 * 70


def test_nothing_is_computed_or_allocated():
    huge = cost(lambda w, x: x @ w, shape(2**20, 2**20), shape(2**20, 2**20))
    assert huge.macs == 2**60
    assert huge.stored_bytes == 2**42


# --- attribution --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        lambda p, x: x @ p["w"].reshape(5, 10)[:, :5].T,
        lambda p, x: (
            x @ jnp.squeeze(p["w"].reshape(2, 1, 5, 5)[:1], (0, 1)).astype(jnp.bfloat16).astype(x.dtype)
        ),
        lambda p, x: x @ (p["w"].reshape(10, 5)[:5] * (p["w"].reshape(10, 5)[5:] > 0)),
        lambda p, x: x @ jnp.pad(jnp.broadcast_to(p["w"][:4], (5, 4)), ((0, 0), (0, 1)))[::-1],
        lambda p, x: x @ (p["w"][:25].reshape(5, 5) + p["b"][None]),  # the larger of two weights
        lambda p, x: jax.lax.scan(lambda c, w: (c @ w.reshape(5, 5), None), x, p["w"].reshape(2, 25))[0],
        lambda p, x: jax.lax.fori_loop(0, 2, lambda i, c: c @ p["w"].reshape(2, 5, 5)[i], x),
        lambda p, x: jax.jit(lambda w, x: x @ jax.lax.stop_gradient(w.reshape(10, 5)[:5]))(p["w"], x),
        lambda p, x: jnp.einsum(
            "nd,ndk->nk", x, p["w"].reshape(2, 5, 5)[x[:, 0].astype(int)]
        ),  # chosen experts
        lambda p, x: jax.lax.cond(x[0, 0] > 0, lambda w: x @ w.reshape(10, 5)[:5], lambda w: x, p["w"]),
    ],
)
def test_weight_is_followed(fn):
    report = cost(fn, {"w": shape(50), "b": shape(5)}, shape(2, 5))
    assert set(report.macs_by_path) == {"w"}


def test_activation_products_go_by_their_scope():
    def fn(w, x):
        with jax.named_scope("attention"):
            return (x @ w) @ x.T

    assert cost(fn, shape(5, 5), shape(2, 5)).macs == 50
    report = cost(fn, shape(5, 5), shape(2, 5), convention="matmul")
    assert report.macs_by_path == {"params": 50, "attention": 20}
    assert report.layers["attention"].macs == 20


def test_an_activation_scaled_by_a_weight_is_no_weight():
    """Learned temperatures must not turn a product of queries and keys into one with a weight."""
    report = cost(lambda t, x: (x * t) @ x.T, shape(1, 5), shape(2, 5))
    assert report.macs == 0


def test_embedding_and_its_tied_head():
    module = nn.Embed(11, 6)
    report = of_module(module, shape(2, 3, dtype=jnp.int32))
    assert report.macs == 0
    assert report.params == 66
    tied = cost(
        lambda p, ids: module.apply(p, module.apply(p, ids), method="attend"),
        {"params": {"embedding": shape(11, 6)}},
        shape(2, 3, dtype=jnp.int32),
    )
    assert tied.macs_by_path == {"params/embedding": 6 * 6 * 11}


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(nnx.relu(self.bn(self.conv(x))).mean((1, 2))))


def test_nnx_state():
    graph, state = nnx.split(nnx.eval_shape(lambda: NnxNet(nnx.Rngs(0))))
    report = cost(lambda s, x: nnx.merge(graph, s)(x), state, shape(1, 4, 4, 3), convention="torchprofile")
    assert report.macs_by_path == {
        "conv/kernel": 16 * 8 * 27,
        "bn/scale": 128,
        "reduce_sum": 8,
        "norm/scale": 8,
        "head/kernel": 32,
    }
    assert report.params == 3 * 3 * 3 * 8 + 8 + 2 * 8 + 2 * 8 + 8 * 4 + 4  # running statistics are none


# --- norms and pools ----------------------------------------------------------------------------------

IMAGE = (2, 4, 4, 8)  # 256 elements


@pytest.mark.parametrize(
    ("module", "norms"),
    [
        (nn.BatchNorm(use_running_average=True), 256),
        (nn.BatchNorm(use_running_average=True, use_scale=False), 0),
        (nn.BatchNorm(use_running_average=True, dtype=jnp.bfloat16), 256),
        (nn.LayerNorm(), 256),
        (nn.LayerNorm(use_fast_variance=False), 256),
        (nn.LayerNorm(use_scale=False), 0),
        (nn.GroupNorm(num_groups=2), 256),
        (nn.RMSNorm(), 256),
        (nn.RMSNorm(use_scale=False), 0),
        (nn.InstanceNorm(), 256),
        (nn.InstanceNorm(use_fast_variance=False), 256),
    ],
)
def test_flax_norms(module, norms):
    report = of_module(module, shape(*IMAGE), convention="torchprofile")
    assert report.macs == norms
    assert charged(report, "norm") == ([("params/scale", norms)] if norms else [])
    assert of_module(module, shape(*IMAGE), convention="thop").macs == 4 * norms
    assert of_module(module, shape(*IMAGE), convention="matmul").macs == 0


@pytest.mark.parametrize(
    ("fn", "norms"),
    [
        (lambda g, x: x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True)) * g, 1),
        (lambda g, x: g * (x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)), 1),
        (lambda g, x: x / (jnp.sqrt(x.var(-1, keepdims=True)) + 1e-6) * g, 1),
        (lambda g, x: x * (x.var(-1, keepdims=True) + 1e-6) ** -0.5 * (1 + g), 1),
        (lambda g, x: x * g, 0),  # layer scale
        (lambda g, x: jax.nn.softmax(x * g), 0),
        (lambda g, x: x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True)) + g, 0),
        (lambda g, x: x * g / jnp.sqrt(jnp.float32(8)), 0),
    ],
)
def test_norm_is_a_product_of_activation_root_and_weight(fn, norms):
    report = cost(lambda p, x: fn(p["g"], x), {"g": shape(1, 8)}, shape(1, 8), convention="torchprofile")
    assert charged(report, "norm") == [("g", 8)] * norms


def test_folded_batch_norm_is_free():
    report = of_module(LabVGG(stages=((8,),), folded=True), shape(1, 8, 8, 3), convention="torchprofile")
    assert charged(report, "norm") == []


@pytest.mark.parametrize(
    ("fn", "pools"),
    [
        (lambda x: nn.avg_pool(x, (2, 2), (2, 2)), [64]),
        (lambda x: nn.avg_pool(x, (3, 3), (2, 2), padding="SAME", count_include_pad=False), [64]),
        (lambda x: nn.max_pool(x, (2, 2), (2, 2)), []),
        (lambda x: x.mean((1, 2)), [16]),
        (lambda x: x.mean((1, 2), keepdims=True), [16]),
        (lambda x: nn.relu(x).mean((1, 2)) @ jnp.ones((8, 3)), [16]),
        (lambda x: x * nn.sigmoid(x.mean((1, 2), keepdims=True)), [16]),  # squeeze and excite
        (lambda x: nn.standardize(x.mean((1, 2)), axis=-1), [16]),  # a norm *of* a pool
        (lambda x: x - x.mean((1, 2), keepdims=True), []),
        (lambda x: nn.standardize(x, axis=(1, 2)), []),
        (lambda x: x.mean(-1), []),
        (lambda x: nn.softmax(x), []),
    ],
)
def test_pools(fn, pools):
    report = cost(lambda _, x: fn(x), {}, shape(*IMAGE), convention="torchprofile")
    assert [macs for _, macs in charged(report, "pool")] == pools


# --- bytes --------------------------------------------------------------------------------------------


@functools.partial(jax.tree_util.register_dataclass, data_fields=["codes"], meta_fields=["dtype"])
@dataclasses.dataclass(frozen=True)
class Halves:
    """A stand-in for a compressed leaf: one int8 for each two columns."""

    codes: object
    dtype: object = jnp.dtype(jnp.float32)

    @property
    def shape(self):
        return (self.codes.shape[0], 2 * self.codes.shape[1])

    @property
    def nbytes(self):
        return self.codes.size

    def dense(self):
        return jnp.repeat(self.codes.astype(self.dtype), 2, axis=1)


@pytest.mark.parametrize("make", [shape, lambda *dims, dtype: np.zeros(dims, dtype)])
def test_compressed_leaf_is_traced_dense_and_counted_as_stored(make):
    params = {"a": Halves(make(4, 3, dtype=jnp.int8)), "b": shape(6)}
    report = cost(lambda p, x: x @ p["a"] + p["b"][None], params, shape(2, 4))
    assert report.weights == {"a": Weight(size=24, nbytes=12), "b": Weight(size=6, nbytes=24)}
    assert (report.macs, report.params, report.stored_bytes) == (48, 30, 36)
    # x: 2*4*4 bytes, codes: 12, the product: 2*6*4
    assert report.bytes_moved == 32 + 12 + 48
    assert report.intensity == 96 / 92


def test_scan_reads_each_stacked_weight_once():
    report = cost(
        lambda w, x: jax.lax.scan(lambda c, one: (c @ one, None), x, w)[0], shape(3, 5, 5), shape(2, 5)
    )
    assert report.bytes_moved == 3 * (40 + 100 + 40)


def test_no_traffic_has_no_intensity():
    assert cost(lambda p, x: x + 1, {}, shape(3)).intensity == 0.0


# --- peak activation bytes ----------------------------------------------------------------------------


def peak(fn, *args, params=None, **options):
    return cost(
        lambda p, *xs: fn(*xs) if params is None else fn(p, *xs), params, *args, **options
    ).peak_activation_bytes


@settings(max_examples=12, deadline=None)
@given(widths=st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_peak_of_a_chain_is_its_widest_pair(widths):
    """Input and output of one layer live together, and nothing else does; what is elementwise is free."""
    params = [shape(a, b) for a, b in itertools.pairwise(widths)]

    def fn(weights, x):
        for weight in weights:
            x = nn.relu6((x @ weight) * 0.5 + 1)
        return x

    pairs = [4 * (a + b) for a, b in itertools.pairwise(widths)]
    assert peak(fn, shape(1, widths[0]), params=params) == max(pairs)
    assert peak(fn, shape(1, widths[0]), params=params, activation_dtype="int8") == max(pairs) // 4


W = jax.ShapeDtypeStruct((8, 8), jnp.float32)


@pytest.mark.parametrize(
    ("fn", "arrays"),
    [
        (lambda w, x: x, 1),
        (lambda w, x: nn.swish(x), 1),
        (lambda w, x: nn.gelu(x @ w), 2),
        (lambda w, x: nn.relu(x @ w) + x, 2),  # the sum takes the place of one of its terms
        (lambda w, x: (nn.relu(x @ w) @ w) + x, 3),  # the shortcut lives beside input and output
        (lambda w, x: jnp.pad(x, ((0, 0), (8, 8)))[:, 4:12] @ w, 2),
        (lambda w, x: (x[:, :, None] + jnp.ones((8, 8, 64)))[:, :, 0] @ w, 2),  # a broadcast is never written
        (lambda w, x: (x + 1, x + 2), 3),  # two results beside their input
        (lambda w, x: jnp.concatenate([x, x @ w], axis=1), 4),
        (lambda w, x: x.at[:, 0].set(0), 1),  # written over
        (lambda w, x: (x.at[:, 0].set(0), x), 2),
        (lambda w, x: (x + w) @ (w + w), 2),  # what is made of weights alone stands apart
        (lambda w, x: jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=5)[0], 2),
        (lambda w, x: jax.lax.scan(lambda c, _: (c @ w, c), x, None, length=5)[1], 2 + 5 + 0),
        (lambda w, x: jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ w @ w, x), 2),
        (lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda v: v @ w @ w, lambda v: v + 1, x), 2),
        (lambda w, x: jax.checkpoint(lambda v: nn.relu(v @ w))(x), 2),
    ],
)
def test_peak_in_arrays_of_the_input(fn, arrays):
    found = peak(fn, shape(8, 8), params=W) / 256
    assert arrays <= found < arrays + 0.1  # scalars of tests and indices may live beside them


def test_wider_norm_arithmetic_does_not_inflate_the_peak():
    """bfloat16 activations normalized in float32 are fused, and never written in float32."""
    module = nn.Sequential(
        [nn.Conv(8, (1, 1), dtype=jnp.bfloat16), nn.BatchNorm(True, dtype=jnp.bfloat16), nn.relu]
    )
    assert of_module(module, shape(1, 4, 4, 8, dtype=jnp.bfloat16)).peak_activation_bytes == 2 * (128 + 128)


def test_integers_keep_their_size():
    assert peak(lambda x: x + 1, shape(8, dtype=jnp.int32), activation_dtype=jnp.int8) == 32


def test_only_a_true_depthwise_convolution_runs_in_place():
    x = shape(1, 4, 4, 8)
    for features, groups, arrays in ((8, 8, 1), (8, 4, 2), (16, 8, 3)):
        module = nn.Conv(features, (3, 3), feature_group_count=groups)
        assert of_module(module, x, in_place_depthwise=True).peak_activation_bytes == arrays * 512
    kept = nn.Conv(8, (3, 3), feature_group_count=8)
    variables = jax.eval_shape(kept.init, jax.random.key(0), x)
    report = cost(lambda v, x: kept.apply(v, x) + x, variables, x, in_place_depthwise=True)
    assert report.peak_activation_bytes == 2 * 512  # the input lives on: nothing to overwrite


# --- refusals -----------------------------------------------------------------------------------------


def test_unknown_convention():
    with pytest.raises(
        ValueError, match=r"convention must be one of .*conv_fc.*, got 'fvcore'; the table in"
    ):
        cost(lambda w, x: x @ w, shape(2, 2), shape(2, 2), convention="fvcore")


def test_a_report_prints_as_a_table_and_repeats_in_a_line():
    report = cost(lambda w, x: x @ w["layer"]["a"], {"layer": {"a": jnp.ones((2, 3))}}, jnp.ones((1, 2)))
    assert repr(report) == "<CostReport: 6 MACs (conv_fc), 6 params, 24 bytes>"
    rows = [line.split("│")[1:-1] for line in str(report).splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["layer", "6", "6", "24 bytes"],
        ["total", "6", "6", "24 bytes"],
    ]
