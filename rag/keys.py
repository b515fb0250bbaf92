"""API keys: made once, kept as hashes in a small file, looked up at every request.

A key is `shk-ID-SECRET`. The id finds its record; the secret is 256 random bits, and of the whole only the SHA-256 is
kept. Slow hashes (bcrypt, Argon2) exist because passwords are guessed: a few billion candidates cover most of them. Of
256 random bits no amount of hashing finds one, so a fast hash gives nothing away, and a slow one would only cost every
request its tenth of a second.

The file is JSON, readable by its owner alone, and replaced whole. A server looks at its stamp with every request and
reads it again when that has changed, so that a key that was revoked is refused from the next request on.
"""

import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag.errors import InvalidRequest, KeysDamaged, Unauthorized, Unavailable
from rag.labels import EVERY, is_label

logger = logging.getLogger(__name__)

PREFIX = "shk-"
_SECRET_BYTES = 32
# What a key of an unknown id is compared with. It is the hash of no key: that has 64 digits of 0 to f.
_NO_HASH = "-" * 64


class Key(BaseModel):
    """What is kept of a key. `tokens_per_day` is its budget, None for no limit.

    `allow` names the access labels whose documents it may see, beside those without any; `*` are all labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    label: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    created: datetime
    revoked: datetime | None = None
    tokens_per_day: int | None = Field(None, ge=1)
    allow: tuple[str, ...] = ()


class MadeKey(NamedTuple):
    """A new key: `text` is what its owner sends, and is told this once."""

    text: str
    key: Key


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: tuple[Key, ...] = ()


def load_keys(path: Path) -> tuple[Key, ...]:
    """Return every key, those that were revoked too; none where there is no file. Raises `KeysDamaged`."""
    try:
        return _File.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise KeysDamaged(f"the API keys in {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise KeysDamaged(
            f"the API keys in {path} cannot be read: {place + ': ' if place else ''}{first['msg']}",
            hint="Mend the file, or move it away and make new keys with `smallhold keys create`.",
        ) from None  # the cause would quote the file


def create_key(path: Path, label: str, *, tokens_per_day: int | None = None, allow: Iterable[str] = ()) -> MadeKey:
    """Make a key and add it to the file. Raises `InvalidRequest` for a bad label or one that is in use."""
    allow = tuple(dict.fromkeys(allow))
    for name in (label, *(name for name in allow if name != EVERY)):
        if not is_label(name):
            raise InvalidRequest(
                f"{name!r} is no label",
                hint="Use up to 64 letters, digits, spaces and . _ @ : + / -, a letter or digit first.",
            )
    with _changing(path) as keys:
        if any(key.label == label and key.revoked is None for key in keys):
            raise InvalidRequest(
                f"there is a key {label!r} already", hint="Take another label, or revoke that one first."
            )
        id_ = _unused({key.id for key in keys})
        text = f"{PREFIX}{id_}-{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = Key(id=id_, label=label, sha256=_hash(text), created=_now(), tokens_per_day=tokens_per_day, allow=allow)
        keys.append(key)
    return MadeKey(text, key)


def revoke_key(path: Path, name: str) -> Key:
    """Revoke the key of an id or a label. Raises `InvalidRequest` where no such key is in use."""
    with _changing(path) as keys:
        for at, key in enumerate(keys):
            if name in (key.id, key.label) and key.revoked is None:
                keys[at] = key.model_copy(update={"revoked": _now()})
                return keys[at]
    raise InvalidRequest(f"there is no key {name!r} in use", hint="`smallhold keys list` shows what there is.")


class Keyring:
    """The keys of a file, read again when it changes. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._keys: dict[str, Key] | None = {}

    def identify(self, text: str) -> Key:
        """Return the key that was sent. Raises `Unauthorized`, and `KeysDamaged` where the file cannot be read."""
        keys = self._current()
        parts = text.split("-", 2)
        key = keys.get(parts[1]) if len(parts) == 3 else None
        right = hmac.compare_digest(_hash(text), key.sha256 if key is not None else _NO_HASH)
        if key is None or not right:
            raise Unauthorized("this API key is not known here", hint="`smallhold keys list` shows those that are.")
        if key.revoked is not None:
            raise Unauthorized("this API key was revoked", hint="Ask for a new one.")
        return key

    def _current(self) -> dict[str, Key]:
        stamp = _stamp(self._path)
        if stamp != self._stamp or self._keys is None:  # what could not be read may have been the system's refusal
            # Taken before reading: what is written meanwhile is read at the next look.
            known, self._stamp = stamp == self._stamp, stamp
            self._keys = self._load(told=known)
        if self._keys is None:
            # Whoever asks has shown no key, so that the path stays in the log.
            raise KeysDamaged("the API keys cannot be read", hint="The server's log says why.")
        return self._keys

    def _load(self, *, told: bool) -> dict[str, Key] | None:
        try:
            return {key.id: key for key in load_keys(self._path)}
        except KeysDamaged as error:
            # The keys as they were would let in one that was just revoked.
            if not told:
                logger.error("no key is let in: %s", error)
            return None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _unused(ids: set[str]) -> str:
    while (id_ := secrets.token_hex(4)) in ids:
        pass
    return id_


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """Yield the keys as a list, and write the file anew from it where the block ends well; one process at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), mode=0o600):
            keys = list(load_keys(path))
            before = list(keys)
            yield keys
            if keys != before:
                _write(path, _File(keys=tuple(keys)))
    except OSError as error:
        raise Unavailable(
            f"the API keys in {path} cannot be written: {error.strerror}",
            hint="The setting server.keys names the file.",
        ) from error


def _write(path: Path, file: _File) -> None:
    """Replace the file at once, synced; it is readable by the owner alone, who stays the one there was."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(json.dumps(file.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n")
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(OSError):  # root may make keys for a server that runs as somebody else
            owner = path.stat()
            os.chown(draft, owner.st_uid, owner.st_gid)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
