"""Where a run happened: versions, device, commit."""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from pathlib import Path

from experiments.frame.record import Device

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "efficient")
GENERATED = ("experiments/records", "RESULTS.md", "docs/ledger.html")  # what runs and the ledger write


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed (source tree)"


def versions() -> dict[str, str]:
    """Python and the libraries that decide a run's numbers."""
    return {"python": platform.python_version()} | {library: _version(library) for library in LIBRARIES}


def _cpu_model() -> str:
    """The CPU's name as its maker writes it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device() -> Device:
    """The default device of jax and the CPU beside it."""
    import jax

    first = jax.devices()[0]
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return Device(
        platform=first.platform,
        kind=first.device_kind,
        count=jax.device_count(),
        cores=len(affinity(0)) if affinity else os.cpu_count() or 1,
        cpu=_cpu_model(),
    )


def commit(root: Path = ROOT) -> tuple[str | None, bool | None]:
    """The commit of `root`'s repository and whether anything but records differs; None without one."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=True
            )
        except (OSError, subprocess.SubprocessError):  # no git, no repository or no commit
            return None
        return done.stdout.strip()

    head = git("rev-parse", "--verify", "--quiet", "HEAD")
    if head is None:
        return None, None
    status = git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in GENERATED))
    return head, None if status is None else bool(status)


def code_digest(*files: Path) -> str:
    """SHA-256 of `files`, the library and all experiments: parts kept from other code are not taken up."""
    spec = importlib.util.find_spec("efficient")
    roots = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    roots += [ROOT / "kernels", ROOT / "experiments"]
    sources = [path for root in roots for pattern in ("*.py", "*.cc") for path in root.rglob(pattern)]
    digest = hashlib.sha256()
    for path in sorted({*sources, *files}):
        digest.update(path.read_bytes())
    return digest.hexdigest()
