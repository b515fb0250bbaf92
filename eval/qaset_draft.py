"""Making a QA-set folder: it appears whole and checked, or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eval.files import write_text
from eval.qaset import load_qaset
from rag.errors import DataError

UNKNOWN_LICENSE = "unknown: ask where the data came from"


def write_meta(folder: Path, name: str, kind: str, license_: str, source: str) -> None:
    """Write the `meta.json` of a set."""
    meta = {"name": name, "kind": kind, "license": license_, "source": source}
    write_text(folder / "meta.json", json.dumps(meta, indent=2, ensure_ascii=False) + "\n")


def text_keys(row: Any, keys: tuple[str, ...], where: str) -> list[Any]:
    """Return the values of `keys`, strings but for the lists of SQuAD. Raises `DataError` that begins with `where`."""
    for key in keys:
        if not isinstance(row, dict) or key not in row:
            raise DataError(f"{where}: the key {key!r} is missing")
        kind = list if key in ("paragraphs", "qas", "answers") else str
        if not isinstance(row[key], kind):
            raise DataError(f"{where}: {key!r} must be a {kind.__name__}")
    return [row[key] for key in keys]


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to fill, which is checked as a QA set and then takes the place of `out`, empty or new."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not an empty folder", hint="Name a new folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield draft
        _check(draft)
        draft.chmod(0o755)
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check(draft: Path) -> None:
    """Check the folder as a set; what is wrong is told of the new file, since the draft goes."""
    try:
        load_qaset(draft)
    except DataError as error:
        raise DataError(error.message.replace(f"{draft}/", "in the new "), hint=error.hint) from error
