"""The converter from QED: questions people typed into a search engine, a paragraph, and the answer that stands in it.

QED (Lamm et al. 2020, arXiv 2009.06354) is a part of Natural Questions whose answers were looked at once more: those
of the kind `single_sentence` follow from one sentence of the paragraph. Both forms are read, that of the published
files and that of the first shards of its repository.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.files import JsonObject, dump_line, read_jsonl
from eval.qaset import MAX_CORPUS_LINE, QASet, load_qaset
from eval.qaset_draft import UNKNOWN_LICENSE, new_folder, text_keys, write_meta
from rag.errors import DataError

SUPPORTED = "single_sentence"
LONGEST_ANSWER = 12  # words; what is longer is the marking of a whole clause
_PRONOUNS = frozenset("he she it they him her them his its their this that these those we i you".split())
_UNTOKENIZED = [
    (re.compile(r"`` ?| ?''"), '"'),
    (re.compile(r"(?<=\d) -- (?=\d)"), "–"),
    (re.compile(r" -- "), " – "),
    (re.compile(r"(?<=\w) - (?=\w)"), "-"),
    (re.compile(r" (?=[.,;:!?%)\]])"), ""),
    (re.compile(r"(?<=[(\[$£€#]) "), ""),
    (re.compile(r" (?=(?:'s|'re|'ve|'ll|'d|'m|n't)\b)"), ""),
    (re.compile(r"(?<=s) '(?= )"), "'"),
]


def qed_to_qaset(paths: Sequence[Path], out: Path, *, name: str = "", license_: str = UNKNOWN_LICENSE) -> QASet:
    """Convert QED's JSON lines; each paragraph becomes a document `Title#0`, `Title#1`, ...

    Kept are the questions with one answer that a single sentence gives, in at most `LONGEST_ANSWER` words and not only
    as a pronoun; the others' paragraphs stay in the corpus. The texts are put together again from their tokens.
    Raises `DataError` where a file is not in QED's format or `out` holds something.
    """
    ids: dict[tuple[str, str], str] = {}
    counts: dict[str, int] = {}
    with new_folder(out) as draft:
        source = f"QED, {', '.join(path.name for path in paths)}"
        write_meta(draft, name or paths[0].stem, "extractive QA", license_, source)
        with (draft / "corpus.jsonl").open("wb") as corpus, (draft / "questions.jsonl").open("wb") as questions:
            for where, row in _rows(paths):
                title, paragraph, asked = text_keys(row, ("title_text", "paragraph_text", "question_text"), where)
                key = (title, text := untokenize(paragraph))
                if key not in ids:
                    ids[key] = f"{title}#{counts.get(title, 0)}"
                    counts[title] = counts.get(title, 0) + 1
                    corpus.write(dump_line({"id": ids[key], "title": title, "text": text}))
                answer = _answer(row, where)
                if answer is not None and answer in text:
                    line = {"id": f"qed-{row.get('example_id')}", "question": asked.strip(), "answers": [answer]}
                    questions.write(dump_line({**line, "answerable": True, "relevant": [ids[key]]}))
    return load_qaset(out)


def untokenize(text: str) -> str:
    """Return the text as it was written, from words and punctuation set apart with spaces as the Penn Treebank has it.

    >>> untokenize("It was `` lost '' ( for 2 -- 3 years ) , Ann 's mill - wheel did n't turn .")
    'It was "lost" (for 2–3 years), Ann\\'s mill-wheel didn\\'t turn.'
    """
    for pattern, written in _UNTOKENIZED:
        text = pattern.sub(written, text)
    return text.strip()


def _rows(paths: Sequence[Path]) -> Iterator[tuple[str, JsonObject]]:
    for path in paths:
        for number, row in read_jsonl(path, max_line=MAX_CORPUS_LINE):
            yield f"{path}:{number}", row


def _answer(row: JsonObject, where: str) -> str | None:
    """Return the answer of a row; None where it has none, several, or none to learn from."""
    try:
        if "answer_type" in row:
            kind, answers = row["answer_type"], row["answer_text"]
        else:
            kind = row["annotation"]["explanation_type"]
            answers = [a["paragraph_reference"]["string"] for a in row["annotation"].get("answer", ())]
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: not a row of QED: {error}") from error
    if kind != SUPPORTED or len(answers) != 1 or not isinstance(answers[0], str):
        return None
    answer = untokenize(answers[0]).strip(" .,;:")
    if answer.lower() in _PRONOUNS or not 1 <= len(answer.split()) <= LONGEST_ANSWER:
        return None
    return answer
