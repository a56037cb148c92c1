"""The house keeps its order: imports go down only, the wheel holds every package, functions are short.

import-linter reads the contract in setup.cfg, but sees neither `kernels/` (imported as `efficient.kernels`),
nor what is outside `efficient`, nor a private module of JAX: those are read from the syntax here.
"""

import ast
import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = {
    "efficient": "efficient",
    "kernels": "efficient.kernels",
}  # folder: the name that it is imported by
FLOOR = ("efficient.core", "efficient.coding")
ONE_OF = ("prune", "quantize", "factorize", "adapt", "models", "data")  # these do not import each other
# Folder: which of our own modules it may import, each with what is inside it. The longest that fits counts.
MAY_IMPORT = {
    "efficient": ("efficient",),
    "efficient/coding": ("efficient.coding",),
    "efficient/core": FLOOR,
    "kernels": ("efficient.kernels", *FLOOR),
    "efficient/search": ("efficient.search", *FLOOR),
    **{
        f"efficient/{name}": (f"efficient.{name}", "efficient.search", "efficient.kernels", *FLOOR)
        for name in ONE_OF
    },
    "experiments": ("efficient", "experiments"),
}
OURS = {"efficient", "kernels", "experiments", "tests"}
NO_NOUN = {"utils", "util", "common", "misc", "helpers", "helper"}
LONGEST = 80  # lines of a function, its docstring included


def sources(*folders: str, root: Path = ROOT) -> list[PurePosixPath]:
    """The Python files under these folders, relative to the root."""
    found = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    return [PurePosixPath(path.relative_to(root)) for path in found]


def tree(path: PurePosixPath) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


# ---- imports


def imported(module: ast.Module, path: PurePosixPath) -> Iterator[tuple[int, str]]:
    """`(line, absolute name)` of every import, wherever it stands, and of every use of `jax._src`."""
    folder = SHIPPED.get(path.parts[0], path.parts[0])
    package = [*folder.split("."), *path.parent.parts[1:]]
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "jax._src":
            yield node.lineno, "jax._src"


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def breaches(module: ast.Module, path: PurePosixPath) -> list[str]:
    """The imports of a file that its folder may not make."""
    folder = max((f for f in MAY_IMPORT if path.is_relative_to(f)), key=len)
    return [
        f"{path}:{line} imports {name}; {folder}/ may import {', '.join(MAY_IMPORT[folder])} of ours"
        for line, name in imported(module, path)
        if inside(name, "jax._src")
        or (name.split(".")[0] in OURS and not any(inside(name, one) for one in MAY_IMPORT[folder]))
    ]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the contract of a folder's setup.cfg."""
    command = "from importlinter.cli import lint_imports; import sys; sys.path.insert(0, '.'); "
    command += "sys.exit(lint_imports('setup.cfg', no_cache=True))"
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_down_only():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_contract_sees_an_import_that_goes_up(tmp_path):
    shutil.copytree(ROOT / "efficient", tmp_path / "efficient", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    with (tmp_path / "efficient" / "core" / "leaf.py").open("a") as file:
        file.write("\n\ndef late():\n    import efficient.train.step\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "efficient.core.leaf -> efficient.train.step" in done.stdout


@pytest.mark.parametrize("folder", ["efficient", "kernels", "experiments"])
def test_every_folder_imports_only_what_it_may(folder):
    found = sources(folder)
    assert found
    assert [breach for path in found for breach in breaches(tree(path), path)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/matmul/reference.py", "from efficient.quantize import linear"),
        ("kernels/__init__.py", "import efficient"),
        ("efficient/prune/mask.py", "def late():\n    from efficient.quantize.linear import linear"),
        ("efficient/prune/mask.py", "from ..quantize import linear"),
        ("efficient/prune/mask.py", "from efficient import data"),
        ("efficient/adapt/lora.py", "import efficient.models.zoo as zoo"),
        ("efficient/core/leaf.py", "from efficient import kernels"),
        ("efficient/train/step.py", "from experiments import frame"),
        ("efficient/train/step.py", "import kernels.matmul"),
        ("efficient/train/step.py", "from jax import _src"),
        ("efficient/train/step.py", "import jax\n\ncore = jax._src.core"),
        ("kernels/__init__.py", "from jax._src.core import Trace"),
        ("experiments/profile.py", "from tests.trees import tree"),
    ],
)
def test_a_breach_is_seen(path, source):
    (breach,) = breaches(ast.parse(source), PurePosixPath(path))
    assert breach.startswith(f"{path}:")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("kernels/matmul/pallas_tpu.py", "from efficient.core.leaf import Leaf\nfrom . import reference"),
        (
            "efficient/prune/mask.py",
            "from efficient.kernels import matmul\nfrom . import magnitude\nimport jax",
        ),
        ("efficient/train/step.py", "from efficient.data import Batch\nfrom efficient import lift"),
        ("experiments/profile.py", "from experiments.frame import main\nfrom efficient.models import zoo"),
    ],
)
def test_what_is_allowed_is_no_breach(path, source):
    assert breaches(ast.parse(source), PurePosixPath(path)) == []


