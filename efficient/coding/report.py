"""What a compressed file costs, tensor by tensor: the columns of the paper's tables of compression.

P: pruning, Q: quantization (weight sharing), H: Huffman coding.

Source: Han, Mao, Dally, 2016, arXiv:1510.00149, Tables 2 to 5.
Differs: every size is of bytes that a reader can decode, names, shapes and code tables included. A filler
takes an index code but no weight code (`relative_index`). Means are over kept weights: fillers raise them.
"""

from dataclasses import dataclass

_FLOAT32_BYTES = 4  # The paper's uncompressed network has 32 bits a weight.


@dataclass(frozen=True, kw_only=True)
class TensorReport:
    """One tensor. A dense tensor has no index and its weight bits are those of its dtype."""

    name: str
    is_shared: bool  # False: kept as it is.
    weights: int  # Of the dense tensor.
    kept: int  # Not pruned.
    codebook: int  # Shared values; 0 for a dense tensor.
    weight_bits: int  # P+Q: width of a weight's code.
    index_bits: int  # P+Q: width of a gap's code; 0 where nothing is pruned.
    fillers: int  # P+Q: gap codes beyond one a kept weight.
    fixed_bytes: int  # P+Q: everything the file holds of this tensor, fixed-width codes.
    weight_entropy: float  # Bits a kept weight: Shannon's bound on its code.
    index_entropy: float  # Bits a kept weight: the bound on its gap codes, at the file's gap width.
    weight_bits_huffman: float  # P+Q+H: mean bits of a weight's code in the file; table excluded.
    index_bits_huffman: float  # P+Q+H: mean bits of gap codes a kept weight; table excluded.
    huffman_bytes: int  # P+Q+H: everything the file holds of this tensor.

    @property
    def original_bytes(self) -> int:
        """Bytes in 32-bit floats."""
        return _FLOAT32_BYTES * self.weights

    @property
    def kept_fraction(self) -> float:
        """Weights kept, in [0, 1] (the tables' "Weights%" over 100); 1 for an empty tensor."""
        return self.kept / self.weights if self.weights else 1.0

    @property
    def fixed_rate(self) -> float:
        """P+Q over the original size (the tables' "Compress rate" over 100); 1 for an empty tensor."""
        return self.fixed_bytes / self.original_bytes if self.weights else 1.0

    @property
    def huffman_rate(self) -> float:
        """P+Q+H over the original size; 1 for an empty tensor."""
        return self.huffman_bytes / self.original_bytes if self.weights else 1.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """One file: its tensors, and what surrounds them."""

    rows: tuple[TensorReport, ...]
    overhead_bytes: int  # Magic, version, number of tensors, checksum.
    file_bytes: int  # Of the file that was written.

    @property
    def original_bytes(self) -> int:
        """Bytes of all weights in 32-bit floats."""
        return sum(row.original_bytes for row in self.rows)

    @property
    def fixed_bytes(self) -> int:
        """P+Q: the size of the file written with `huffman_coded=False`."""
        return self.overhead_bytes + sum(row.fixed_bytes for row in self.rows)

    @property
    def huffman_bytes(self) -> int:
        """P+Q+H: the size of the file written with `huffman_coded=True`."""
        return self.overhead_bytes + sum(row.huffman_bytes for row in self.rows)

    @property
    def fixed_ratio(self) -> float:
        """How many times smaller P+Q is than the original."""
        return self.original_bytes / self.fixed_bytes

    @property
    def huffman_ratio(self) -> float:
        """How many times smaller P+Q+H is than the original."""
        return self.original_bytes / self.huffman_bytes
