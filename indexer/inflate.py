"""Undoing gzip as it comes, within bounds: what is small packed may be endless unpacked."""

import zlib
from collections.abc import Iterator

from rag.errors import UnreadableDocument

PIECE = 1 << 16  # bytes
_GZIP = zlib.MAX_WBITS | 16


class Inflater:
    """Undoes the `Content-Encoding` of a page, never more than a piece at a time."""

    def __init__(self, encoding: str) -> None:
        """Raises `UnreadableDocument` for an encoding other than gzip: none was asked for."""
        self._packed = encoding.strip().lower() in ("gzip", "x-gzip")
        if not self._packed and encoding.strip().lower() not in ("", "identity"):
            raise UnreadableDocument(f"it comes in an encoding that was not asked for ({encoding[:40]!r})")
        self._decoder = zlib.decompressobj(_GZIP)
        self._began = False

    def of(self, piece: bytes) -> Iterator[bytes]:
        """Yield what a piece unpacks to, in pieces. Raises `UnreadableDocument` where it is damaged."""
        if not self._packed:
            yield piece
            return
        try:
            while piece:
                self._began = True
                part = self._decoder.decompress(piece, PIECE)
                if part:
                    yield part
                piece = self._decoder.unconsumed_tail
                if self._decoder.eof:
                    piece = self._decoder.unused_data
                    if not piece.startswith(b"\x1f\x8b"):  # what follows is no further member
                        return
                    self._decoder = zlib.decompressobj(_GZIP)
        except zlib.error:
            raise UnreadableDocument("damaged: it is not the gzip data that its server says") from None

    def check_end(self) -> None:
        """Raise `UnreadableDocument` where the data ended too soon."""
        if self._packed and self._began and not self._decoder.eof:
            raise UnreadableDocument("damaged: its gzip data end too soon")
