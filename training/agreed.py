"""Write SQuAD JSON of the questions of which people agreed on the answer, with the shortest spelling of that answer.

    python -m training.agreed datasets/amazon_reviews_v1.0.json datasets/reddit_v1.0.json --out other.json \\
        --hold 120 --held other-held.json
    python -m training.agreed 200423_covidQA.json --least 1 --held covid-held.json --hold 200

Takes SQuAD's format with several people's answers a question, such as the reviews and the comments of SQuADShifts
(Miller et al. 2020, "The Effect of Natural Distribution Shift on Question Answering Models", CC BY 4.0). Long contexts,
as papers are, are cut into their paragraphs. `--held` gets paragraphs that `--out` does not, and after each question
that a sentence's loss leaves without an answer the same question of the paragraph without that sentence, answers empty.
"""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rag.sentences import sentence_spans
from rag.text import normalize_answer

LONG = 3000  # characters of a context that is cut into its paragraphs
SHORT = 200  # a paragraph of fewer is left out
WORDY = 12  # answers of more words are no phrases
_YES_OR_NO = re.compile(r"(is|are|was|were|do|does|did|can|could|has|have|had|will|would|should|any)\b", re.I)


class Asked(NamedTuple):
    """A question and the answer agreed on."""

    identity: str
    question: str
    answer: str


class Paragraph(NamedTuple):
    """A text and what is asked of it."""

    title: str
    text: str
    asked: tuple[Asked, ...]


def main() -> None:
    """Choose the questions, keep some paragraphs apart, write both files."""
    options = _options()
    found = [paragraph for file in options.files for paragraph in _paragraphs(file, options.least)]
    random.Random(1).shuffle(found)  # noqa: S311 - a seeded choice of paragraphs
    held, kept = found[: options.hold], found[options.hold :]
    if options.out is not None:
        _write(options.out, kept)
    if options.held is not None:
        _write(options.held, [part for paragraph in held for part in _with_and_without(paragraph)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="SQuAD JSON with several people's answers a question")
    parser.add_argument("--out", type=Path, help="the file to write")
    parser.add_argument("--least", type=int, default=2, metavar="N", help="people who must agree on an answer")
    parser.add_argument("--hold", type=int, default=0, metavar="N", help="paragraphs to keep apart")
    parser.add_argument("--held", type=Path, help="the file to write those to")
    return parser.parse_args()


def _paragraphs(file: Path, least: int) -> Iterator[Paragraph]:
    for article in json.loads(file.read_bytes())["data"]:
        for paragraph in article["paragraphs"]:
            text = paragraph["context"]
            asked = [chosen for question in paragraph["qas"] if (chosen := _agreed(question, least))]
            title = article.get("title") or text.strip().split("\n")[0]
            for part in text.split("\n\n") if len(text) > LONG else [text]:
                here = tuple(one for one in asked if one.answer in part)
                if here and len(part) >= SHORT:
                    yield Paragraph(title, part.strip(), here)


def _agreed(question: dict[str, Any], least: int) -> Asked | None:
    """Return the question with the answer that most people gave, or None if too few did or it is no phrase."""
    answers = [answer["text"].strip() for answer in question["answers"]]
    votes = Counter(normalize_answer(answer) for answer in answers)
    best, count = votes.most_common(1)[0] if votes else ("", 0)
    asked = question["question"].strip()
    if count < least or not best or len(best.split()) > WORDY or _YES_OR_NO.match(asked):
        return None
    shortest = min((answer for answer in answers if normalize_answer(answer) == best), key=len)
    return Asked(str(question["id"]), asked, shortest)


def _with_and_without(paragraph: Paragraph) -> Iterator[Paragraph]:
    yield paragraph
    spans = [paragraph.text[span.start : span.end] for span in sentence_spans(paragraph.text)]
    for asked in paragraph.asked:
        rest = [sentence for sentence in spans if asked.answer.lower() not in sentence.lower()]
        if 2 <= len(rest) < len(spans):
            without = Asked(f"{asked.identity}-", asked.question, "")
            yield Paragraph(paragraph.title, " ".join(rest), (without,))


def _write(path: Path, paragraphs: Sequence[Paragraph]) -> None:
    data = [{"title": title, "paragraphs": [_squad(text, asked)]} for title, text, asked in paragraphs]
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    print(f"{path}: {sum(len(p.asked) for p in paragraphs)} questions, {len(paragraphs)} paragraphs")


def _squad(text: str, asked: Sequence[Asked]) -> dict[str, Any]:
    questions = [
        {
            "id": identity,
            "question": question,
            "answers": [{"text": answer, "answer_start": text.index(answer)}] if answer else [],
            "is_impossible": not answer,
        }
        for identity, question, answer in asked
    ]
    return {"context": text, "qas": questions}


if __name__ == "__main__":
    main()
