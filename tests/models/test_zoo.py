"""Every model's exact size and work, from a trace (nothing is computed), and the zoo's errors."""

import math
from itertools import pairwise

import jax
import pytest

from efficient.models import ZOO, Decoder, LabVGG, VisionTransformer, get
from efficient.models.zoo import Built


def macs(jaxpr) -> int:
    """Multiply-accumulates of the convolutions and matrix products of a jaxpr, and of those inside it."""
    total = 0
    for equation in jaxpr.eqns:
        parameters = equation.params
        if equation.primitive.name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            out_channels = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += math.prod(out) * math.prod(kernel) // out_channels
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        else:
            repeats = parameters["length"] if equation.primitive.name == "scan" else 1
            for value in parameters.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    total += repeats * macs(inner) if hasattr(inner, "eqns") else 0
    return total


def size_and_work(built: Built) -> tuple[int, int]:
    """Parameters, and MACs of one forward pass: one trace of `init` has both."""
    jaxpr, variables = jax.make_jaxpr(built.module.init, return_shape=True)(jax.random.key(0), built.example)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])), macs(jaxpr.jaxpr)


# Worked by hand where a comment says so; the rest are published counts. MACs are those of convolutions and
# matrix products.
GOLDEN = [
    # 784 300 + 300 + 300 100 + 100 + 100 10 + 10; MACs without the biases.
    ("lenet_300_100", {}, 266_610, 266_200),
    # (25 + 1) 20 + (500 + 1) 50 + (800 + 1) 500 + 501 10; 24^2 25 20 + 8^2 500 50 + 800 500 + 5000.
    ("lenet5", {}, 431_080, 2_293_000),
    ("lab_vgg", {}, 9_228_362, 605_754_368),
    # A stage of 6 convolutions is 14,155,776; the two that halve the image start with half of one sixth:
    # 442,368 + 14,155,776 + 2 (1,179,648 + 5 2,359,296) + 640.
    ("resnet20", {}, 269_722, 40_551_040),
    # Two projections: 16 32 + 64 and 32 64 + 128 parameters; 16^2 16 32 + 8^2 32 64 MACs.
    ("resnet20", {"shortcut": "B"}, 269_722 + 2_752, 40_551_040 + 262_144),
    # 442,368 + 18 2,359,296 + 2 (1,179,648 + 17 2,359,296) + 640.
    ("resnet56", {}, 853_018, 125_485_696),
    ("resnet18", {}, 11_689_512, 1_814_073_344),
    ("resnet50", {}, 25_557_032, 4_089_184_256),
    ("mobilenet_v1", {}, 4_231_976, 568_740_352),
    ("mobilenet_v2", {}, 3_504_872, 300_774_272),
    ("mobilenet_v2", {"width": 0.35, "resolution": 144, "head": "scale"}, 750_280, 23_499_152),
    # 1280 head channels, not 448: 832 more, each with 112 weights, a scale, a shift and 1000 classifier
    # weights; MACs 832 (25 112 + 1000), at 5x5.
    (
        "mobilenet_v2",
        {"width": 0.35, "resolution": 144},
        750_280 + 832 * 1_114,
        23_499_152 + 832 * 3_800,
    ),
    ("efficientnet_lite0", {}, 4_652_008, 385_187_552),
    # A bias per channel replaces a scale and a shift: 21,008 channels fewer parameters, the same work.
    ("efficientnet_lite0", {"folded": True}, 4_631_000, 385_187_552),
    # 196 768 192 + 12 (4 197 192^2 + 2 197^2 192 + 2 197 192 768) + 192,000.
    ("vit_tiny", {}, 5_717_416, 1_253_683_200),
    # 196 768 768 + 12 (4 197 768^2 + 2 197^2 768 + 2 197 768 3072) + 768,000.
    ("vit_b16", {}, 86_567_656, 17_563_828_224),
    # Embedding 256 64; a layer 2 64^2 + 2 64 32 + 3 64 128 and 128 of norms; 64 at the end.
    # MACs of 16 tokens: the same matrices, 2 16^2 64 of attention in each layer, the embedding as output.
    ("decoder_tiny", {}, 90_432, 16 * (2 * 36_864 + 16_384) + 2 * 2 * 256 * 64),
    ("decoder_tiny", {"scan_layers": True}, 90_432, 16 * (2 * 36_864 + 16_384) + 2 * 2 * 256 * 64),
]


