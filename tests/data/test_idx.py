"""The IDX format: a file is hostile until parsed."""

import gzip
import math
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from efficient.data import DataFormatError, MissingDataError, idx_folder, parse_idx, read_idx

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
SHAPES = [(5,), (2, 3), (3, 0, 2), (1, 2, 2, 3)]


def header(code: int, *shape: int) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def write_idx(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    return header(code, *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def test_golden_by_hand():
    # two zero bytes, 0x0B = int16, two axes of 2 and 3; then 1, -1, 256, 258, 0, -32768, big-endian.
    data = bytes.fromhex("00000b02 00000002 00000003 0001 ffff 0100 0102 0000 8000".replace(" ", ""))
    array = parse_idx(data)
    assert array.dtype == np.dtype("int16")
    assert array.dtype.isnative
    assert array.tolist() == [[1, -1, 256], [258, 0, -32768]]
    assert parse_idx(gzip.compress(data)).tolist() == array.tolist()


@given(
    kind=st.sampled_from(sorted(CODES)), shape=st.sampled_from(SHAPES), zipped=st.booleans(), data=st.data()
)
def test_what_was_written_is_read(kind, shape, zipped, data):
    size = math.prod(shape) * int(kind[1])
    raw = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype=kind).reshape(shape)
    written = write_idx(raw)
    read = parse_idx(gzip.compress(written) if zipped else written)
    assert read.shape == shape
    assert read.dtype == np.dtype(kind)
    assert read.tobytes() == raw.tobytes()


def check_hostile(data: bytes) -> None:
    """Either the declared error, or exactly the shape and bytes that the header says."""
    try:
        array = parse_idx(data, max_bytes=1 << 16)
    except DataFormatError:
        return
    plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    axes = plain[3]
    assert array.shape == struct.unpack(f">{axes}I", plain[4 : 4 + 4 * axes])
    assert len(plain) == 4 + 4 * axes + array.nbytes
    assert CODES[array.dtype.str[1:]] == plain[2]


@given(data=st.binary(max_size=80), zipped=st.booleans())
@settings(max_examples=300)
@example(data=b"", zipped=False)
@example(data=b"\x1f\x8b", zipped=False)
@example(data=header(8, 0, 2**32 - 1, 2**32 - 1), zipped=True)
def test_fuzz_any_bytes(data, zipped):
    check_hostile(gzip.compress(data) if zipped else data)


@given(
    code=st.sampled_from([0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E, 0x0A]),
    sizes=st.lists(st.sampled_from([0, 1, 2, 3, 255, 2**31, 2**32 - 1]), max_size=5),
    body=st.binary(max_size=40),
    zipped=st.booleans(),
)
@settings(max_examples=300)
def test_fuzz_headers(code, sizes, body, zipped):
    data = header(code, *sizes) + body
    check_hostile(gzip.compress(data) if zipped else data)


@given(at=st.integers(0, 200), value=st.integers(0, 255), zipped=st.booleans(), cut=st.integers(0, 60))
@settings(max_examples=300)
def test_fuzz_one_changed_byte_and_a_cut(at, value, zipped, cut):
    good = write_idx(np.arange(12, dtype=np.int16).reshape(3, 4))
    data = bytearray(gzip.compress(good) if zipped else good)
    data[at % len(data)] = value
    check_hostile(bytes(data[: len(data) - cut % len(data)]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"\x01\x00\x08\x01",
            r"IDX magic must start with two zero bytes, got b'\\x01\\x00\\x08\\x01'; is it",
        ),
        (b"\x00\x00\x08", r"IDX magic must start with two zero bytes, got b'\\x00\\x00\\x08';"),
        (b"\x00\x00\x0a\x01\x00\x00\x00\x00", r"IDX type must be one of \['0x8'.*got 0xa;"),
        (b"\x00\x00\x08\x00", r"IDX number of axes must be in \[1, 32\], got 0;"),
        (b"\x00\x00\x08\x21" + bytes(200), r"IDX number of axes must be in \[1, 32\], got 33;"),
        (b"\x00\x00\x08\x02\x00\x00\x00\x01", r"IDX header must be 12 bytes for 2 axes, got 8;"),
        (header(8, 4) + b"abc", r"IDX data of shape \(4,\) must be 12 bytes with its header, got 11;"),
        (header(8, 4) + b"abcde", r"IDX data of shape \(4,\) must be 12 bytes with its header, got more;"),
        (
            header(0x0E, 2**27 + 1),
            r"IDX sizes must make an array of at most 1073741824 bytes, got float64 \(134217729,\); raise",
        ),
        (header(8, 0, 2**31), r"IDX sizes must make an array of at most 1073741824 bytes, got"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_refuses(data, message, zipped):
    with pytest.raises(DataFormatError, match=message):
        parse_idx(gzip.compress(data) if zipped else data)


def test_refuses_damaged_gzip():
    whole = gzip.compress(write_idx(np.arange(100, dtype=np.int32)))
    wrong_sum = bytearray(whole)
    wrong_sum[-8] ^= 1
    for data in (whole[:-1], bytes(wrong_sum), whole + b"x", whole[:40]):
        with pytest.raises(
            DataFormatError, match=r"gzip data must be a whole, undamaged stream, got .*; copy"
        ):
            parse_idx(data)


def test_a_decompression_bomb_is_not_expanded():
    bomb = gzip.compress(header(8, 10) + bytes(64 << 20), compresslevel=1)
    tracemalloc.start()
    with pytest.raises(DataFormatError, match="got more; copy it again"):
        parse_idx(bomb)
    # one read buffer of gzip's reader, not the 64 MiB inside.
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def save_folder(folder, *, zipped=True, images=None, labels=None):
    images = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3) if images is None else images
    labels = np.array([0, 1, 2, 1], dtype=np.uint8) if labels is None else labels
    for stem, array in (
        ("train-images-idx3-ubyte", images),
        ("train-labels-idx1-ubyte", labels),
        ("t10k-images-idx3-ubyte", images[:2]),
        ("t10k-labels-idx1-ubyte", labels[:2]),
    ):
        data = write_idx(array)
        name = stem + ".gz" if zipped else stem
        (folder / name).write_bytes(gzip.compress(data) if zipped else data)


@pytest.mark.parametrize("zipped", [False, True])
def test_folder(tmp_path, zipped):
    save_folder(tmp_path, zipped=zipped)
    dataset = idx_folder(tmp_path)
    assert dataset.train_images.shape == (4, 2, 3, 1)
    assert dataset.train_images[1, 0, :, 0].tolist() == [6, 7, 8]
    assert dataset.train_labels.tolist() == [0, 1, 2, 1]
    assert dataset.test_labels.tolist() == [0, 1]
    assert dataset.classes == ("0", "1", "2")
    assert str(tmp_path) in dataset.source


def test_folder_with_dotted_names_and_channels(tmp_path):
    save_folder(tmp_path, zipped=False, images=np.zeros((4, 2, 3, 3), np.uint8))
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert idx_folder(tmp_path, classes=("a", "b", "c")).train_images.shape == (4, 2, 3, 3)


def test_agrees_with_an_independent_reader(tmp_path):
    loadlocal_mnist = pytest.importorskip("mlxtend.data").loadlocal_mnist
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    save_folder(tmp_path, zipped=False, images=pixels)
    images, labels = loadlocal_mnist(
        images_path=str(tmp_path / "train-images-idx3-ubyte"),
        labels_path=str(tmp_path / "train-labels-idx1-ubyte"),
    )
    dataset = idx_folder(tmp_path)
    np.testing.assert_array_equal(dataset.train_images.reshape(4, 784), images)
    np.testing.assert_array_equal(dataset.train_labels, labels)


def test_folder_refuses(tmp_path):
    with pytest.raises(
        MissingDataError, match=r"has no train-images-idx3-ubyte\. Nothing is downloaded.*\n  1\. put"
    ):
        idx_folder(tmp_path)
    cases = [
        (
            {"images": np.zeros((4, 2, 3), np.int16)},
            r"ubyte\.gz: images must be uint8 .*got int16\(4, 2, 3\);",
        ),
        ({"images": np.zeros((4, 2), np.uint8)}, r"ubyte\.gz: images must be uint8 .*got uint8\(4, 2\);"),
        (
            {"labels": np.zeros(4, np.float32)},
            r"labels-idx1-ubyte\.gz: labels must be integers \[n\], got float32",
        ),
        ({"labels": np.zeros((4, 1), np.uint8)}, r"labels must be integers \[n\], got uint8\(4, 1\);"),
        ({"labels": np.full(4, 2**16, np.int32)}, r"labels must be in \[0, 65536\), got \[65536, 65536\];"),
        ({"labels": np.full(4, -1, np.int8)}, r"labels must be in \[0, 65536\), got \[-1, -1\];"),
    ]
    for changes, message in cases:
        save_folder(tmp_path, **changes)
        with pytest.raises(DataFormatError, match=message):
            idx_folder(tmp_path)
    save_folder(tmp_path, labels=np.zeros(3, np.uint8))
    with pytest.raises(
        ValueError, match=r"train_labels must be int32 \[4\], one for each image, got int32\(3,\);"
    ):
        idx_folder(tmp_path)
    save_folder(tmp_path, images=np.zeros((0, 2, 3), np.uint8), labels=np.zeros(0, np.uint8))
    with pytest.raises(ValueError, match=r"train_images must be uint8 .*got uint8\(0, 2, 3, 1\);"):
        idx_folder(tmp_path)


def test_read_names_the_file(tmp_path):
    path = tmp_path / "bad.idx"
    path.write_bytes(b"nonsense")
    with pytest.raises(DataFormatError, match=r"bad\.idx: IDX magic must"):
        read_idx(path)
    path.write_bytes(bytes(1000))
    with pytest.raises(DataFormatError, match=r"bad\.idx must be at most 10 bytes and a header, got more;"):
        read_idx(path, max_bytes=10)
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none")
