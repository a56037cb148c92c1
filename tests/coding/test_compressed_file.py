"""The compressed file: exact bytes, exact arrays, exact report; damage and forgery are refused."""

import inspect
import io
import os
import tracemalloc
import zlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.coding import CorruptFileError, Dense, Shared, read, write
from efficient.coding.tensor_record import check_index_bits

LIMIT = 1 << 20
NAN_PAYLOAD = np.array([0x7FC01234, 0xFF801234, 0x80000000, 0x7F800000], np.uint32).view(np.float32)

BRAIN = np.array([0x7FC1, 0xFF81, 0x8000, 0x3F80], np.uint16).view(ml_dtypes.bfloat16)  # NaNs, -0 and 1.


def network(seed=0):
    """A small network with every kind of tensor, the edges of each included."""
    rng = np.random.default_rng(seed)
    return {
        "params/Dense_0/bias": Dense(rng.normal(size=5).astype(np.float32)),
        "params/Dense_0/kernel": Shared(
            np.linspace(-1, 1, 16).astype(np.float32),
            np.minimum(rng.geometric(0.3, (30, 20)) - 1, 15),
            rng.random((30, 20)) < 0.1,
        ),
        "params/Dense_1/kernel": Shared(rng.normal(size=3).astype(np.float16), rng.integers(0, 3, (7, 9))),
        "nan": Dense(NAN_PAYLOAD),
        "shared nan": Shared(NAN_PAYLOAD, np.arange(40, dtype=np.uint64) % 4, np.arange(40) % 3 == 0),
        "step": Dense(np.array(-7, np.int64)),
        "none kept": Shared(np.zeros(0, np.float64), np.zeros((4, 4), np.int8), np.zeros((4, 4), bool)),
        "one value": Shared(np.ones(1, np.float32), np.zeros(50, np.int32)),
        "empty": Dense(np.zeros((0, 3), np.float16)),
        "empty shared": Shared(np.ones(2, np.float32), np.zeros((0, 3), np.int32)),
        "empty sparse": Shared(np.zeros(0, np.float32), np.zeros((3, 0), np.int32), np.zeros((3, 0), bool)),
        "brain": Dense(BRAIN),
        "shared brain": Shared(BRAIN, np.arange(12).reshape(3, 4) % 4, np.arange(12).reshape(3, 4) % 3 == 0),
        "dense mask": Shared(np.ones(2, np.float32), np.arange(9).reshape(3, 3) % 2, np.ones((3, 3), bool)),
        "größe": Dense(np.arange(3, dtype=">i2")),
    }


def data_of(tensors, **options):
    file = io.BytesIO()
    report = write(file, tensors, **options)
    return file.getvalue(), report


def assert_same(got, want):
    """Same kinds, dtypes and shapes, and the same bits of every array."""
    assert list(got) == list(want)
    for name in want:
        assert type(got[name]) is type(want[name])
        a, b = got[name].dense(), want[name].dense()
        assert (a.dtype, a.shape) == (b.dtype.newbyteorder("="), b.shape)
        assert a.tobytes() == b.astype(a.dtype).tobytes()
        if isinstance(want[name], Shared):
            assert got[name].codebook.tobytes() == want[name].codebook.tobytes()
            np.testing.assert_array_equal(got[name].kept_indices(), want[name].kept_indices())
            mask = want[name].mask
            assert (got[name].mask is None) == (mask is None or mask.all())
            if got[name].mask is not None:
                np.testing.assert_array_equal(got[name].mask, mask)
                assert not got[name].indices[~mask].any()


