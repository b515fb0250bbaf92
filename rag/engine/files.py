"""Saved states on disk, so that a passage read once need not be read again after a restart.

One file a prefix, `DIR/MODEL/NAME.kv`, where MODEL stands for the model and all that its states depend on
(`identity_of`): a state of other weights, of another llama.cpp build or of another type of kept values is never looked
at. The length of the context is not among them, since a state fits into any that is long enough.

Layout, little-endian: magic (8 bytes), format version, length of the identity, number of tokens (4 bytes each), length
of the state (8 bytes), the identity (UTF-8), tokens (int32), the state, and the SHA-256 of all before it.
"""

import contextlib
import hashlib
import logging
import math
import os
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rag.engine.context import ContextLike, TokenArray
from rag.engine.layout import State
from rag.engine.states import Match, PrefixIndex, key_of, tokens_of

logger = logging.getLogger(__name__)

MAGIC = b"SMALLHKV"
VERSION = 1
_HEADER = struct.Struct("<8sIIIQ")
_CHECKSUM = 32
# Where a budget is exceeded, so much of it is left: room has not to be made for every single state.
_KEPT_SHARE = 0.9
_ABANDONED = 3600.0  # seconds after which a half-written file is nobody's any more
# How often it is looked for what others, such as `smallhold warm`, have written; and of how many of their files the
# beginnings are read then: 0.1 ms each, in the thread that writes the answers.
LOOK_SECONDS = 10.0
FOUND_AT_ONCE = 1000


class PrefixFiles:
    """States of one model in a folder, which other models and processes may use too, within a budget of bytes for all.

    The files least recently used go first. A file that is damaged, or not of this model, is deleted and counts as
    absent. A disk that fails costs reading anew, never an answer.
    """

    def __init__(self, folder: Path, identity: str, budget: int) -> None:
        self._root = folder
        self._identity = identity.encode()
        self.folder = folder / _hash(self._identity)
        self.budget = budget
        self._index = PrefixIndex()
        self._names: dict[bytes, Path] = {}
        self._keys: dict[str, bytes] = {}  # the same by the files' names
        self._seen = 0  # the stamp of the folder when everything in it was known
        self._looks_at = 0.0
        self._scan()
        self.bytes = sum(size for _, size, _ in self._all())

    def __len__(self) -> int:
        return len(self._names)

    @property
    def room(self) -> int:
        """How many bytes are never deleted as long as they are the ones used last."""
        return int(_KEPT_SHARE * self.budget)

    @staticmethod
    def budget_for(room: int) -> int:
        """Return the least budget, in whole megabytes, that has so much room."""
        return math.ceil(room / _KEPT_SHARE / 1e6) * 1_000_000

    def leaving(self, size: int) -> int:
        """Return about how many bytes of other states have to leave for so many new ones."""
        return max(0, self.bytes + size - self.room) if self.bytes + size > self.budget else 0

    def size(self, key: bytes) -> int:
        """Return the bytes of a state's file, 0 where there is none."""
        try:
            return self._names[key].stat().st_size
        except (KeyError, OSError):
            return 0

    def expected_size(self, tokens: int, state: int) -> int:
        """Return the bytes of the file that a state of so many tokens and bytes would have."""
        return _HEADER.size + len(self._identity) + 4 * tokens + state + _CHECKSUM

    def touch(self, key: bytes) -> None:
        """Count a state as used just now."""
        with contextlib.suppress(KeyError, OSError):
            os.utime(self._names[key])

    def longest(self, tokens_n: TokenArray) -> Match:
        """Return the best match."""
        if time.monotonic() >= self._looks_at:
            self.bytes += self._find(FOUND_AT_ONCE)
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
        if key in self._names or len(state) > self.budget:
            return
        path = self.folder / f"{_hash(key)}.kv"
        head = _HEADER.pack(MAGIC, VERSION, len(self._identity), len(key) // 4, len(state))
        blocks: list[Any] = [head, self._identity, tokens_of(key).astype("<i4").tobytes(), state.data]
        digest = hashlib.sha256()
        for block in blocks:
            digest.update(block)
        try:
            _write(path, [*blocks, digest.digest()])
        except OSError as error:
            logger.warning("a read passage cannot be kept in %s: %s", self.folder, error)
            return
        self._note(key, path)
        # Not what the file says: another process may have deleted it already.
        self.bytes += self.expected_size(len(key) // 4, len(state))
        if self.bytes > self.budget:
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
        self._find()
        for path in self.folder.glob("*.part"):
            with contextlib.suppress(OSError):  # its writer has just finished it
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    self._delete(path)

    def _find(self, most: int | None = None) -> int:
        """Take note of files that are not known yet, at most so many; return their bytes."""
        self._looks_at = time.monotonic() + LOOK_SECONDS
        try:
            stamp = self.folder.stat().st_mtime_ns  # before the names: what is written meanwhile changes it again
            if stamp == self._seen:
                return 0
            names = os.listdir(self.folder)  # noqa: PTH208 - no path is made of the thousands that are known
        except OSError:
            return 0
        new = sorted(name for name in names if name.endswith(".kv") and name not in self._keys)
        found = sum(self._take_up(self.folder / name) for name in new[:most])
        if most is None or len(new) <= most:
            self._seen = stamp
        return found

    def _take_up(self, path: Path) -> int:
        """Take note of a file, or delete it where it is none of this model; return its bytes."""
        key = self._peek(path)
        if key is None or path.stem != _hash(key):
            self._delete(path)
            return 0
        if key not in self._names:
            self._note(key, path)
        return self.size(key)

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
            if kept + size > self.room:
                self._delete(path)
            else:
                kept += size
        self.bytes = kept

    def _note(self, key: bytes, path: Path) -> None:
        self._names[key] = path
        self._keys[path.name] = key
        self._index.add(key)

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be deleted: %s", path, error)
        key = self._keys.pop(path.name, None) if path.parent == self.folder else None
        if key is not None:
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
    except BaseException:  # Ctrl-C, too
        Path(file.name).unlink(missing_ok=True)
        raise


def identity_of(path: Path, context: ContextLike, build: str) -> str:
    """Return what the states of a model file depend on: its size, time and beginning, which holds its metadata, the
    context's settings, and the `build` of llama.cpp.
    """
    status = path.stat()
    with path.open("rb") as file:
        beginning = file.read(1 << 20)
    fingerprint = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} ".encode() + beginning).hexdigest()
    return f"{fingerprint} {context.identity} {build}"


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
