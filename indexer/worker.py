"""The child process that parses files: one request a line on its input, one answer a line on its output, all JSON.

A request is `{"path", "name", "format"}`, its answer `{"text", "title", "metadata"}`; to unpack an archive
`{"path", "into", "suffixes"}`, answered with `{"members", "skipped"}`. Either comes with the `seconds` of the processor
and the `patience` by the clock that it may take, and may be answered with `{"error"}`, with `passing` true where the
reason may lie outside of the file, or with `{"missing"}`. The first line, `{}`, says that the process has started.
`indexer.load.Loader` runs it as `python -m indexer.worker`.
"""

import errno
import json
import os
import signal
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from indexer.archive import unpack
from indexer.parsed import FILE_BYTES, Parsed, checked
from rag.errors import UnreadableDocument

_MEMORY_BYTES = 4_000_000_000
_DEEPEST = 20_000  # calls; pages nest deeper than Python's default of 1,000 allows


# Modules with libraries that take long to import, or may be missing: each is imported when its format first comes.
_PARSERS = {
    "csv": ("load_csv", "parse_csv"),
    "docx": ("load_docx", "parse_docx"),
    "eml": ("load_mail", "parse_eml"),
    "epub": ("load_epub", "parse_epub"),
    "html": ("load_html", "parse_html"),
    "ipynb": ("load_notebook", "parse_notebook"),
    "json": ("load_json", "parse_json"),
    "jsonl": ("load_json", "parse_jsonl"),
    "msg": ("load_mail", "parse_msg"),
    "pdf": ("load_pdf", "parse_pdf"),
    "pptx": ("load_pptx", "parse_pptx"),
    "xlsx": ("load_xlsx", "parse_xlsx"),
}


def parse(path: Path, name: str, source: str) -> Parsed:
    """Return what the parser of the format `source` makes of a file called `name`. Raises `UnreadableDocument`."""
    with path.open("rb") as file:
        content = file.read(FILE_BYTES + 1)
    if len(content) > FILE_BYTES:
        raise UnreadableDocument("too large: it grew while it was read")
    module, function = _PARSERS[source]
    parsed: Parsed = getattr(import_module(f"indexer.{module}"), function)(content, name)
    return checked(parsed)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Parse one file, or unpack one archive; whatever goes wrong becomes the reason in `error`."""
    try:
        if "into" in request:
            unpacked = unpack(Path(request["path"]), Path(request["into"]), frozenset(request["suffixes"]))
            return {"members": unpacked.members, "skipped": unpacked.skipped}
        parsed = parse(Path(request["path"]), request["name"], request["format"])
    except UnreadableDocument as error:
        return {"error": error.message}
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


def main() -> None:
    """Answer requests until the input ends."""
    output = _own_output()
    _set_limits()
    _send(output, {})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _set_clocks(request["seconds"], int(request["patience"]) + 10)
        _send(output, answer(request))
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
