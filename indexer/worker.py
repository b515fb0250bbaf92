"""The child process that parses files: one request a line on its input, one answer a line on its output, all JSON.

A request is `{"path", "name", "format"}`, with `ocr` (languages, as Tesseract names them) where pages that are pictures
are to be recognised; its answer `{"text", "title", "metadata"}`; to unpack an archive `{"path", "into", "suffixes"}`,
answered with `{"members", "skipped"}`. Either comes with the `seconds` of the processor and the `patience` by the clock
that it may take, and may be answered with `{"error"}`, with `passing` true where the reason may lie outside of the
file, or with `{"missing"}`. Lines `ALIVE` before the answer say that a page was recognised, and that the clocks began
anew. The first line of all, `{}`, says that the process has started.
`indexer.load.Loader` runs it as `python -m indexer.worker`.
"""

import errno
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from indexer.archive import unpack
from indexer.parsed import FILE_BYTES, Parsed, checked
from rag.errors import UnreadableDocument

ALIVE = {"alive": True}
_MEMORY_BYTES = 4_000_000_000
_DEEPEST = 20_000  # calls; pages nest deeper than Python's default of 1,000 allows


# Modules with libraries that take long to import, or may be missing: each is imported when its format first comes.
_PARSERS = {
    "csv": ("load_csv", "parse_csv"),
    "docx": ("load_docx", "parse_docx"),
    "eml": ("load_mail", "parse_eml"),
    "epub": ("load_epub", "parse_epub"),
    "html": ("load_html", "parse_html"),
    "image": ("load_image", "parse_image"),
    "ipynb": ("load_notebook", "parse_notebook"),
    "json": ("load_json", "parse_json"),
    "jsonl": ("load_json", "parse_jsonl"),
    "msg": ("load_mail", "parse_msg"),
    "pdf": ("load_pdf", "parse_pdf"),
    "pptx": ("load_pptx", "parse_pptx"),
    "xlsx": ("load_xlsx", "parse_xlsx"),
}


def parse(path: Path, name: str, source: str, *helpers: Any) -> Parsed:
    """Return what the parser of the format `source` makes of a file called `name`, with the `helpers` that it takes.

    Raises `UnreadableDocument`.
    """
    with path.open("rb") as file:
        content = file.read(FILE_BYTES + 1)
    if len(content) > FILE_BYTES:
        raise UnreadableDocument("too large: it grew while it was read")
    module, function = _PARSERS[source]
    parsed: Parsed = getattr(import_module(f"indexer.{module}"), function)(content, name, *helpers)
    return checked(parsed)


def answer(request: dict[str, Any], alive: Callable[[], None]) -> dict[str, Any]:
    """Parse one file, or unpack one archive; whatever goes wrong becomes the reason in `error`.

    `alive` is called between the pages that are recognised, and gives each the time of a file.
    """
    try:
        if "into" in request:
            unpacked = unpack(Path(request["path"]), Path(request["into"]), frozenset(request["suffixes"]))
            return {"members": unpacked.members, "skipped": unpacked.skipped}
        helpers = [_recogniser(request, alive)] if "ocr" in request else []
        parsed = parse(Path(request["path"]), request["name"], request["format"], *helpers)
    except UnreadableDocument as error:
        return {"error": error.message, "passing": error.passing}
    except OSError as error:
        return {
            "error": f"cannot be read: {error.strerror or error}",
            "passing": error.errno not in (None, errno.EINVAL),
        }
    except MemoryError:
        return {"error": f"too large: parsing it needs more than {_MEMORY_BYTES // 1_000_000_000} GB of memory"}
    except RecursionError:
        return {"error": "damaged: nested too deeply"}
    except ImportError as error:
        return {"missing": str(error)}
    except Exception as error:  # a parser's own failure on a damaged file; nothing of the file is in the message
        return {"error": f"damaged: the parser failed with {type(error).__name__}"}
    return {"text": parsed.text, "title": parsed.title, "metadata": dict(parsed.metadata)}


def _recogniser(request: dict[str, Any], alive: Callable[[], None]) -> Any:
    from indexer.ocr import Recogniser

    patience = 0.8 * request["patience"]  # less than what this process has: a page may fail, and the file go on
    return Recogniser(request["ocr"], seconds=request["seconds"], patience=patience, alive=alive)


def main() -> None:
    """Answer requests until the input ends."""
    output = _own_output()
    _set_limits()
    _send(output, {})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        start_clocks = partial(_set_clocks, request["seconds"], int(request["patience"]) + 10)

        def alive(start_clocks: Callable[[], None] = start_clocks) -> None:
            start_clocks()
            _send(output, ALIVE)

        start_clocks()
        _send(output, answer(request, alive))
        _set_clocks(0, 0)


def _own_output() -> BinaryIO:
    """Standard output for answers alone: what libraries print goes nowhere."""
    output = os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    return output


def _set_clocks(seconds: float, alarm: int) -> None:
    """End this process after `seconds` of the processor's time, or after `alarm` by the clock; 0 stops them.

    If the parent has died, nobody else ends a parser that hangs.
    """
    if hasattr(signal, "setitimer"):  # Windows has none of them
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(alarm)


def _set_limits() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(_DEEPEST)
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    except (ImportError, OSError, ValueError):  # Windows has none, macOS refuses: the parent's clock still holds
        return


def _send(output: BinaryIO, message: dict[str, Any]) -> None:
    output.write(json.dumps(message).encode() + b"\n")
    output.flush()


if __name__ == "__main__":
    main()
