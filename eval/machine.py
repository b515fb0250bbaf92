"""The machine that a run was measured on: seconds mean nothing without it."""

import os
import platform
from typing import Any

from rag.machine import cpu_model, installed

# What moves answers or seconds.
_PACKAGES = ("smallhold", "llama-cpp-python", "torch", "sentence-transformers", "faiss-cpu", "bm25s", "numpy")


def describe_machine() -> dict[str, Any]:
    """Return processor, usable cores, memory in bytes, operating system, Python and package versions."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := installed(name))},
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
