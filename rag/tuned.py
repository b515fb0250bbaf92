"""What was found best for a model on this machine: `tuned.toml`, a readable file beside the weights.

It names the settings that llama.cpp is to run with, and the weights where another quantization than the registry's was
chosen. It counts only where it was measured: on this processor, with this llama-cpp-python, for these weights of the
registry. Otherwise, and where the file it names is gone or differs from its SHA-256, it is left alone with a note in
the log, and the registry's weights run as if nothing had been tuned.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from rag.checksums import read_json, sha256_of, stamp, write_json
from rag.errors import ModelDamaged, SmallholdError
from rag.machine import cpu_model, installed
from rag.toml import read_toml
from rag.tuning import UNTUNED, Tuning

logger = logging.getLogger(__name__)

TUNED = "tuned.toml"
NOTES = "tune.json"  # every measurement, so that a tuning can go on where it was interrupted
WORKSHOP = "tuning"  # quantizations that are being tried
_CHECKED = "tuned.json"  # as verified.json is for the registry's files
_WEIGHTS = "tuned-*.gguf"


class Tuned(BaseModel):
    """The contents of `tuned.toml`.

    `file` is the name of the chosen weights in the same folder, "" for the registry's own; `fingerprint` is that of
    the registry's weights they were made from. `measured` is for people to read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str
    llama_cpp_python: str
    fingerprint: str
    quantization: str = ""
    file: str = Field("", pattern=r"^(tuned-[A-Za-z0-9_\-]+\.gguf)?$")
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    settings: Tuning = UNTUNED
    measured: Mapping[str, float | str] = {}


def this_machine(fingerprint: str) -> dict[str, str]:
    """Return what a tuning of the registry's weights `fingerprint` is bound to."""
    return {
        "cpu": cpu_model(),
        "llama_cpp_python": installed("llama-cpp-python") or "",
        "fingerprint": fingerprint,
    }


def find_tuned(folder: Path, fingerprint: str) -> Tuned | None:
    """Return what was tuned for the model in `folder`; None where there is nothing, or, with a note, nothing valid."""
    if not (folder / TUNED).is_file():
        return None
    try:
        tuned = read_tuned(folder / TUNED)
        _refuse_elsewhere(tuned, fingerprint)
        if tuned.file:
            _check_weights(folder, tuned)
    except SmallholdError as error:
        logger.warning("%s is ignored, the registry's weights are used: %s", folder / TUNED, error.message)
        return None
    return tuned


def read_tuned(path: Path) -> Tuned:
    """Read the file. Raises `ModelDamaged` saying what is wrong in it."""
    try:
        return Tuned.model_validate(read_toml(path))
    except (OSError, ValueError) as error:
        raise ModelDamaged(f"it cannot be read: {error}") from error


def verify_tuned(folder: Path) -> Tuned:
    """Hash the tuned weights anew, however unchanged they look. Raises `ModelDamaged`."""
    tuned = read_tuned(folder / TUNED)
    if tuned.file:
        (folder / _CHECKED).unlink(missing_ok=True)
        _check_weights(folder, tuned)
    return tuned


def _check_weights(folder: Path, tuned: Tuned) -> None:
    """Compare the tuned weights with their SHA-256, which is computed once and again when the file has changed."""
    file = folder / tuned.file
    if not file.is_file():
        raise ModelDamaged(f"{tuned.file} is missing")
    seen = {"sha256": tuned.sha256, "stamp": stamp(file)}
    if read_json(folder / _CHECKED).get(tuned.file) == seen:
        return
    if (found := sha256_of(file)) != tuned.sha256:
        raise ModelDamaged(f"{tuned.file} was refused: its SHA-256 is {found}, not {tuned.sha256 or 'known'}")
    write_json(folder / _CHECKED, {tuned.file: seen})


def keep_tuned(folder: Path, tuned: Tuned, weights: Path | None) -> Tuned:
    """Put a tuning into effect: take `weights` into the folder, write `tuned.toml`, remove what was tuned before.

    Interrupted at any point it leaves the tuning before, or this one: the weights get a name of their own, and the
    readable file is replaced by one rename. Returns the record with the weights' name and hash.
    """
    if weights is not None:
        sha256 = sha256_of(weights)
        name = f"tuned-{tuned.quantization.lower()}-{sha256[:8]}.gguf"
        tuned = tuned.model_copy(update={"file": name, "sha256": sha256})
        weights.replace(folder / name)
        write_json(folder / _CHECKED, {name: {"sha256": sha256, "stamp": stamp(folder / name)}})
    beside = folder / f".{TUNED}"
    with beside.open("w", encoding="utf-8") as file:
        file.write(_text(tuned, folder.name))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / TUNED)
    _remove_weights(folder, but=tuned.file)
    return tuned


def drop_tuned(folder: Path) -> bool:
    """Go back to the registry's weights and llama.cpp's defaults, keeping what was measured; whether that changed."""
    had = (folder / TUNED).is_file()
    (folder / TUNED).unlink(missing_ok=True)
    (folder / _CHECKED).unlink(missing_ok=True)
    _remove_weights(folder, but="")
    return had


def forget_tuning(folder: Path) -> bool:
    """Remove every trace of tuning: the choice, its weights, what was tried and measured. Whether a choice went."""
    had = drop_tuned(folder)
    (folder / NOTES).unlink(missing_ok=True)
    shutil.rmtree(folder / WORKSHOP, ignore_errors=True)
    return had


def _refuse_elsewhere(tuned: Tuned, fingerprint: str) -> None:
    for name, now in this_machine(fingerprint).items():
        then = getattr(tuned, name)
        if then != now:
            raise ModelDamaged(f"it was measured with {name} {then!r}, and this is {now!r}")


def _remove_weights(folder: Path, *, but: str) -> None:
    for file in folder.glob(_WEIGHTS):
        if file.name != but:
            file.unlink()


def _text(tuned: Tuned, name: str) -> str:
    plain = tuned.model_dump()
    settings, measured = plain.pop("settings"), plain.pop("measured")
    lines = [
        f"# Measured by `smallhold models tune {name}` and used from then on, on this machine, for these weights.",
        f"# `smallhold models tune {name} --reset` goes back to the registry's file.",
        *(f"{key} = {json.dumps(value)}" for key, value in plain.items()),
        "",
        "[settings]",
        *(f"{key} = {json.dumps(value)}" for key, value in settings.items()),
        "",
        "[measured]",
        *(f"{key} = {json.dumps(value)}" for key, value in measured.items()),
    ]
    return "\n".join(lines) + "\n"
