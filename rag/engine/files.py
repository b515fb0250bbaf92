"""Saved states on disk, so that a passage read once need not be read again after a restart.

One file a prefix, `DIR/MODEL/NAME.kv`, where MODEL stands for the model and all that its states depend on. Layout,
little-endian: magic (8 bytes), format version, length of the identity, number of tokens (4 bytes each), length of the
state (8 bytes), the identity (UTF-8), tokens (int32), the state, and the SHA-256 of all before it.
"""

import contextlib
import hashlib
import logging
import os
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rag.engine.context import State, TokenArray
from rag.engine.states import Match, PrefixIndex, key_of, tokens_of

logger = logging.getLogger(__name__)

MAGIC = b"SMALLHKV"
VERSION = 1
_HEADER = struct.Struct("<8sIIIQ")
_CHECKSUM = 32
_ABANDONED = 3600.0  # seconds after which a half-written file is nobody's any more


class PrefixFiles:
    """States of one model in a folder, which other models and processes may use too, within a budget of bytes for all.

    The files least recently used go first. A file that is damaged, or not of this model, is deleted and counts as
    absent. A disk that fails costs reading anew, never an answer.
    """

    def __init__(self, folder: Path, identity: str, budget: int) -> None:
        self._root = folder
        self._identity = identity.encode()
        self._folder = folder / _hash(self._identity)
        self._budget = budget
        self._index = PrefixIndex()
        self._names: dict[bytes, Path] = {}
        self._scan()
        self.bytes = sum(size for _, size, _ in self._all())

    def __len__(self) -> int:
        return len(self._names)

    def longest(self, tokens_n: TokenArray) -> Match:
        """Return the best match."""
        return self._index.longest(tokens_n)

    def get(self, key: bytes) -> State | None:
        """Return a state, None where it is gone or damaged."""
        path = self._names.get(key)
        if path is None:
            return None
        state = self._load(path, key)
        if state is None:
            self._delete(path)
        return state

    def put(self, key: bytes, state: State) -> None:
        """Write a state beside its place, then move it there."""
        if key in self._names or len(state) > self._budget:
            return
        path = self._folder / f"{_hash(key)}.kv"
        head = _HEADER.pack(MAGIC, VERSION, len(self._identity), len(key) // 4, len(state))
        blocks: list[Any] = [head, self._identity, tokens_of(key).astype("<i4").tobytes(), state.data]
        digest = hashlib.sha256()
        for block in blocks:
            digest.update(block)
        try:
            _write(path, [*blocks, digest.digest()])
        except OSError as error:
            logger.warning("a read passage cannot be kept in %s: %s", self._folder, error)
            return
        self._names[key] = path
        self._index.add(key)
        self.bytes += path.stat().st_size
        if self.bytes > self._budget:
            self._shrink()

    def _load(self, path: Path, key: bytes) -> State | None:
        """Return the state of a file if every byte of it is as it was written."""
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        if hashlib.sha256(content[:-_CHECKSUM]).digest() != content[-_CHECKSUM:] or self._key(content) != key:
            return None
        start = _HEADER.size + len(self._identity) + len(key)
        return np.frombuffer(content, np.uint8)[start:-_CHECKSUM]

    def _key(self, content: bytes) -> bytes | None:
        """Return the tokens that a file's beginning names, None where it is not of this form or model."""
        if len(content) < _HEADER.size:
            return None
        magic, version, identity, tokens, _state = _HEADER.unpack_from(content)
        start = _HEADER.size + identity
        named = content[_HEADER.size : start]
        if (magic, version, named) != (MAGIC, VERSION, self._identity) or len(content) < start + 4 * tokens:
            return None
        return key_of(np.frombuffer(content, "<i4", tokens, start))

    def _scan(self) -> None:
        """Find what earlier runs have left; checksums are verified when a file is used."""
        for path in sorted(self._folder.glob("*.kv")):
            key = self._peek(path)
            if key is None or path.stem != _hash(key):
                self._delete(path)
            elif key not in self._names:
                self._names[key] = path
                self._index.add(key)
        for path in self._folder.glob("*.part"):
            with contextlib.suppress(OSError):  # its writer has just finished it
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    self._delete(path)

    def _peek(self, path: Path) -> bytes | None:
        """Return a file's tokens from its beginning, None where it is cut short or foreign."""
        try:
            with path.open("rb") as file:
                head = file.read(_HEADER.size)
                if len(head) < _HEADER.size:
                    return None
                *_, identity, tokens, state = _HEADER.unpack(head)
                if path.stat().st_size != _HEADER.size + identity + 4 * tokens + state + _CHECKSUM:
                    return None
                return self._key(head + file.read(identity + 4 * tokens))
        except OSError:
            return None

    def _shrink(self) -> None:
        """Delete the files used longest ago, whoever wrote them, down to nine tenths of the budget."""
        kept = 0  # summed up aside: `bytes` is read by other threads
        for _, size, path in sorted(self._all(), reverse=True):
            if kept + size > 0.9 * self._budget:
                self._delete(path)
            else:
                kept += size
        self.bytes = kept

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be deleted: %s", path, error)
        for key in [key for key, name in self._names.items() if name == path]:
            del self._names[key]
            self._index.remove(key)

    def _all(self) -> list[tuple[int, int, Path]]:
        """Return time of last use, size and path of every model's files."""
        found = []
        for path in self._root.glob("*/*.kv"):
            try:
                status = path.stat()
            except OSError:
                continue  # another process has just deleted it
            found.append((status.st_mtime_ns, status.st_size, path))
        return found


def _write(path: Path, blocks: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False)  # noqa: SIM115 - renamed below
    try:
        with file:
            file.writelines(blocks)
        Path(file.name).replace(path)
    except OSError:
        Path(file.name).unlink(missing_ok=True)
        raise


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
