"""Documents to passages: cut where the text has joints, as evenly as the token budget allows.

A document becomes a row of atoms (headings, sentences, list items, table rows, lines), each counted with the embedder's
own tokenizer, and `grouping` finds where to cut between them. What is larger than a chunk is taken apart first.
"""

import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from indexer.bookmarks import told_headings
from indexer.grouping import (
    CHARACTERS_PER_TOKEN,
    CUT,
    CUT_AFTER_HEADING,
    CUT_AFTER_INTRODUCTION,
    LEAST_PART,
    Atom,
    Joint,
    cheapest_groups,
    coalesced,
)
from indexer.outline import Heading, Markup, find_headings, heading_paths, path_above
from rag.datatypes import Chunk, Document, MetadataValue, Span
from rag.errors import ConfigError, ModelDamaged, ModelMissing
from rag.sentences import sentence_spans

# Part of the fingerprint: raise it with every change here, in grouping.py, outline.py or rag/sentences.py that moves a
# cut or changes a path of headings.
_VERSION = 2

_LONG_LINE = 120  # characters
_BATCH = 10_000
_MARKUP: dict[str, Markup] = {
    **dict.fromkeys(("md", "markdown", "html", "docx", "pptx", "xlsx", "csv", "epub", "ipynb"), "markdown"),
    **dict.fromkeys(("json", "jsonl"), "markdown"),
    "code": "code",
    "rst": "rst",
    "adoc": "asciidoc",
    "asciidoc": "asciidoc",
}
_TABLE_RULE = re.compile(r"[|+ ]*+[-=:]{3,}+[|+:= -]*+")
_MARKS = ",;:|&)}]>，；：、—"
_SMALLER = (re.compile(r"\S+"), re.compile(rf"[^{re.escape(_MARKS)}]*+[{re.escape(_MARKS)}]+|[^{re.escape(_MARKS)}]+"))


