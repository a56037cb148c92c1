"""Data sets by name, and what the package needs to be imported."""

import subprocess
import sys

import numpy as np
import pytest

from efficient.data import MissingDataError, digits, load


def test_by_name():
    assert load("digits").sha256 == digits().sha256
    assert load("digits").name == "digits"


def test_folder_is_split_as_stated_and_idx_is_read(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(5):
            Image.new("RGB", (2, 2)).save(tmp_path / name / f"{index}.png")
    dataset = load(f"folder:{tmp_path}")
    assert np.bincount(dataset.test_labels).tolist() == [1, 1]
    assert "HoldOut(fraction=0.2, seed=0)" in dataset.source
    assert load("folder", folder=tmp_path).sha256 == dataset.sha256
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    with pytest.raises(MissingDataError, match="train has no class"):
        load("folder", folder=tmp_path)
    with pytest.raises(MissingDataError, match="has no train-images-idx3-ubyte"):
        load(f"idx:{tmp_path}")
    with pytest.raises(MissingDataError, match="Fashion-MNIST is not whole in"):
        load("fashion_mnist", folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mnist", "did you mean .*'mnist5k'"),
        ("Fashion-MNIST", "did you mean 'fashion_mnist'"),
        ("digit", r"did you mean 'digits'\?"),
        ("zzzzzz", r"choose one of these\."),
        ("", r"choose one of these\."),
    ],
)
def test_unknown_names_get_near_ones(name, near):
    with pytest.raises(
        ValueError, match=rf"name must be one of \('digits', .*'folder'\), got {name!r}; {near}"
    ):
        load(name)


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("digits", "x", r"folder must be None for 'digits', got 'x'; it is read from its package\."),
        ("mnist5k:x", None, r"folder must be None for 'mnist5k', got 'x';"),
        ("idx", None, r"folder must be given for 'idx', got None; say 'idx:FOLDER'\."),
        ("folder", None, r"folder must be given for 'folder', got None; say 'folder:FOLDER'\."),
        ("idx:x", "y", r"folder must be said once, got 'y' and 'idx:x'; drop one of them\."),
    ],
)
def test_refuses_folders(name, folder, message):
    with pytest.raises(ValueError, match=message):
        load(name, folder=folder)


def test_importing_and_loading_imports_no_extra_and_opens_no_socket():
    code = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import efficient.data
efficient.data.load("digits")
found = {"sklearn", "mlxtend", "PIL", "grain", "tensorflow_datasets", "pandas"} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