@pytest.mark.parametrize(("name", "options", "parameters", "work"), GOLDEN)
def test_size_and_work(name, options, parameters, work):
    assert size_and_work(get(name, **options)) == (parameters, work)


def test_every_model_of_the_zoo_has_a_golden_count():
    assert {row[0] for row in GOLDEN} == set(ZOO)


def test_lab_vgg_with_30_percent_of_the_channels_pruned():
    """round(0.7 c) channels everywhere but in the last layer, which the lab leaves whole."""
    example = get("lab_vgg").example
    pruned = LabVGG(stages=((45, 90), (179, 179), (358, 358), (358, 512)))
    parameters, work = size_and_work(Built(pruned, example))
    channels = [3, 45, 90, 179, 179, 358, 358, 358, 512]
    convolutions = sum(9 * a * b for a, b in pairwise(channels))
    assert parameters == convolutions + 2 * sum(channels[1:]) + 513 * 10
    assert round(parameters / 1e6, 2) == 5.01
    assert work == 305_097_920


@pytest.mark.parametrize(("width", "millions"), [(0.75, 325), (0.5, 149), (0.25, 41)])
def test_mobilenet_v1_widths_have_the_papers_work(width, millions):
    """Table 6 of the paper."""
    assert round(size_and_work(get("mobilenet_v1", width=width))[1] / 1e6) == millions


def test_decoders_of_published_sizes():
    """SmolLM2-135M's (tied) and Llama-7B's sizes give their published counts."""
    tokens = get("decoder_tiny").example
    small = Decoder(
        vocabulary=49_152, width=576, depth=30, heads=9, kv_heads=3, hidden=1536, scan_layers=True
    )
    large = Decoder(
        vocabulary=32_000,
        width=4096,
        depth=32,
        heads=32,
        kv_heads=32,
        hidden=11_008,
        tied=False,
        scan_layers=True,
    )
    assert size_and_work(Built(small, tokens))[0] == 134_515_008
    assert size_and_work(Built(large, tokens))[0] == 6_738_415_616


def test_names_near_a_miss():
    with pytest.raises(
        ValueError, match=r"name must be one of .* got 'mobilnet_v2'; did you mean 'mobilenet_v2'"
    ):
        get("mobilnet_v2")
    with pytest.raises(ValueError, match=r"got 'zzz'; choose one of them"):
        get("zzz")


def test_options_near_a_miss():
    with pytest.raises(ValueError, match=r"options of mobilenet_v2 .* got 'widht'; did you mean 'width'"):
        get("mobilenet_v2", widht=0.5)
    with pytest.raises(
        ValueError, match=r"options of lenet5 must be among \['resolution', 'classes'\], got 'width'"
    ):
        get("lenet5", width=0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet5", {"resolution": 0}, "resolution must be at least 1 pixel, got 0"),
        ("lenet5", {"classes": 0}, "features and classes must be at least 1"),
        ("lenet_300_100", {"classes": 0}, "hidden and classes must be at least 1"),
        ("lab_vgg", {"width": 0.0}, "width and classes must be above 0, got 0.0"),
        ("resnet20", {"width": -1.0}, "width must be above 0, got -1.0"),
        ("resnet20", {"classes": 0}, "stages, features and classes must be at least 1"),
        ("mobilenet_v1", {"width": float("nan")}, "width must be above 0, got nan"),
        ("mobilenet_v2", {"classes": 0}, "classes must be at least 1, got 0"),
        ("efficientnet_lite0", {"classes": 0}, "classes must be at least 1, got 0"),
        ("vit_tiny", {"depth": 0}, "patch, width, depth, heads, hidden and classes must be at least 1"),
        ("decoder_tiny", {"vocabulary": 0}, "vocabulary, width, .* must be at least 1"),
    ],
)
def test_refuses_what_builds_no_model(name, options, message):
    with pytest.raises(ValueError, match=message):
        get(name, **options)


def test_vision_transformer_heads_must_divide_its_width():
    with pytest.raises(ValueError, match="heads divide width"):
        VisionTransformer(width=10, heads=3)