# ---- the wheel


def packages(setup: str) -> set[str]:
    """The packages that the text of a setup.cfg lists."""
    config = configparser.ConfigParser()
    config.read_string(setup)
    return set(config["options"]["packages"].split())


def on_disk(root: Path = ROOT) -> set[str]:
    """The packages that folders with Python files make."""
    folders = {path.parent for path in sources(*SHIPPED, root=root)}
    return {".".join([SHIPPED[folder.parts[0]], *folder.parts[1:]]) for folder in folders}


def must_hold(root: Path) -> set[str]:
    """What the wheel of these sources must have: every module, `py.typed` and kernels in C++."""
    shipped = [path for folder in SHIPPED for path in (root / folder).rglob("*")]
    kept = [p.relative_to(root) for p in shipped if p.suffix in (".py", ".cc", ".h") or p.name == "py.typed"]
    return {Path(*SHIPPED[path.parts[0]].split("."), *path.parts[1:]).as_posix() for path in kept}


def lost(wanted: set[str], names: set[str]) -> str:
    """What is missing from a wheel, by package; empty where nothing is."""
    missing = sorted(wanted - names)
    folders = sorted({name.rpartition("/")[0].replace("/", ".") for name in missing})
    advice = f"the wheel lacks {', '.join(missing)}; list {', '.join(folders)} under packages in setup.cfg."
    return advice if missing else ""


def test_setup_lists_every_package():
    assert packages((ROOT / "setup.cfg").read_text()) == on_disk()


def test_a_folder_that_is_not_listed_is_seen(tmp_path):
    for name in ("efficient/__init__.py", "efficient/prune/mask.py", "kernels/matmul/reference.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "efficient" / "py.typed").touch()
    assert on_disk(tmp_path) == {"efficient", "efficient.prune", "efficient.kernels.matmul"}
    listed = packages("[options]\npackages =\n    efficient\n    efficient.prune\n")
    assert on_disk(tmp_path) - listed == {"efficient.kernels.matmul"}
    held = {"efficient/__init__.py", "efficient/prune/mask.py", "efficient/py.typed"}
    assert lost(must_hold(tmp_path), held) == (
        "the wheel lacks efficient/kernels/matmul/reference.py; "
        "list efficient.kernels.matmul under packages in setup.cfg."
    )
    assert lost(must_hold(tmp_path), held | {"efficient/kernels/matmul/reference.py"}) == ""


def python(*arguments: str, folder: Path, path: str = "") -> str:
    """What Python prints, run in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": path} if path else {}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


WHERE = "import pathlib, efficient.kernels as k; print(pathlib.Path(k.__file__).resolve())"


def test_kernels_import_from_the_checkout():
    """The set-up is editable: the name leads to the folder."""
    assert Path(python("-c", WHERE, folder=ROOT)) == ROOT.resolve() / "kernels" / "__init__.py"


@pytest.mark.slow
def test_the_wheel_holds_everything(tmp_path):
    source, wheels, site = (tmp_path / name for name in ("source", "wheels", "site"))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # else deleted, and not yet committed
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    wanted = must_hold(source)
    assert {"efficient/py.typed", "efficient/__init__.py", "efficient/kernels/__init__.py"} <= wanted
    build = (
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        str(wheels),
    )
    python("-m", "pip", *build, str(source), folder=tmp_path)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not (message := lost(wanted, set(archive.namelist()))), message
        archive.extractall(site)
    where = python("-c", WHERE, folder=tmp_path, path=str(site))
    assert Path(where) == site.resolve() / "efficient" / "kernels" / "__init__.py"


# ---- style


def test_every_module_says_what_it_is():
    found = sources("efficient", "kernels", "experiments")
    assert [str(path) for path in found if not ast.get_docstring(tree(path))] == []


def test_every_file_has_a_noun_for_a_name():
    found = sources("efficient", "kernels", "experiments", "tests")
    assert [str(path) for path in found if NO_NOUN & {path.stem, *path.parent.parts}] == []


def too_long(module: ast.Module) -> list[str]:
    """The functions of more than `LONGEST` lines."""
    functions = [
        node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lines = [(node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    return [f"{node.name}: {count} lines" for node, count in lines if count > LONGEST]


def test_functions_are_short():
    found = {str(path): too_long(tree(path)) for path in sources("efficient", "kernels", "experiments")}
    assert {path: functions for path, functions in found.items() if functions} == {}


def test_a_long_function_is_seen():
    body = "    pass\n" * LONGEST
    assert too_long(ast.parse(f"def long():\n{body}")) == [f"long: {LONGEST + 1} lines"]
    assert too_long(ast.parse(f"def short():\n{body[9:]}")) == []
