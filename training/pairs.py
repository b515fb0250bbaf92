"""Write UnAnsQ's pairs as SQuAD 2.0 JSON: a question that a paragraph answers, and one like it that it does not.

    python -m training.pairs UNANSQ/QG ARTICLES --out near.json --hold Samoa,Predation --held near-held.json
    smallhold eval convert squad near-held.json near-held --license "CC BY-SA 4.0"

UnAnsQ (Zhu et al. 2019, https://github.com/haichao592/UnAnsQ) pairs questions that people wrote for SQuAD 2.0's
training part, the answer's place being the same for both, in lower case and cut into tokens. ARTICLES holds SQuAD's
articles as text files, a paragraph a line, which give back how all is spelt. The paragraphs of UnAnsQ's `dev` come with
the pairs and are found exactly; those of its `train` are looked for by the questions' words, and only pairs are kept
whose answer stands in the sentence that their words fit best. `test`, which is SQuAD's development part, is not read.
The articles of `--hold` are written to `--held` alone.
"""

import argparse
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from heapq import nlargest
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from eval.convert_qed import untokenize
from rag.sentences import sentence_spans

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]|_|'")
_ENDING = re.compile(r"(can)(not)$|(.+?)(n't|'s|'re|'ve|'ll|'d|'m)$|(\d+)(k|m|mm|km|kg|cm)$")
_PUNCTUATED = re.compile(r"(?<=\d) ([.,:/]) (?=\d)")
TELLING = 2.0  # words in more than every seventh paragraph tell nothing (logarithm)
SURE = 1.3  # a paragraph must fit a group of questions so many times as well as the next one


class Paragraph(NamedTuple):
    """A paragraph of an article; `words` are its tokens, `spans` where each stands in the text."""

    title: str
    text: str
    words: list[str]
    spans: list[tuple[int, int]]


class Pair(NamedTuple):
    """Two questions of the same paragraph; `first` and `last` are the tokens of the answer of the first question."""

    group: str
    identity: str
    answerable: str
    unanswerable: str
    first: int
    last: int


def main() -> None:
    """Find each pair's paragraph, spell the questions, write SQuAD's JSON."""
    options = _options()
    paragraphs = list(_paragraphs(options.articles))
    spelling = Spelling(paragraphs)
    held_titles = {title for title in options.hold.split(",") if title}
    found = [*_given(options.unansq, paragraphs), *_looked_for(options.unansq, paragraphs)]
    for path, held in ((options.out, False), (options.held, True)):
        if path is not None:
            chosen = [(paragraph, pair) for paragraph, pair in found if (paragraph.title in held_titles) == held]
            counts, least = Counter(paragraph.text for paragraph, _ in chosen), 1 if held else options.least
            chosen = [(paragraph, pair) for paragraph, pair in chosen if counts[paragraph.text] >= least]
            path.write_text(json.dumps({"version": "v2.0", "data": _squad(chosen, spelling)}), encoding="utf-8")
            print(f"{path}: {len(chosen)} pairs, {len({paragraph.text for paragraph, _ in chosen})} paragraphs")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unansq", type=Path, help="the folder QG of UnAnsQ")
    parser.add_argument("articles", type=Path, help="SQuAD's articles as text files")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument(
        "--least", type=int, default=1, metavar="N", help="--out: leave out paragraphs with fewer pairs"
    )
    parser.add_argument("--hold", default="", metavar="TITLE,...", help="articles to keep apart")
    parser.add_argument("--held", type=Path, help="the file to write those to")
    return parser.parse_args()


class Spelling:
    """Gives lower-case tokens their capitals and accents back, as the article writes them, or else all articles."""

    def __init__(self, paragraphs: Sequence[Paragraph]) -> None:
        self._all: dict[str, Counter[str]] = defaultdict(Counter)
        self._of: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        for title, text, words, spans in paragraphs:
            for place, (word, (start, end)) in enumerate(zip(words, spans, strict=True)):
                if place and words[place - 1] not in '.?!"':  # the first word of a sentence tells nothing
                    self._all[word][text[start:end]] += 1
                    self._of[title][word][text[start:end]] += 1

    def __call__(self, question: str, title: str) -> str:
        """Return the question as its author may have written it."""
        spelt = [self._one(word, title) for word in question.split()]
        text = untokenize(_PUNCTUATED.sub(r"\1", " ".join(spelt)))
        return text[:1].upper() + text[1:]

    def _one(self, word: str, title: str) -> str:
        counts = self._of[title].get(word) or self._all.get(word)
        return counts.most_common(1)[0][0] if counts else word


