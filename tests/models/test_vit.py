"""Vision Transformer: a layer against PyTorch's, and what position embeddings are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.models import VisionTransformer
from efficient.models.vit import EncoderLayer


def test_layer_against_torch():
    torch = pytest.importorskip("torch", reason="torch is absent: nothing to compare with")
    layer = EncoderLayer(heads=2, hidden=12, epsilon=1e-6)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 8)).astype(np.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(1), x)
    variables = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)
    p = variables["params"]
    theirs = torch.nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    qkv = [p["attention"][name] for name in ("query", "key", "value")]
    state = {
        "self_attn.in_proj_weight": np.concatenate([part["kernel"].T for part in qkv]),
        "self_attn.in_proj_bias": np.concatenate([part["bias"] for part in qkv]),
        "norm1.weight": p["attention_norm"]["scale"],
        "norm1.bias": p["attention_norm"]["bias"],
        "norm2.weight": p["mlp_norm"]["scale"],
        "norm2.bias": p["mlp_norm"]["bias"],
    }
    for ours, name in (
        (p["attention"]["out"], "self_attn.out_proj"),
        (p["up"], "linear1"),
        (p["down"], "linear2"),
    ):
        state |= {f"{name}.weight": ours["kernel"].T, f"{name}.bias": ours["bias"]}
    theirs.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), expected, atol=1e-4)


def test_logits_follow_patches_with_their_positions():
    """Swapping two patches and their positions changes nothing; swapping the patches alone does."""
    model = VisionTransformer(patch=2, width=8, depth=1, heads=2, hidden=8, classes=3)
    rng = np.random.default_rng(0)
    # Patches 0, 1 above 2, 3; token 0 is the class.
    x = rng.normal(size=(1, 4, 4, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(1), x)
    variables = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)
    swapped = np.concatenate([x[:, :, 2:], x[:, :, :2]], axis=2)  # 1, 0 above 3, 2
    moved = {
        "params": {**variables["params"], "positions": variables["params"]["positions"][:, [0, 2, 1, 4, 3]]}
    }
    apply = jax.jit(model.apply)
    logits = apply(variables, x)
    np.testing.assert_allclose(apply(moved, swapped), logits, atol=1e-5)
    assert not np.allclose(apply(variables, swapped), logits, atol=1e-3)


def test_refuses_images_that_patches_do_not_tile():
    model = VisionTransformer(patch=16)
    with pytest.raises(ValueError, match=r"x must have sides that 16 divides, got \(32, 30\)"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 30, 3), jnp.float32))