def sealed(body):
    """The body under a right checksum, whatever it holds."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_golden_file():
    mask = np.zeros(16, bool)
    mask[[1, 4, 15]] = True
    indices = np.zeros(16, np.int64)
    indices[4] = 1
    data, report = data_of(
        {
            "fc/b": Dense(np.array([1, 2], np.float16)),
            "fc/w": Shared(np.array([1, 2], np.float16), indices, mask),
        },
        index_bits=3,
        huffman_coded=False,
    )
    # Span 7: zeros before 1, 2, and 10 = a filler over 7 places and 3: codes 001 010 111 011.
    parts = [
        "45464e54 01 02",  # EFNT, version 1, two tensors.
        "00 04 66632f62",  # Name: 0 bytes shared, 4 more: fc/b.
        "00 01 02 003c 0040",  # Dense float16 [2]: 1 and 2, little-endian.
        "03 01 77",  # Name: 3 bytes shared, 1 more: w.
        "20 01 10 02 003c 0040",  # Sparse float16 [16], two values.
        "03 04 00 2bb0",  # 3 bits, 4 entries, fixed width: 0010 1011 1011 and four zero bits.
        "00 40",  # Fixed width, a bit each: 0 1 0.
    ]
    assert data == sealed(bytes.fromhex("".join(parts)))
    kernel = report.rows[1]
    assert (kernel.kept, kernel.weight_bits, kernel.index_bits, kernel.fillers) == (3, 1, 3, 1)
    assert (kernel.fixed_bytes, report.overhead_bytes) == (3 + 8 + 5 + 2, 10)


def test_golden_bfloat16():
    # Tag: dense, code 11; one dimension of 2; 1.0 is 0x3f80 and -2.0 is 0xc000, the low byte first.
    data, _ = data_of({"b": Dense(np.array([1, -2], ml_dtypes.bfloat16))})
    assert data == sealed(bytes.fromhex("45464e54 01 01 00 01 62 0b 01 02 803f 00c0"))


def test_every_bfloat16_returns_bit_for_bit():
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(ml_dtypes.bfloat16).reshape(256, 256).T  # Not contiguous.
    got = read(io.BytesIO(data_of({"w": Dense(values)})[0]))["w"].values
    assert got.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(got.view(np.uint16), bits.reshape(256, 256).T)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2), (0, 2**40)])
def test_empty_tensors_return(shape):
    nothing = np.zeros(shape, np.int32)
    tensors = {
        "dense": Dense(nothing),
        "shared": Shared(np.ones(1), nothing),
        "sparse": Shared(np.ones(0), nothing, nothing > 0),
    }
    data, report = data_of(tensors)
    assert_same(read(io.BytesIO(data), max_bytes=LIMIT), tensors)
    assert [(row.weights, row.kept) for row in report.rows] == [(0, 0)] * 3
    assert report.original_bytes == 0


def test_an_empty_tensor_that_no_array_of_8_bytes_can_have(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"'fc/w': shape must have a product below 2\*\*60 without its zeros, got \(0, 1152921",
    ):
        write(tmp_path / "net", {"fc/w": Dense(np.zeros((0, 2**60), np.int8))})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("huffman_coded", [True, False])
@pytest.mark.parametrize("index_bits", ["best", 1, 3, 16])
def test_round_trip_is_bit_identical(tmp_path, index_bits, huffman_coded):
    tensors = network()
    report = write(tmp_path / "net", tensors, index_bits=index_bits, huffman_coded=huffman_coded)
    assert_same(read(tmp_path / "net"), tensors)
    assert report.file_bytes == os.path.getsize(tmp_path / "net")
    assert report.file_bytes == (report.huffman_bytes if huffman_coded else report.fixed_bytes)
    assert os.listdir(tmp_path) == ["net"]


@settings(max_examples=40, deadline=None, database=None)
@given(st.integers(0, 2**32), st.floats(0, 1), st.integers(1, 40), st.sampled_from([(0,), (17,), (9, 31)]))
def test_any_shared_tensor_returns(seed, density, values, shape):
    rng = np.random.default_rng(seed)
    tensors = {
        "w": Shared(rng.normal(size=values), rng.integers(0, values, shape), rng.random(shape) < density)
    }
    data, report = data_of(tensors)
    assert_same(read(io.BytesIO(data)), tensors)
    assert report.huffman_bytes == len(data) <= report.fixed_bytes


def test_report_counts_what_the_paper_counts():
    rng = np.random.default_rng(1)
    mask = rng.random((100, 300)) < 0.08
    indices = np.minimum(rng.geometric(0.2, mask.shape) - 1, 31)
    tensor = Shared(np.linspace(-1, 1, 32).astype(np.float32), indices, mask)
    fc = data_of({"fc": tensor}, index_bits=5)[1].rows[0]
    assert (fc.weights, fc.kept, fc.codebook) == (30_000, mask.sum(), 32)
    assert (fc.weight_bits, fc.index_bits) == (5, 5)
    assert fc.original_bytes == 120_000
    assert fc.kept_fraction == mask.mean()
    steps = np.diff(np.flatnonzero(mask), prepend=-1)
    assert fc.fillers == ((steps - 1) // 31).sum()  # Of 32 codes, one is the filler.
    streams = -(-fc.kept * 5 // 8) + -(-(fc.kept + fc.fillers) * 5 // 8)
    # Head: name 2 + 2; tag, rank, 100 (1 byte) and 300 (2); k; gap width; entries (2); two stream tags.
    assert fc.fixed_bytes == streams + 32 * 4 + 4 + 5 + 1 + 3 + 2
    share = np.bincount(indices[mask]) / fc.kept
    share = share[share > 0]
    assert fc.weight_entropy == pytest.approx(-(share * np.log2(share)).sum(), rel=1e-12)
    assert fc.weight_entropy <= fc.weight_bits_huffman < fc.weight_entropy + 1
    entries = (fc.kept + fc.fillers) / fc.kept
    assert fc.index_entropy <= fc.index_bits_huffman < fc.index_entropy + entries
    assert fc.huffman_rate == fc.huffman_bytes / 120_000 < fc.fixed_rate == fc.fixed_bytes / 120_000


def test_report_ratios_are_of_the_whole_file():
    report = data_of(network())[1]
    assert report.original_bytes == 4 * sum(row.weights for row in report.rows)
    assert report.huffman_ratio == report.original_bytes / report.file_bytes
    assert report.fixed_ratio == report.original_bytes / report.fixed_bytes
    empty = next(row for row in report.rows if row.name == "empty")
    assert (empty.kept_fraction, empty.fixed_rate, empty.huffman_rate) == (1, 1, 1)
    bias = report.rows[0]
    assert (bias.is_shared, bias.weight_bits, bias.weight_bits_huffman, bias.index_bits) == (False, 32, 32, 0)


def test_best_gap_width_is_the_smallest():
    tensors = {"w": network()["params/Dense_0/kernel"]}
    widths = [data_of(tensors, index_bits=bits)[1] for bits in range(1, 17)]
    best = data_of(tensors)[1]
    assert best.huffman_bytes == min(report.huffman_bytes for report in widths)
    assert best.fixed_bytes == min(report.fixed_bytes for report in widths)


def test_header_costs_little():
    tensors = {
        f"params/Dense_{i}/{leaf}": Dense(np.zeros(0)) for i in range(3) for leaf in ("bias", "kernel")
    }
    assert len(data_of(tensors)[0]) < 110  # 6 names, 126 letters in all, shapes, checksum.


def test_every_flipped_bit_and_every_truncation_is_found():
    data, _ = data_of(network())
    for size in range(len(data)):
        with pytest.raises(CorruptFileError):
            read(io.BytesIO(data[:size]))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptFileError):
            read(io.BytesIO(bytes(flipped)))


def assert_consistent_or_corrupt(data):
    """Reading raises CorruptFileError, or gives arrays that agree and can be written again."""
    try:
        tensors = read(io.BytesIO(data), max_bytes=LIMIT)
    except CorruptFileError:
        return
    assert sum(tensor.dense().size for tensor in tensors.values()) <= LIMIT
    assert_same(read(io.BytesIO(data_of(tensors)[0])), tensors)


@settings(max_examples=100, deadline=None, database=None)
@given(st.binary(max_size=60), st.booleans())
def test_random_bytes(noise, is_sealed):
    assert_consistent_or_corrupt(sealed(b"EFNT\x01" + noise) if is_sealed else noise)


@settings(max_examples=500, deadline=None, database=None)
@given(st.data())
def test_forged_files(data):
    body = bytearray(FORGED[data.draw(st.sampled_from(range(len(FORGED))))][:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(5, len(body)))
        new = data.draw(st.binary(max_size=3))
        body[at : at + data.draw(st.integers(0, 3))] = new
    assert_consistent_or_corrupt(sealed(bytes(body)))


FORGED = [data_of({name: tensor})[0] for name, tensor in network().items()] + [data_of(network())[0]]


def vlq(value):
    """A varint, written here a second time."""
    digits = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([digit | 128 for digit in digits[:-1]] + digits[-1:])


NAMES = b"".join(vlq(60_000) + b"\2%02d\0\1\0" % i for i in range(99))


def shared_file(*, k=1, shape=(), rest=b"", tag=0x10):
    """A sealed file of one float16 tensor whose sizes are as told and whose streams are `rest`."""
    dims = b"".join(vlq(size) for size in shape)
    return sealed(b"EFNT\1\1\0\1w" + bytes([tag, len(shape)]) + dims + vlq(k) + bytes(2 * min(k, 8)) + rest)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must begin with b'EFNT', got b''"),
        (b"PK\3\4 something else", "it is no compressed network"),
        (b"EFNT\1\0\0\0\0\0", "must have the checksum of its bytes, got 00000000"),
        (sealed(b"EFNT\2\0"), "version must be 1, got 2"),
        (sealed(b"EFNT\1\0\0"), "must end after its tensors, got 1 more"),
        (sealed(b"EFNT\1\1\1\0"), "name must share at most 0 bytes, got 1"),
        (sealed(b"EFNT\1\1\0\1\xff"), "a name must hold UTF-8 for text before byte 1, got other bytes"),
        (sealed(b"EFNT\1\2\0\1w\0\1\0\1\0\0\1\0"), "names must be distinct, got 'w' twice"),
        (sealed(b"EFNT\1\1\0\1w\x30\0"), "record must begin with a kind, a dtype and a rank, got 0x30"),
        (sealed(b"EFNT\1\1\0\1w\x13\0"), "record must begin with a kind, a dtype and a rank, got 0x13"),
        (sealed(b"EFNT\1\1\0\1w\x0c\0"), "record must begin with a kind, a dtype and a rank, got 0x0c"),
        (
            sealed(b"EFNT\1\1\0\1w\0\1\4\0\0"),
            "'w': data must hold 8 more bytes for dense values at byte 12, got 2",
        ),
        (
            sealed(b"EFNT\1\1\0\1w\0\x41"),
            "record must begin with a kind, a dtype and a rank, got 0x00 and 65",
        ),
        (sealed(b"EFNT\1" + vlq(2**62)), "it is truncated"),
        (
            shared_file(shape=(2**62, 2**62), rest=b"\0"),
            r"'w': shape must have a product below 2\*\*60 without",
        ),
        (
            shared_file(shape=(2**50,), rest=b"\0"),
            "'w': tensor must take at most 1047.* bytes, got 4503599627370496",
        ),
        (
            shared_file(shape=(0, 2**62), rest=b"\0"),
            r"below 2\*\*60 without its zeros, got \(0, 4611686018427387904\)",
        ),
        (
            shared_file(k=2**40, shape=(4,)),
            "data must hold 2199023255552 more bytes for codebook at byte 18, got 16",
        ),
        (shared_file(shape=(4,), rest=b"\2"), "coding must be 0, or 1 up to 65536 symbols, got 2"),
        (shared_file(k=3, shape=(4,), rest=b"\0\xff"), "symbols must be below 3, got 3"),
        (shared_file(k=0, shape=(4,), rest=b"\0"), "symbols must be below 0, got 0"),
        (shared_file(k=3, shape=(4,), rest=b"\1\1\x1c\1\0"), "Kraft's equality, got 3 / 2; over-subscribed"),
        (shared_file(k=3, shape=(4,), rest=b"\1\1\xc0\1\0"), "Kraft's equality, got 2 / 4; incomplete"),
        (shared_file(shape=(4,), tag=0x20, rest=b"\0\1"), "gap width must be in 1 to 16, got 0"),
        (shared_file(shape=(4,), tag=0x20, rest=b"\x11\1"), "gap width must be in 1 to 16, got 17"),
        (shared_file(shape=(4,), tag=0x20, rest=b"\3\5"), "entries must be at most the 4 weights, got 5"),
        (shared_file(shape=(4,), tag=0x20, rest=b"\3\1\0\x80\0"), "positions must be below 4, got 4"),
        (shared_file(shape=(4,), tag=0x20, rest=b"\3\1\0\xe0\0"), "is_filler must end in False"),
    ],
)
def test_refused_files(data, message):
    with pytest.raises(CorruptFileError, match=message):
        read(io.BytesIO(data), max_bytes=LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        shared_file(shape=(2**40,), rest=b"\0"),  # No bits an index: one value.
        shared_file(shape=(2**40,), tag=0x20, rest=b"\1\0\0\0"),  # Nothing kept.
        shared_file(k=2, shape=(2**17,), tag=0x20, rest=b"\1" + vlq(2**17) + b"\1" + vlq(2**40)),
        shared_file(k=2, shape=(8,), rest=b"\1" + vlq(200_000) + b"\xff" * 200_000),  # A code table.
        sealed(b"EFNT\1" + vlq(999) + b"".join(b"\0\3%03d\0\1\0" % i for i in range(999))),  # Empty tensors.
        # 100 names that share the 60,000 letters of the first: 6 MB.
        sealed(b"EFNT\1" + vlq(100) + b"\0" + vlq(60_000) + b"a" * 60_000 + b"\0\1\0" + NAMES),
    ],
)
def test_hostile_sizes_are_refused_before_allocation(data):
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError):
            read(io.BytesIO(data), max_bytes=1 << 18)
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


def test_limit_is_on_file_and_arrays(tmp_path):
    tensors = {"w": Shared(np.ones(1, np.float32), np.zeros(1000, np.int32))}
    write(tmp_path / "net", tensors)
    with pytest.raises(
        CorruptFileError, match=r"net: 'w': tensor must take at most .* raise max_bytes if trusted"
    ):
        read(tmp_path / "net", max_bytes=5000)  # 4000 of indices, 4 of values, 1024 + 1 of objects.
    assert_same(read(tmp_path / "net", max_bytes=5029), tensors)
    with pytest.raises(CorruptFileError, match="net: file must be at most 20 bytes"):
        read(tmp_path / "net", max_bytes=20)
    with pytest.raises(CorruptFileError, match="net: tensors must take at most 1000 bytes"):
        read(tmp_path / "net", max_bytes=1000)
    write(tmp_path / "two", {"v": tensors["w"], **tensors})
    with pytest.raises(CorruptFileError, match="two: 'w': tensor must take at most 2921 bytes, got 4000"):
        read(tmp_path / "two", max_bytes=8975)  # Both need 2 * 5029; what is left for the second is 2921.
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "other")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net"
    write(path, {"w": Dense(np.ones(3))})
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, network())
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["net"]


@pytest.mark.parametrize("index_bits", [0, 17])
def test_writing_refuses_a_gap_width(index_bits):
    with pytest.raises(ValueError, match=f"index_bits must be in 1 to 16 or 'best', got {index_bits}"):
        write(io.BytesIO(), {}, index_bits=index_bits)


@pytest.mark.parametrize("index_bits", ["smallest", 2.0])
def test_a_gap_width_is_an_integer(index_bits):
    with pytest.raises(ValueError, match="index_bits must be in 1 to 16 or 'best', got"):
        inspect.unwrap(check_index_bits)(index_bits)  # Without the check of types that tests run under.


def test_writing_refuses_what_is_no_tensor():
    with pytest.raises(ValueError, match="fc/w must be Shared or Dense, got ndarray; wrap the array"):
        inspect.unwrap(write)(io.BytesIO(), {"fc/w": np.ones(3)})


def test_an_alphabet_too_large_for_huffman_has_fixed_widths():
    k = (1 << 16) + 1
    tensors = {"w": Shared(np.arange(k, dtype=np.float32), np.zeros(100, np.int32))}
    data, report = data_of(tensors)
    assert report.rows[0].weight_bits_huffman == report.rows[0].weight_bits == 17
    assert_same(read(io.BytesIO(data)), tensors)
