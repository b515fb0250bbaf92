"""A cache of compiled wheels: `<cache>/wheels/<key>/`, the wheel beside `build.json`, which says what it was made from.

The key holds everything that shapes the machine code. pip's own cache cannot serve: it looks a wheel up by name and
version alone, so a build for another CPU, or one that crashes, would come back out of it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from base import SetupError, locked

# What a wheel is made from, as plain data: "source" (a pinned requirement), "compiler" and whatever else matters.
Inputs = dict[str, Any]
# (inputs, scratch folder, log file) -> the new wheel somewhere in the scratch folder.
Compile = Callable[[Inputs, Path, Path], Path]


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """`$SMALLHOLD_CACHE`, else `smallhold` in the user's cache folder."""
    if environ.get("SMALLHOLD_CACHE"):
        return Path(environ["SMALLHOLD_CACHE"]).expanduser().absolute()
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "smallhold"


def build_key(inputs: Inputs) -> str:
    """Sixteen hexadecimal digits over all inputs."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def find_wheel(wheels: Path, inputs: Inputs) -> Path | None:
    """The whole and unaltered wheel for `inputs`, if there is one.

    A machine without a compiler takes a wheel that differs in the compiler alone: it was carried there on purpose.
    """
    exact = _whole_wheel(wheels / build_key(inputs))
    if exact or inputs["compiler"]:
        return exact
    for record in sorted(wheels.glob("*/build.json")):
        if {**_read_record(record).get("inputs", {}), "compiler": ""} == inputs:
            return _whole_wheel(record.parent)
    return None


def ensure_wheel(wheels: Path, inputs: Inputs, compile_wheel: Compile) -> Path:
    """The wheel for `inputs`, compiled first where there is none.

    One process compiles at a time, the others wait for it. An interrupted or failed build leaves only its log.
    """
    if found := find_wheel(wheels, inputs):
        return found
    wheels.mkdir(parents=True, exist_ok=True)
    key = build_key(inputs)
    log = wheels / f"{key}.log"
    with locked(wheels / f"{key}.lock", "compiling llama-cpp-python"):
        if found := find_wheel(wheels, inputs):
            return found
        for stale in wheels.glob(f".{key}-*"):  # of a build that was killed
            shutil.rmtree(stale, ignore_errors=True)
        with _scratch(wheels, key) as scratch:
            wheel = _keep(wheels, inputs, compile_wheel(inputs, Path(scratch), log), Path(scratch))
        log.unlink(missing_ok=True)
        return wheel


def adopt_wheel(wheels: Path, inputs: Inputs, wheel: Path) -> Path:
    """Keep a copy of `wheel`, built elsewhere, as the one for `inputs`. That it suits this CPU is the caller's word."""
    name, version = inputs["source"].split()[0].split("==")
    if not wheel.is_file() or not wheel.name.startswith(f"{name.replace('-', '_')}-{version}-"):
        raise SetupError(f"{wheel} is no wheel of {name} {version}")
    wheels.mkdir(parents=True, exist_ok=True)
    key = build_key(inputs)
    with locked(wheels / f"{key}.lock", "compiling llama-cpp-python"), _scratch(wheels, key) as scratch:
        return _keep(wheels, inputs, wheel, Path(scratch))


def _scratch(wheels: Path, key: str) -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix=f".{key}-", dir=wheels, ignore_cleanup_errors=True)


def _keep(wheels: Path, inputs: Inputs, wheel: Path, scratch: Path) -> Path:
    """Put the wheel and its record in place in one step."""
    whole = scratch / "whole"
    whole.mkdir()
    shutil.copy2(wheel, whole / wheel.name)
    record = {"wheel": wheel.name, "sha256": _sha256(whole / wheel.name), "inputs": inputs}
    (whole / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    target = wheels / build_key(inputs)
    if target.exists():
        shutil.rmtree(target)  # damaged, or replaced on purpose
    whole.rename(target)
    return target / wheel.name


def _whole_wheel(folder: Path) -> Path | None:
    record = _read_record(folder / "build.json")
    wheel = folder / str(record.get("wheel"))
    return wheel if wheel.is_file() and _sha256(wheel) == record.get("sha256") else None


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
