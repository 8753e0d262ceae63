"""What the course needs of a machine, and what to do where it is missing. Imports no torch."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

Finding = tuple[str, str, str]  # what, how it is, what to do ("" where all is well)


def examine() -> list[Finding]:
    """One line a subject."""
    return [_python(), _torch(), _cores(), _memory(), _gpu(), _encoding(), _forks(), _weights()]


def _python() -> Finding:
    fine = sys.version_info >= (3, 11)
    return "Python", platform.python_version(), "" if fine else "install 3.11 or newer"


def installed(name: str) -> str:
    """A distribution's version; not every one of ours need be installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _torch() -> Finding:
    there = installed("torch")
    return "torch", there, "pip install -e . in the project" if "not" in there else ""


def _cores() -> Finding:
    return "cores", f"{os.cpu_count()}; a check uses one", ""


def _memory() -> Finding:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):
        return "memory", "unknown here; a check is not limited", ""
    return "memory", f"{free:.1f} GiB free", "" if free > 1 else "close something: 1 GiB is needed"


def _gpu() -> Finding:
    there = Path("/proc/driver/nvidia").exists()
    return "GPU", f"{'one is' if there else 'none'} there; no chapter up to 7 needs one", ""


def _encoding() -> Finding:
    name = (sys.stdout.encoding or "unknown").lower()
    fine = name.replace("-", "") == "utf8"
    return "encoding", name, "" if fine else "set PYTHONUTF8=1"


def _forks() -> Finding:
    if hasattr(os, "fork"):
        return "forks", "yes: your code runs in a process of its own", ""
    return "forks", "none on this system", "use the Windows Subsystem for Linux"


def _weights() -> Finding:
    cache = Path(os.environ.get("GPT2_SCRATCH_CACHE") or "~/.cache/gpt2-scratch").expanduser()
    names = sorted(p.name for p in cache.iterdir() if p.is_dir()) if cache.is_dir() else []
    found = ", ".join(names) or "none fetched; chapter 7 then uses the small ones that come along"
    return "weights", found, ""