def _paragraphs(folder: Path) -> Iterator[Paragraph]:
    for path in sorted(folder.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            if len(text := line.strip()) > 80:
                yield _cut(unquote(path.stem), text)


def _cut(title: str, text: str) -> Paragraph:
    """Cut a text as UnAnsQ did: words, single signs, and endings such as 's and n't apart."""
    words, spans = [], []
    for match in _WORD.finditer(text):
        pieces = [(match[0], match.start())]
        if ending := _ending(match[0]):
            cut = ending.start(ending.lastindex or 0)
            pieces = [(match[0][:cut], match.start()), (match[0][cut:], match.start() + cut)]
        for piece, start in pieces:
            words.append(_fold(piece))
            spans.append((start, start + len(piece)))
    return Paragraph(title, text, words, spans)


def _ending(word: str) -> re.Match[str] | None:
    return _ENDING.match(word.lower()) if len(word.lower()) == len(word) else None


def _fold(text: str) -> str:
    parts = unicodedata.normalize("NFD", text.lower())
    return "".join(sign for sign in parts if unicodedata.category(sign) != "Mn")


def _bare(words: Iterable[str]) -> str:
    return "".join(sign for word in words for sign in word if sign.isalnum())


def _given(folder: Path, paragraphs: Sequence[Paragraph]) -> Iterator[tuple[Paragraph, Pair]]:
    """Yield the pairs that come with their paragraphs."""
    by_letters = {_bare(paragraph.words): paragraph for paragraph in paragraphs}
    contexts = [row[0] for row in _rows(folder / "dev-context.txt")]
    for context, pair in zip(contexts, _pairs(folder, "dev"), strict=True):
        paragraph = by_letters.get(_bare(_fold(context).split()))
        if paragraph is not None and paragraph.words == context.split():
            yield paragraph, pair


def _looked_for(folder: Path, paragraphs: Sequence[Paragraph]) -> Iterator[tuple[Paragraph, Pair]]:
    """Yield the pairs whose paragraph can be told from the words of the questions asked of it."""
    places: dict[str, list[int]] = defaultdict(list)
    for number, paragraph in enumerate(paragraphs):
        for word in set(paragraph.words):
            places[word].append(number)
    rarity = {word: math.log(len(paragraphs) / len(found)) for word, found in places.items()}
    for _, grouped in groupby(_pairs(folder, "train"), key=lambda pair: pair.group):
        group = list(grouped)
        fits: dict[int, float] = defaultdict(float)
        for word in {word for pair in group for word in f"{pair.answerable} {pair.unanswerable}".split()}:
            if rarity.get(word, 0.0) > TELLING:
                for number in places[word]:
                    fits[number] += rarity[word]
        best = [*nlargest(2, fits, key=fits.__getitem__), -1, -1]
        paragraph = paragraphs[best[0]]
        if fits[best[0]] > SURE * fits[best[1]] and all(_fits(pair, paragraph, rarity) for pair in group):
            yield from ((paragraph, pair) for pair in group)


def _fits(pair: Pair, paragraph: Paragraph, rarity: dict[str, float]) -> bool:
    """Say whether the answer's place is in the sentence whose words the question shares most."""
    if pair.last >= len(paragraph.words) or not paragraph.words[pair.first].isalnum():
        return False
    asked = set(pair.answerable.split())
    start = paragraph.spans[pair.first][0]
    shared = []
    for span in sentence_spans(paragraph.text):
        words = {w for w, (at, _) in zip(paragraph.words, paragraph.spans, strict=True) if span.start <= at < span.end}
        shared.append((sum(rarity.get(word, 0.0) for word in words & asked), span.start <= start < span.end))
    return max(shared)[1] and max(shared)[0] > 0


def _pairs(folder: Path, part: str) -> Iterator[Pair]:
    answerable = _rows(folder / f"{part}-answerable-questions.txt")
    unanswerable = _rows(folder / f"{part}-unanswerable-questions.txt")
    for (_, asked, first, last), (identity, other, *_rest) in zip(answerable, unanswerable, strict=True):
        # Questions written together have ids that begin with the same second.
        yield Pair(identity[:8], identity, asked, other, int(first), int(last))


def _rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]


def _squad(found: Sequence[tuple[Paragraph, Pair]], spelling: Spelling) -> list[dict[str, Any]]:
    articles: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for paragraph, pair in found:
        start, end = paragraph.spans[pair.first][0], paragraph.spans[pair.last][1]
        answer = {"text": paragraph.text[start:end], "answer_start": start}
        for identity, question, answers in (
            (f"{pair.identity}a", pair.answerable, [answer]),
            (pair.identity, pair.unanswerable, []),
        ):
            articles[paragraph.title][paragraph.text].append(
                {
                    "id": identity,
                    "question": spelling(question, paragraph.title),
                    "answers": answers,
                    "is_impossible": not answers,
                }
            )
    return [
        {"title": title, "paragraphs": [{"context": text, "qas": asked} for text, asked in of.items()]}
        for title, of in articles.items()
    ]


if __name__ == "__main__":
    main()
