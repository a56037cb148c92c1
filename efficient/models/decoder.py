"""A decoder-only transformer of the Llama kind: RMSNorm, rotary positions, grouped queries, SwiGLU.

Every dense kernel is a matrix [in, out] without bias, heads side by side. With `scan_layers` the layers'
arrays are stacked, [depth, in, out], and one layer is compiled instead of `depth`.

Source: Touvron et al., 2023, arXiv:2302.13971, section 2.2 (the block); Su et al., 2021, arXiv:2104.09864
(rotary positions); Shazeer, 2020, arXiv:2002.05202 (SwiGLU); Ainslie et al., 2023, arXiv:2305.13245 (groups).
Differs: rotary positions turn the pairs (i, i + d/2) of a head, as most released weights expect, where
Su et al. turn (2i, 2i + 1): the same up to the order of a projection's columns.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(x: Float[Array, "batch tokens heads d"], *, base: float) -> Float[Array, "batch tokens heads d"]:
    """Turns the pair (i, i + d/2) of the token at position p by the angle p base^(-2i/d).

    Args:
        x: queries or keys, d even, of the positions 0, 1, 2...
        base: 10,000 in the paper; larger for longer contexts.

    Source: Su et al., 2021, arXiv:2104.09864, equation 15.
    """
    half = x.shape[-1] // 2
    speed = base ** (-jnp.arange(half) / half)  # [d/2] radians per position
    angle = (jnp.arange(x.shape[1])[:, None] * speed[None, :])[None, :, None, :]  # [1, tokens, 1, d/2]
    low, high = x[..., :half], x[..., half:]
    sin, cos = jnp.sin(angle).astype(x.dtype), jnp.cos(angle).astype(x.dtype)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


class CausalAttention(nn.Module, kw_only=True):
    """Attention to this and earlier tokens; groups of query heads share a key and a value head."""

    heads: int  # query heads
    kv_heads: int  # key and value heads; divides `heads`
    rope_base: float  # of the rotary positions

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """softmax(q kᵀ / sqrt(d), causal) v per head, then a projection."""
        batch, tokens, width = x.shape
        d = width // self.heads

        def split(name: str, heads: int) -> Float[Array, "batch tokens heads d"]:
            """A projection of the tokens, cut into heads."""
            y = nn.Dense(heads * d, use_bias=False, name=name)(x)
            return y.reshape(batch, tokens, heads, d)

        query = rotate(split("query", self.heads), base=self.rope_base)
        key = rotate(split("key", self.kv_heads), base=self.rope_base)
        y = jax.nn.dot_product_attention(query, key, split("value", self.kv_heads), is_causal=True)
        return nn.Dense(width, use_bias=False, name="out")(y.reshape(batch, tokens, width))


class DecoderLayer(nn.Module, kw_only=True):
    """Attention, then SwiGLU, each normalized before and added to its input."""

    heads: int  # query heads
    kv_heads: int  # key and value heads
    hidden: int  # units of the gated network
    rope_base: float  # of the rotary positions
    epsilon: float  # of RMSNorm

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Gives x + attention(norm(x)), then x + down(silu(gate(norm(x))) * up(norm(x)))."""
        y = nn.RMSNorm(epsilon=self.epsilon, name="attention_norm")(x)
        attention = CausalAttention(
            heads=self.heads, kv_heads=self.kv_heads, rope_base=self.rope_base, name="attention"
        )
        x = x + attention(y)
        y = nn.RMSNorm(epsilon=self.epsilon, name="mlp_norm")(x)
        gate = nn.Dense(self.hidden, use_bias=False, name="gate")(y)
        up = nn.Dense(self.hidden, use_bias=False, name="up")(y)
        return x + nn.Dense(x.shape[-1], use_bias=False, name="down")(nn.silu(gate) * up)


class _ScannedLayer(DecoderLayer, kw_only=True):
    """A decoder layer in the form that a scan wants: the carry in and out, and no output beside it."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens width"], _: None):  # type: ignore[override]
        return super().__call__(x), None


class Decoder(nn.Module, kw_only=True):
    """Token ids in, next-token logits out; no cache: the whole sequence is computed at every call."""

    vocabulary: int  # number of token ids
    width: int  # numbers per token
    depth: int  # layers
    heads: int  # query heads; divides the width
    kv_heads: int  # key and value heads; divides `heads`
    hidden: int  # units of the gated network
    rope_base: float = 10_000.0  # of the rotary positions
    epsilon: float = 1e-5  # of RMSNorm
    tied: bool = True  # True: the embedding is also the output projection
    scan_layers: bool = False  # True: one stacked array per kernel instead of one per layer
    remat: bool = False  # True: activations inside a layer are computed again in the backward pass

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.width, self.depth, self.heads, self.kv_heads, self.hidden)
        if min(sizes) < 1:
            raise ValueError(
                f"vocabulary, width, depth, heads, kv_heads and hidden must be at least 1, got {sizes!r}; "
                "give every layer one unit or more."
            )
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"heads must cut width into even parts and kv_heads divide heads, got width {self.width!r}, "
                f"heads {self.heads!r}, kv_heads {self.kv_heads!r}; change one of them."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch time"], *, train: bool = False
    ) -> Float[Array, "batch time ids"]:
        """Logits of the next token at every position; `train` is every model's, and changes nothing here."""
        embed = nn.Embed(self.vocabulary, self.width, name="embed")
        x = self._layers(embed(tokens))
        x = nn.RMSNorm(epsilon=self.epsilon, name="norm")(x)
        if self.tied:
            return embed.attend(x)
        return nn.Dense(self.vocabulary, use_bias=False, name="head")(x)

    def _layers(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """All layers: a scan over stacked arrays, or one after the other."""
        if self.scan_layers:
            # The scan itself keeps the compiler from undoing remat.
            body = nn.remat(_ScannedLayer, prevent_cse=False) if self.remat else _ScannedLayer
            scanned = nn.scan(
                body, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth
            )
            return self._layer(scanned, "layers")(x, None)[0]
        layer = nn.remat(DecoderLayer) if self.remat else DecoderLayer
        for index in range(self.depth):
            x = self._layer(layer, f"layer{index}")(x)
        return x

    def _layer(self, layer: Callable[..., nn.Module], name: str) -> nn.Module:
        """A layer, or a scan of layers, of this model's sizes."""
        return layer(
            heads=self.heads,
            kv_heads=self.kv_heads,
            hidden=self.hidden,
            rope_base=self.rope_base,
            epsilon=self.epsilon,
            name=name,
        )
