"""Vision Transformer: patches as tokens, pre-normalized encoder layers, a class token.

Every dense kernel is a matrix [in, out], heads side by side, so that what works on matrices works here.

Source: Dosovitskiy et al., 2020, arXiv:2010.11929, section 3.1 and table 1; the tiny and small sizes are
those of Touvron et al., 2020 (DeiT), arXiv:2012.12877, table 1.
Differs: no dropout and no stochastic depth; the classifier starts at zero, as the authors' fine-tuning does.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class SelfAttention(nn.Module, kw_only=True):
    """Multi-head attention of every token to every token."""

    heads: int  # divides the width

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """softmax(q kᵀ / sqrt(d)) v per head, then a projection; equation 7 of the paper."""
        batch, tokens, width = x.shape

        def split(name: str) -> Float[Array, "batch tokens heads d"]:
            """A projection of the tokens, cut into heads."""
            return nn.Dense(width, name=name)(x).reshape(batch, tokens, self.heads, width // self.heads)

        y = jax.nn.dot_product_attention(split("query"), split("key"), split("value"))
        return nn.Dense(width, name="out")(y.reshape(batch, tokens, width))


class EncoderLayer(nn.Module, kw_only=True):
    """Attention, then a two-layer GELU network, each normalized before and added to its input."""

    heads: int  # divides the width
    hidden: int  # units between the two dense layers
    epsilon: float  # of layer normalization

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Equations 2 and 3 of the paper."""
        y = nn.LayerNorm(epsilon=self.epsilon, name="attention_norm")(x)
        x = x + SelfAttention(heads=self.heads, name="attention")(y)
        y = nn.LayerNorm(epsilon=self.epsilon, name="mlp_norm")(x)
        y = nn.gelu(nn.Dense(self.hidden, name="up")(y), approximate=False)
        return x + nn.Dense(x.shape[-1], name="down")(y)


class VisionTransformer(nn.Module, kw_only=True):
    """ViT with learned positions, one per patch of the image size that it is initialized with."""

    patch: int = 16  # side of a patch, pixels; divides the image's sides
    width: int = 192  # numbers per token
    depth: int = 12  # encoder layers
    heads: int = 3  # attention heads; divides the width
    hidden: int = 768  # units inside each layer's network
    classes: int = 1000  # number of labels
    epsilon: float = 1e-6  # of layer normalization

    def __post_init__(self) -> None:
        sizes = (self.patch, self.width, self.depth, self.heads, self.hidden, self.classes)
        if min(sizes) < 1 or self.width % self.heads:
            raise ValueError(
                f"patch, width, depth, heads, hidden and classes must be at least 1, and heads divide width, "
                f"got {sizes!r}; vit_b16() and vit_tiny() give the papers'."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; `train` belongs to the contract of every model here and changes nothing in this one."""
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(
                f"x must have sides that {self.patch} divides, got {x.shape[1:3]!r}; resize the images."
            )
        sides = (self.patch, self.patch)
        x = nn.Conv(self.width, sides, strides=sides, padding="VALID", name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)  # [batch, patches, width]
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for index in range(self.depth):
            layer = EncoderLayer(
                heads=self.heads, hidden=self.hidden, epsilon=self.epsilon, name=f"layer{index}"
            )
            x = layer(x)
        x = nn.LayerNorm(epsilon=self.epsilon, name="norm")(x[:, 0])
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name="classifier")(x)


def vit_b16(*, classes: int = 1000) -> VisionTransformer:
    """ViT-B/16: 86,567,656 parameters at 224x224x3."""
    return VisionTransformer(width=768, heads=12, hidden=3072, classes=classes)


def vit_tiny(*, patch: int = 16, depth: int = 12, classes: int = 1000) -> VisionTransformer:
    """ViT-Ti (DeiT's tiny): 192 wide, 3 heads; 5,717,416 parameters at 224x224x3."""
    return VisionTransformer(patch=patch, depth=depth, classes=classes)
