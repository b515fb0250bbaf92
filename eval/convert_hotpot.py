"""HotpotQA to QA-set folders (Yang et al. 2018): questions that need two documents.

A file is one JSON list of `{"_id", "question", "answer", "type", "level", "supporting_facts": [[title, sentence]],
"context": [[title, [sentences]]]}`. The training file has 566 MB, so the list is read item by item.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.files import JsonObject, dump_line, open_data
from eval.qaset import QASet, load_qaset
from eval.qaset_draft import UNKNOWN_LICENSE, new_folder, text_keys, write_meta
from rag.errors import DataError

# The largest item of the published files has about 30 kB.
MAX_ITEM = 4_000_000
_BLOCK = 1_000_000


def hotpot_to_qaset(path: Path, out: Path, *, name: str = "", license_: str = UNKNOWN_LICENSE) -> QASet:
    """Convert a HotpotQA JSON file with answers; each paragraph of a `context` becomes one document, once.

    A document's id is its title; another paragraph of the same title gets `Title#2`, and so on. Relevant are the
    documents of the supporting facts. Questions of which one is in no context of the file (the full-wiki setting has
    such) are left out, and `meta.json` says how many. `type` is kept as `kind`, `level` as it is.
    Raises `DataError` naming the item where the file is not in HotpotQA's format, or where `out` holds something.
    """
    with new_folder(out) as draft:
        ids = _write_corpus(path, draft / "corpus.jsonl")
        kept, left_out = _write_questions(path, draft / "questions.jsonl", ids)
        if not kept:
            raise DataError(f"{path}: holds no question whose supporting documents are in it")
        without = f", {left_out} questions without their supporting documents left out" if left_out else ""
        write_meta(draft, name or path.stem, "multi-hop QA", license_, f"HotpotQA JSON {path.name}{without}")
    return load_qaset(out)


class _Ids:
    """Documents by title and content."""

    def __init__(self) -> None:
        self._by_content: dict[bytes, str] = {}
        self._by_title: dict[str, list[str]] = {}
        self._used: set[str] = set()

    def add(self, title: str, text: str) -> str | None:
        """Return the id of a new document, None for one that was there already."""
        key = self._key(title, text)
        if key in self._by_content:
            return None
        same = self._by_title.setdefault(title, [])
        number = len(same) + 1
        id_ = title if number == 1 else f"{title}#{number}"
        while id_ in self._used:
            number += 1
            id_ = f"{title}#{number}"
        same.append(id_)
        self._used.add(id_)
        self._by_content[key] = id_
        return id_

    def of(self, title: str, text: str | None) -> str | None:
        """Return the id of this paragraph, or where only the title is known, of the first of that title."""
        if text is not None:
            return self._by_content[self._key(title, text)]
        return next(iter(self._by_title.get(title, ())), None)

    @staticmethod
    def _key(title: str, text: str) -> bytes:
        return hashlib.sha256(f"{title}\0{text}".encode("utf-8", "replace")).digest()


def _write_corpus(path: Path, target: Path) -> _Ids:
    ids = _Ids()
    with target.open("wb") as corpus:
        for where, item in _items(path):
            for title, text in _context(item, where):
                id_ = ids.add(title, text)
                if id_ is not None:
                    corpus.write(dump_line({"id": id_, "title": title, "text": text}))
    return ids


def _write_questions(path: Path, target: Path, ids: _Ids) -> tuple[int, int]:
    counts: Counter[bool] = Counter()
    with target.open("wb") as questions:
        for where, item in _items(path):
            id_, question, answer = text_keys(item, ("_id", "question", "answer"), where)
            own = dict(_context(item, where))
            relevant = [ids.of(title, own.get(title)) for title in _supporting_titles(item, where)]
            counts[None not in relevant] += 1
            if None not in relevant:
                extra = {target: item[key] for key, target in (("type", "kind"), ("level", "level")) if key in item}
                line = {"id": id_, "question": question.strip(), "answers": [answer], "answerable": True}
                questions.write(dump_line({**line, "relevant": relevant, **extra}))
    return counts[True], counts[False]


def _context(item: JsonObject, where: str) -> list[tuple[str, str]]:
    """Return the paragraphs of a question as `(title, text)`."""
    paragraphs = []
    for place, pair in enumerate(_list(item, "context", where)):
        match pair:
            case [str(title), [*sentences]] if title.strip() and all(isinstance(s, str) for s in sentences):
                # Sentences keep the space before them, those of other makers' files in this format do not.
                text = "".join(s if not i or s[:1].isspace() else f" {s}" for i, s in enumerate(sentences))
                paragraphs.append((title, text.strip()))
            case _:
                raise DataError(f"{where}.context[{place}]: [title, [sentences]] is wanted")
    return paragraphs


def _supporting_titles(item: JsonObject, where: str) -> list[str]:
    titles: dict[str, None] = {}
    for place, fact in enumerate(_list(item, "supporting_facts", where)):
        match fact:
            case [str(title), int()]:
                titles[title] = None
            case _:
                raise DataError(f"{where}.supporting_facts[{place}]: [title, number of the sentence] is wanted")
    return list(titles)


def _list(item: JsonObject, key: str, where: str) -> list[Any]:
    value = item.get(key)
    if not isinstance(value, list):
        hint = "The test files have no answers; convert a training or development file." if key not in item else ""
        raise DataError(f"{where}: a list under the key {key!r} is wanted", hint=hint)
    return value


def _items(path: Path) -> Iterator[tuple[str, JsonObject]]:
    """Yield `(where, object)` for every item of a file that is one JSON list, holding no more than one item."""
    decoder = json.JSONDecoder()
    with open_data(path) as file:
        text = _Window(io.TextIOWrapper(file, encoding="utf-8-sig"), path)
        if text.take() != "[":
            raise DataError(f"{path}: not HotpotQA: a JSON list is wanted")
        number = 0
        while (mark := text.take()) != "]":
            if number and mark != ",":
                raise DataError(f"{path}: item {number}: a comma or the end of the list is wanted before it")
            if not number:
                text.put_back(mark)
            where = f"{path}: item {number}"
            item = text.decode(decoder, where)
            if not isinstance(item, dict):
                raise DataError(f"{where}: a JSON object is wanted, not {type(item).__name__}")
            yield where, item
            number += 1


class _Window:
    """A text of which a part is in memory."""

    def __init__(self, file: io.TextIOWrapper, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at = "", 0

    def take(self) -> str:
        """Return the next character that is no white space, empty at the end of the file."""
        while True:
            self._text = self._text[self._at :].lstrip()
            self._at = 0
            if self._text:
                self._at = 1
                return self._text[0]
            if not self._more():
                return ""

    def put_back(self, character: str) -> None:
        """Undo the last `take`."""
        self._at -= len(character)

    def decode(self, decoder: json.JSONDecoder, where: str) -> Any:
        """Parse one value, reading on until it is whole."""
        self._text = self._text[self._at :].lstrip()
        self._at = 0
        while True:
            try:
                value, self._at = decoder.raw_decode(self._text)
                return value
            except RecursionError as error:
                raise DataError(f"{where}: nested too deeply") from error
            except ValueError as error:
                if len(self._text) > MAX_ITEM:
                    raise DataError(f"{where}: not JSON, or longer than {MAX_ITEM:,} characters: {error}") from error
                if not self._more():
                    raise DataError(f"{where}: not JSON: {error}") from error
                self._text = self._text.lstrip()

    def _more(self) -> bool:
        try:
            block = self._file.read(_BLOCK)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._path}: not UTF-8: {error.reason}") from error
        self._text += block
        return bool(block)
