"""Quantizers by name: the formats that the field's papers and chips define, blocks and scales included."""

from efficient.quantize.blocks import Blocks, channel, group, tensor
from efficient.quantize.formats import E2M1, E2M3, E3M2, E4M3, E5M2, NF4, Affine, Integer, Unsigned
from efficient.quantize.quantizer import Plain, Quantizer, SharedExponent
from efficient.quantize.range import Range
from efficient.quantize.ranges import minmax


def integer(bits: int, blocks: Blocks | None = None, *, range: Range | None = None) -> Quantizer:
    """Symmetric integers, a scale a channel by default. `bits` from 2 to 8."""
    return Quantizer(format=Integer(bits), blocks=blocks or channel(), range=range or minmax())


def affine(bits: int, blocks: Blocks | None = None, *, range: Range | None = None) -> Quantizer:
    """Integers around a zero point, a scale and a zero point a channel by default. `bits` from 1 to 8."""
    return Quantizer(format=Affine(bits), blocks=blocks or channel(), range=range or minmax())


def fp8(blocks: Blocks | None = None, *, wide: bool = False) -> Quantizer:
    """E4M3, or where `wide` E5M2, one scale by default (Micikevicius et al., 2022, arXiv:2209.05433)."""
    return Quantizer(format=E5M2 if wide else E4M3, blocks=blocks or tensor())


def nf4(size: int = 64, *, is_double: bool = True) -> Quantizer:
    """NF4 in groups of `size`; where double, scales in 8 bits in groups of 256.

    At sizes that divide: 4 + 32 / size bits a weight, or 4 + 8 / size + 32 / (256 size).

    Source: Dettmers et al., 2023, arXiv:2305.14314, section 3. *Differs:* groups run along the input
    channels; scales become 8-bit integers from zero up, where the paper has floats around their mean.
    """
    again = Quantizer(format=Unsigned(8), blocks=group(256, -1))
    return Quantizer(format=NF4, blocks=group(size), scale=again if is_double else Plain())


def mxfp8(*, wide: bool = False, axis: int = -2) -> Quantizer:
    """MXFP8: E4M3 or E5M2 with a power of two for each 32: 8.25 bits a weight."""
    return Quantizer(format=E5M2 if wide else E4M3, blocks=group(32, axis), scale=SharedExponent())


def mxfp6(*, wide: bool = False, axis: int = -2) -> Quantizer:
    """MXFP6: E2M3, or where `wide` E3M2, with a power of two for each 32: 6.25 bits a weight."""
    return Quantizer(format=E3M2 if wide else E2M3, blocks=group(32, axis), scale=SharedExponent())


def mxfp4(*, axis: int = -2) -> Quantizer:
    """MXFP4: E2M1 with a power of two for each 32: 4.25 bits a weight."""
    return Quantizer(format=E2M1, blocks=group(32, axis), scale=SharedExponent())


def nvfp4(*, axis: int = -2) -> Quantizer:
    """NVFP4: E2M1 with an E4M3 scale for each 16, and one float32 in all: 4.5 bits a weight.

    Source: NVIDIA, 2025, arXiv:2509.25149, section 2.
    """
    return Quantizer(format=E2M1, blocks=group(16, axis), scale=Quantizer(format=E4M3))


def vs_quant(bits: int = 4, scale_bits: int = 4, *, size: int = 16, axis: int = -2) -> Quantizer:
    """VS-Quant: integers, an integer scale for each `size` of them, and a float32 for each output channel.

    Source: Dai et al., 2021, arXiv:2102.04503, section 4.
    """
    again = Quantizer(format=Unsigned(scale_bits), blocks=channel())
    return Quantizer(format=Integer(bits), blocks=group(size, axis), scale=again)
