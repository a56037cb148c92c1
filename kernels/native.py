"""Native: C++ compiled once for this machine, kept by the hash of what made it, and called through `jax.ffi`.

The compiler is $CXX, or c++, g++ or clang++ as found, with $EFFICIENT_CXXFLAGS after its flags; XLA's headers
ship with jaxlib. The library lies in $EFFICIENT_CACHE, or in `~/.cache/efficient`; one that is there is used
as it is. Without a compiler there is one notice, and callers take their reference.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import jax

FLAGS = ("-w", "-O3", "-std=c++17", "-shared", "-fPIC", "-DNDEBUG")
COMPILERS = ("c++", "g++", "clang++")
HERE = Path(__file__).parent


class NoCompiler(RuntimeError):
    """Nothing could be compiled."""


def cache_folder() -> Path:
    """Where libraries are kept."""
    chosen = os.environ.get("EFFICIENT_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "efficient"


def compiler() -> str:
    """The C++ compiler's path.

    Raises:
      NoCompiler: there is none.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    for name in names:
        if found := shutil.which(name):
            return found
    raise NoCompiler(
        f"a C++ compiler must be on the path, got none of {', '.join(names)}; install g++ or set CXX."
    )


def library(source: Path, *, flags: tuple[str, ...] = FLAGS) -> Path:
    """The shared library of a source file, compiled if it is not there.

    Two processes that compile at once write the same file, each by a rename.

    Raises:
      NoCompiler: there is no compiler, or it fails; the message has its last lines.
    """
    tool, flags = compiler(), (*flags, *os.environ.get("EFFICIENT_CXXFLAGS", "").split())
    version = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout
    include = [HERE, source.parent, Path(jax.ffi.include_dir())]
    made_of = [*sorted(HERE.glob("*.h")), *sorted(source.parent.glob("*.h")), source]
    parts = [path.read_bytes() for path in made_of]
    parts += [repr((flags, version, sys.platform, jax.lib.__version__)).encode()]
    name = f"{source.parent.name}-{source.stem}-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    target = cache_folder() / name
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            out = Path(folder) / name
            command = [tool, *flags, *(f"-I{path}" for path in include), str(source), "-o", str(out)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
            if done.returncode:
                last = "\n".join(done.stderr.splitlines()[-8:])
                raise NoCompiler(f"{tool} must compile {source.name}, got exit {done.returncode}:\n{last}")
            os.replace(out, target)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoCompiler(f"{source.name} must be compiled into {target.parent}, got {error}.") from error
    return target


@functools.cache
def registered(source: Path, symbol: str, target: str) -> bool:
    """Whether the handler `symbol` of a source is ready as the FFI target `target`; once a process.

    Where it cannot be, a warning says why.
    """
    try:
        handler = getattr(ctypes.CDLL(str(library(source))), symbol)
    except (NoCompiler, OSError, AttributeError) as error:
        warnings.warn(f"{target}: the slower reference is used, as {error}", RuntimeWarning, stacklevel=2)
        return False
    jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(handler), platform="cpu")
    return True
