"""Measurements of a tuning, written down one by one, so that an interrupted one goes on where it stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag.checksums import write_json
from rag.speed import Sample

_MAX_FILE = 50_000_000


class Notes:
    """A JSON file of samples by candidate, and of F1 by answers and question.

    `key` names all that the samples depend on; where the file's differs it is started anew.
    """

    def __init__(self, file: Path, key: Mapping[str, Any]) -> None:
        self._file = file
        self._key = dict(key)
        found = _read(file)
        same = found.get("key") == self._key
        self._samples: dict[str, list[list[float]]] = found.get("samples", {}) if same else {}
        self._scores: dict[str, dict[str, float]] = found.get("f1", {}) if same else {}

    def samples(self, name: str) -> list[Sample]:
        """Return the samples of a candidate, in the order in which they were taken."""
        return [Sample(*two) for two in self._samples.get(name, [])]

    def add_sample(self, name: str, sample: Sample) -> None:
        """Note one sample."""
        self._samples.setdefault(name, []).append([sample.read, sample.write])
        self._write()

    def scores(self, name: str) -> dict[str, float]:
        """Return F1 by question of what answers so."""
        return self._scores.get(name, {})

    def add_score(self, name: str, question: str, f1: float) -> None:
        """Note the F1 of one answer."""
        self._scores.setdefault(name, {})[question] = f1
        self._write()

    def _write(self) -> None:
        notes = {"key": self._key, "samples": self._samples, "f1": self._scores}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._file, notes)  # not synced: a note lost with the power is a second lost


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_FILE:
            return {}
        found = json.loads(file.read_text(encoding="utf-8"))
        valid = isinstance(found, dict) and _is_valid(found.get("samples", {}), found.get("f1", {}))
    except (OSError, ValueError):
        return {}
    return found if valid else {}


def _is_valid(samples: Any, scores: Any) -> bool:
    """Whether a file that somebody may have touched holds what was written."""
    return (
        isinstance(samples, dict)
        and isinstance(scores, dict)
        and all(isinstance(row, list) and all(_are_seconds(pair) for pair in row) for row in samples.values())
        and all(isinstance(row, dict) and all(_is_number(f1) for f1 in row.values()) for row in scores.values())
    )


def _are_seconds(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(_is_number(value) and value > 0 for value in pair)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
