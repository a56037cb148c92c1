"""Folders of images: what is read, and what damage is said to be."""

import io
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from efficient.data import DataFormatError, HoldOut, MissingDataError, image_folder

Image = pytest.importorskip("PIL.Image")
RED, GREEN = (255, 0, 0), (0, 255, 0)


def save(path, colour=RED, size=(4, 2), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


@pytest.fixture
def split_folder(tmp_path):
    for part, count in (("train", 3), ("test", 1)):
        for index in range(count):
            save(tmp_path / part / "green" / f"{index}.png", GREEN)
            save(tmp_path / part / "red" / f"{index}.bmp", RED)
    return tmp_path


def test_reads_parts_classes_and_pixels(split_folder):
    dataset = image_folder(split_folder)
    assert dataset.classes == ("green", "red")
    assert dataset.train_images.shape == (6, 2, 4, 3)
    assert dataset.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test_labels.tolist() == [0, 1]
    assert (dataset.train_images[0] == GREEN).all()
    assert (dataset.test_images[1] == RED).all()
    assert str(split_folder) in dataset.source
    assert "split by its folders" in dataset.source


def test_gray_and_resized(split_folder):
    dataset = image_folder(split_folder, size=(6, 5), mode="L")
    assert dataset.train_images.shape == (6, 6, 5, 1)
    # ITU-R 601 luma: 0.299 * 255 = 76.2 for red, 0.587 * 255 = 149.7 for green.
    assert set(np.unique(dataset.train_images)) == {76, 150}


def test_resize_is_height_then_width_and_averages(tmp_path):
    # left half black, right half white: two columns of one row keep the halves apart.
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 4:] = 255
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    image = image_folder(
        tmp_path, size=(1, 2), mode="L", hold_out=HoldOut(fraction=0.5, seed=0)
    ).train_images[0]
    assert image.shape == (1, 2, 1)
    assert image[0, 0, 0] < 64 < 191 < image[0, 1, 0]


def test_holds_out_a_stratified_share(tmp_path):
    for index in range(5):
        save(tmp_path / "a" / f"{index}.png", (index, 0, 0))
        save(tmp_path / "b" / f"{index}.jpg", (index, 0, 0))
    dataset = image_folder(tmp_path, hold_out=HoldOut(fraction=0.4, seed=3))
    assert np.bincount(dataset.train_labels).tolist() == [3, 3]
    assert np.bincount(dataset.test_labels).tolist() == [2, 2]
    assert "HoldOut(fraction=0.4, seed=3)" in dataset.source


def test_dot_files_are_skipped_and_camera_orientation_is_applied(split_folder):
    (split_folder / "train" / ".DS_Store").write_bytes(b"x")
    (split_folder / "train" / "red" / ".hidden.png").write_bytes(b"x")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    save(split_folder / "test" / "red" / "0.bmp", size=(4, 2))
    save(split_folder / "test" / "red" / "1.jpg", size=(2, 4), exif=exif)
    assert image_folder(split_folder).test_images.shape == (3, 2, 4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 3)}, r"size must be \(height, width\), each at least 1, got \(0, 3\);"),
        ({"mode": "CMYK"}, r"mode must be 'L' or 'RGB', got 'CMYK';"),
        (
            {"hold_out": HoldOut(fraction=0.5, seed=0)},
            r"hold_out must be given exactly where .*got HoldOut\(",
        ),
        ({"max_images": 7}, r"must have at most 7 images, got 8; raise max_images\."),
        ({"max_bytes": 191}, r"images must take at most 191 bytes, got 192; choose a smaller size\."),
        ({"size": (2**40, 2**40)}, r"images must take at most 4294967296 bytes, got \d{20,};"),
        ({"max_pixels": 7}, r"0\.png must have at most 7 pixels, got \(4, 2\); raise max_pixels\."),
    ],
)
def test_refuses_options(split_folder, options, message):
    with pytest.raises(ValueError, match=message):
        image_folder(split_folder, **options)


