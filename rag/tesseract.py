"""Tesseract, the program that recognises print in pictures: whether it is here, and a run of it."""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Self

from rag.errors import Unavailable, UnreadableDocument

OUTPUT_BYTES = 20_000_000
_PROGRAM = "tesseract"
_CHECK_SECONDS = 20.0
_NO_LANGUAGE = {"osd", "equ"}  # data for finding out which way is up, and for formulas
_OUT_OF_TIME = getattr(signal, "SIGXCPU", 0)


@dataclass(frozen=True, slots=True)
class Tesseract:
    """The program that is here, by the `version` that it names, and the `languages` to read with, as in `eng+deu`."""

    version: str
    languages: str

    @classmethod
    def find(cls, languages: str) -> Self:
        """Look for the program and its data. Raises `Unavailable` where one is missing; "" asks for no language."""
        try:
            version = _lines(run(["--version"], timeout=_CHECK_SECONDS))[0]
            listed = _lines(run(["--list-langs"], timeout=_CHECK_SECONDS))[1:]
        except (OSError, IndexError, UnreadableDocument) as error:
            raise Unavailable(
                "OCR needs the program Tesseract, which is not here or does not run",
                hint="Install it (Debian, Ubuntu: apt-get install tesseract-ocr), or leave --ocr and index.ocr out.",
            ) from error
        here = sorted(set(listed) - _NO_LANGUAGE)
        missing = [language for language in languages.split("+") if language and language not in here]
        if missing:
            raise Unavailable(
                f"Tesseract has no data for {', '.join(missing)}; it has {', '.join(here) or 'none'}",
                hint="Install it (Debian, Ubuntu: packages such as tesseract-ocr-deu); `tesseract --list-langs` lists "
                "what is here.",
            )
        return cls(version[:100], languages)

    def __str__(self) -> str:
        return f"{self.version} ({self.languages})"


def run(
    arguments: Sequence[str], content: bytes = b"", *, timeout: float, prepare: Callable[[], None] | None = None
) -> bytes:
    """Run the program over `content` and return what it writes, at most `OUTPUT_BYTES`.

    `timeout` is in seconds by the clock. `prepare` is called in the new process before it becomes Tesseract.
    Raises `UnreadableDocument` where it fails or takes too long, `OSError` where it does not start.
    """
    # Files, not pipes: what a killed wrapper leaves behind may hold a pipe open for ever.
    with TemporaryFile() as given, TemporaryFile() as written:
        given.write(content)
        given.seek(0)
        try:
            done = subprocess.run(
                [_PROGRAM, *arguments],
                stdin=given,
                stdout=written,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_THREAD_LIMIT": "1"},  # four threads are hardly faster, and take four cores
                timeout=timeout,
                preexec_fn=prepare,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnreadableDocument("Tesseract took too long") from None
        if done.returncode:
            late = done.returncode == -_OUT_OF_TIME
            raise UnreadableDocument("Tesseract took too long" if late else "Tesseract failed")
        written.seek(0)
        return written.read(OUTPUT_BYTES)


def _lines(output: bytes) -> list[str]:
    return output.decode("utf-8", "replace").splitlines()