class Chunker:
    """Cuts documents into chunks of at most `tokens` tokens, special tokens not counted.

    `tokenizer_file` is the embedder's `tokenizer.json`. `overlap` is how many tokens of whole sentences a chunk may
    repeat of the one before it; they count in its budget. Raises `ConfigError`, `ModelMissing` or `ModelDamaged`.
    """

    def __init__(self, tokenizer_file: Path, tokens: int, overlap: int) -> None:
        if not 0 <= overlap <= tokens // 2:
            raise ConfigError(
                f"an overlap of {overlap} tokens does not fit chunks of {tokens}",
                hint=f"Set chunk.overlap to {tokens // 2} (half of chunk.tokens) or less.",
            )
        self._tokens = tokens
        self._overlap = overlap
        self._tokenizer, checksum = _load_tokenizer(tokenizer_file)
        self._additive = _is_additive(self._tokenizer)
        settings = {"version": _VERSION, "tokens": tokens, "overlap": overlap, "tokenizer": checksum}
        self._fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """The token budget of a chunk."""
        return self._tokens

    @property
    def overlap(self) -> int:
        """How many tokens a chunk may repeat of the one before."""
        return self._overlap

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides where a given document is cut."""
        return self._fingerprint

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the chunks of `document` in order; none where it holds nothing but whitespace."""
        text = document.text
        markup = _markup(document)
        told = str(document.metadata.get("outline", ""))
        headings = find_headings(text, markup) if markup else told_headings(text, told)
        spans = self._spans(text, headings)
        paths = heading_paths(headings, document.title)
        pages = _page_starts(document)
        chunks = []
        for number, span in enumerate(spans):
            metadata: dict[str, MetadataValue] = {"title": document.title, "uri": document.uri}
            if path := path_above(span, headings, paths):
                metadata["headings"] = path
            if pages:
                first, last = bisect_right(pages, span.start), bisect_left(pages, span.end)
                metadata["page"] = max(1, first)
                if last > first:
                    metadata["page_breaks"] = ",".join(map(str, pages[first:last]))
            chunks.append(Chunk(f"{document.id}#{number}", document.id, text[span.start : span.end], span, metadata))
        return chunks

    def _spans(self, text: str, headings: Sequence[Heading]) -> list[Span]:
        whole = _strip(text, 0, len(text))
        if whole.start == whole.end:
            return []
        if self._fits(text, whole):
            return [whole]
        atoms = self._atoms(text, headings)
        groups = self._group(text, atoms, self._tokens - self._overlap)
        spans = [Span(group[0].start, group[-1].end) for group in groups]
        return self._with_overlap(text, groups, spans) if self._overlap else spans

    def _atoms(self, text: str, headings: Sequence[Heading]) -> list[Atom]:
        pieces = list(_pieces(text, headings))
        weights = self._weigh(text, [span for span, _ in pieces])
        atoms: list[Atom] = []
        for (span, joint), weight in zip(pieces, weights, strict=True):
            cut = CUT[joint]
            if atoms and atoms[-1].joint == "heading":
                cut += CUT_AFTER_HEADING
            elif atoms and joint != "sentence" and _introduces(text, atoms[-1], span):
                cut += CUT_AFTER_INTRODUCTION
            atoms.append(Atom(*span, weight, joint, cut))
        return atoms

    def _group(self, text: str, atoms: Sequence[Atom], budget: int) -> list[list[Atom]]:
        """Group atoms into chunks within `budget`; what the tokenizer counts higher than its atoms is grouped again."""
        atoms = [smaller for atom in atoms for smaller in self._split(text, atom, budget)]
        atoms = coalesced(atoms, budget // LEAST_PART)
        groups = [list(atoms[start:end]) for start, end in cheapest_groups(atoms, budget)]
        doubtful = [group for group in groups if not self._sums_up(group)]
        counts = iter(self._count([text[group[0].start : group[-1].end] for group in doubtful]))
        fitting: list[list[Atom]] = []
        for group in groups:
            over = 0 if self._sums_up(group) else next(counts) - self._tokens
            if over > 0 and budget > 1:
                fitting += self._group(text, group, max(1, budget * 9 // 10 - over))
            else:
                fitting.append(group)
        return fitting

    def _sums_up(self, group: Sequence[Atom]) -> bool:
        """Whether a chunk surely has as many tokens as its atoms together."""
        return self._additive and all(atom.joint != "piece" for atom in group[1:])

    def _split(self, text: str, atom: Atom, budget: int) -> list[Atom]:
        """Return `atom`, or where it is over the budget its words, their parts at punctuation, or halves of those."""
        if atom.weight <= budget or atom.end - atom.start == 1:
            return [atom]
        for pattern in _SMALLER:
            spans = [Span(*found.span()) for found in pattern.finditer(text, atom.start, atom.end)]
            if len(spans) > 1:
                break
        else:
            spans = _slices(atom.start, atom.end, 2 * atom.weight // budget + 1)
        joints: list[Joint] = [
            atom.joint,
            *(_joint_of_words(text, before.end, span.start) for before, span in pairwise(spans)),
        ]
        smaller = [
            Atom(*span, weight, joint, CUT[joint])
            for span, weight, joint in zip(spans, self._weigh(text, spans), joints, strict=True)
        ]
        smaller[0] = smaller[0]._replace(cut=atom.cut)
        return [piece for part in smaller for piece in self._split(text, part, budget)]

    def _with_overlap(self, text: str, groups: Sequence[Sequence[Atom]], spans: Sequence[Span]) -> list[Span]:
        """Let each chunk begin with as many whole sentences of the one before as the overlap holds."""
        extended = [spans[0]]
        for before, group, span in zip(groups, groups[1:], spans[1:], strict=False):
            start, room = span.start, self._overlap
            joint = group[0].joint
            for atom in reversed(before[1:]):  # a chunk that held all of the one before would make it useless
                if joint == "heading" or atom.weight > room:
                    break
                room -= atom.weight
                joint = atom.joint
                if joint not in ("clause", "word", "piece"):
                    start = atom.start
            longer = Span(start, span.end)
            extended.append(longer if self._fits(text, longer) else span)
        return extended

    def _fits(self, text: str, span: Span) -> bool:
        if span.end - span.start > self._tokens * CHARACTERS_PER_TOKEN:
            return False
        return self._count([text[span.start : span.end]])[0] <= self._tokens

    def _weigh(self, text: str, spans: Sequence[Span]) -> list[int]:
        counts = self._count([text[start:end] for start, end in spans])
        return [
            max(count, (end - start) // CHARACTERS_PER_TOKEN, 1)
            for count, (start, end) in zip(counts, spans, strict=True)
        ]

    def _count(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        for start in range(0, len(texts), _BATCH):  # bounds the memory that encodings of a large document take
            batch = self._tokenizer.encode_batch_fast(list(texts[start : start + _BATCH]), add_special_tokens=False)
            counts += map(len, batch)
        return counts


def _load_tokenizer(file: Path) -> tuple[Any, str]:
    """Return the tokenizer of `file`, without the truncation and padding it may ask for, and its SHA-256."""
    from tokenizers import Tokenizer

    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelMissing(f"the embedder's tokenizer {file} cannot be read: {error.strerror}") from error
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises nothing narrower
        raise ModelDamaged(f"{file} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, hashlib.sha256(content).hexdigest()


def _is_additive(tokenizer: Any) -> bool:
    """Whether the tokens of a text are those of its words and marks, whatever stands around these.

    BERT's tokenizers take a text apart at spaces and punctuation first; others have tokens that are or hold spaces.
    """
    from tokenizers import models, pre_tokenizers

    return isinstance(tokenizer.model, models.WordPiece) and isinstance(
        tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer
    )


def _markup(document: Document) -> Markup | None:
    """The notation of a document's headings, from the loader's `format` or else from the suffix of its id."""
    name = document.metadata.get("format") or document.id.rpartition(".")[2].lower()
    return _MARKUP.get(str(name))


def _page_starts(document: Document) -> list[int]:
    """Where the pages begin that the loader counted; none where `pages` is what a record says of itself in other words.

    The loader's first page begins at 0, and none before the one that comes before it.
    """
    starts = str(document.metadata.get("pages", "")).split(",")
    if starts[0] != "0" or not all(start.isascii() and start.isdecimal() and len(start) < 10 for start in starts):
        return []
    pages = list(map(int, starts))
    return pages if pages == sorted(pages) else []


def _pieces(text: str, headings: Sequence[Heading]) -> Iterator[tuple[Span, Joint]]:
    """Yield headings and sentences in order, each with the joint before it; that of a heading is "heading"."""
    start = before = 0
    for heading in [*headings, None]:
        for sentence in sentence_spans(text[start : heading.start if heading else None]):
            span = Span(start + sentence.start, start + sentence.end)
            yield span, _joint(text, before, span.start)
            before = span.end
        if heading:
            yield _strip(text, heading.start, heading.end), "heading"
            start = before = heading.end


def _strip(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    stripped = piece.strip()
    start += len(piece) - len(piece.lstrip())
    return Span(start, start + len(stripped))


def _joint(text: str, end: int, start: int) -> Joint:
    """What separates a sentence that ends at `end` from the next one at `start`."""
    breaks = text.count("\n", end, start)
    if breaks == 0:
        return "sentence"
    if breaks > 1 or text.rfind("\n", max(0, end - _LONG_LINE), end) < 0 <= end - _LONG_LINE:
        return "paragraph"  # a long line is a paragraph of a text whose paragraphs are lines
    return "line"


def _introduces(text: str, before: Atom, span: Span) -> bool:
    """Whether `before` announces what follows: it ends in a colon, or belongs to the head of a table."""
    return (
        text[before.end - 1] == ":"
        or bool(_TABLE_RULE.fullmatch(text, *span))
        or bool(_TABLE_RULE.fullmatch(text, before.start, before.end))
    )


def _joint_of_words(text: str, end: int, start: int) -> Joint:
    if "\n" in text[end:start]:
        return "line"
    if text[end - 1] in _MARKS:
        return "clause"
    return "word" if start > end else "piece"


def _slices(start: int, end: int, parts: int) -> list[Span]:
    size = max(1, -(-(end - start) // max(2, parts)))
    return [Span(at, min(at + size, end)) for at in range(start, end, size)]