def test_refuses_layouts(tmp_path):
    hold_out = HoldOut(fraction=0.5, seed=0)
    with pytest.raises(
        MissingDataError, match=r"no folder .*none\. .*\n  1\. FOLDER/train/CLASS/IMAGE.*\n  2\. FOLDER"
    ):
        image_folder(tmp_path / "none", hold_out=hold_out)
    with pytest.raises(MissingDataError, match="has no class"):
        image_folder(tmp_path, hold_out=hold_out)
    with pytest.raises(
        ValueError, match=r"hold_out must be given exactly where .*got None; a split is either"
    ):
        image_folder(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(MissingDataError, match="a has no image"):
        image_folder(tmp_path, hold_out=hold_out)
    (tmp_path / "a" / "notes.txt").write_text("x")
    with pytest.raises(
        DataFormatError, match=r"notes\.txt must be a file ending in \('\.bmp'.*; move it away"
    ):
        image_folder(tmp_path, hold_out=hold_out)
    (tmp_path / "a" / "notes.txt").unlink()
    (tmp_path / "a" / "deeper.png").mkdir()
    with pytest.raises(DataFormatError, match=r"deeper\.png must be a file ending in"):
        image_folder(tmp_path, hold_out=hold_out)
    (tmp_path / "loose.png").write_bytes(b"x")
    (tmp_path / "a" / "deeper.png").rmdir()
    save(tmp_path / "a" / "0.png")
    with pytest.raises(DataFormatError, match=r"loose\.png must be a folder of one class, got a file;"):
        image_folder(tmp_path, hold_out=hold_out)


def test_refuses_parts_of_other_classes(split_folder):
    (split_folder / "test" / "red").rename(split_folder / "test" / "rot")
    with pytest.raises(
        ValueError, match=r"classes of 'test' must be those of 'train', \('green', 'red'\), got \('gr"
    ):
        image_folder(split_folder)


def test_names_the_file_that_is_wrong(split_folder):
    bad = split_folder / "train" / "red" / "1.bmp"
    whole = bad.read_bytes()
    gif = io.BytesIO()  # a whole image, of a format that is not tried
    Image.new("RGB", (4, 2), RED).save(gif, format="GIF")
    for data in (b"", b"nonsense", whole[:-5], gif.getvalue()):
        bad.write_bytes(data)
        with pytest.raises(
            DataFormatError, match=r"red.1\.bmp must be a whole image of \('BMP'.*; copy the file"
        ):
            image_folder(split_folder)
    save(bad, size=(2, 2))
    with pytest.raises(
        DataFormatError, match=r"1\.bmp must be \(height, width\) = \(2, 4\) as 0\.png is, got \(2, 2\)"
    ):
        image_folder(split_folder)
    bad.unlink()
    save(bad.with_suffix(".png"), mode="I;16", colour=40000)
    with pytest.raises(DataFormatError, match=r"1\.png must have 8 bits a channel, got mode 'I;16'; convert"):
        image_folder(split_folder)


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for part in ("train", "test"):
        save(folder / part / "a" / "0.png")
    return folder


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((np.arange(4 * 5 * 3) * 4).astype(np.uint8).reshape(4, 5, 3)).save(buffer, format=kind)
    return buffer.getvalue()


@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "PPM", "WEBP"]),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 40),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_fuzz_damaged_files(fuzz_folder, kind, edits, cut):
    data = bytearray(encoded(kind))
    for at, value in edits:
        data[at % len(data)] = value
    victim = fuzz_folder / "train" / "a" / "1.png"
    victim.write_bytes(bytes(data[: len(data) - cut]))
    try:
        dataset = image_folder(fuzz_folder, size=(3, 3), max_pixels=1 << 16)
    except DataFormatError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is None:
        assert dataset.train_images.shape == (2, 3, 3, 3)
    else:
        assert "1.png" in refusal


def test_without_pillow(split_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        ImportError, match=r"Pillow must be installed to read images; pip install 'efficient\[data\]'"
    ):
        image_folder(split_folder)
