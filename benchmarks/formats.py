"""What of a folder of test documents is read, format by format, and how well against the text it should give.

    python -m benchmarks.formats                       ../shared/data/formats
    python -m benchmarks.formats FOLDER --reasons      another folder of that layout; why each file was refused

Token F1 (Rajpurkar et al. 2016): words in common over words read (precision) and over words expected (recall), their
harmonic mean, order ignored. Compared are `docling/NAME` with `docling_groundtruth/NAME.md`, `markitdown/NAME.pdf` with
`markitdown_expected/NAME.md`, and the files of `same_doc_9_formats` with its `.txt`. Neither side's targets of links,
comments and marks of Markdown are counted: what is read leaves the former out on purpose.
"""

import argparse
import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

from indexer.load import SUFFIXES, Loader
from rag.console import out
from rag.errors import UnreadableDocument

FOLDER = Path(__file__).parent.parent.parent / "shared" / "data" / "formats"
_NOT_WORDS = (
    (re.compile(r"<!--.*?-->", re.DOTALL), " "),
    (re.compile(r"\]\([^()\s]*(?:\s\"[^\"]*\")?\)"), "] "),  # the target of a link or picture
    (re.compile(r"</?[A-Za-z][^<>]*>"), " "),
)


@dataclass(slots=True)
class Tally:
    """What became of the files of one format. `refused` and `scores` are by the file's name."""

    loaded: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    unsupported: int = 0
    scores: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--reasons", action="store_true", help="list what was refused, and the scores below 0.9")
    options = parser.parse_args()
    if not options.folder.is_dir():
        out.print(f"{options.folder} is not there: nothing measured")
        return
    tallies = measure(options.folder)
    for line in table(tallies):
        out.print(line, soft_wrap=True, markup=False, highlight=False)
    if options.reasons:
        for line in details(tallies):
            out.print(line, soft_wrap=True, markup=False, highlight=False)


def measure(folder: Path) -> dict[str, Tally]:
    """Load every file beneath `folder` but those that say what others should give."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    with Loader() as loader:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            if file.parent.name.endswith(("_groundtruth", "_expected")) or file.parent == folder:
                continue
            tally = tallies[file.suffix.lower() or "none"]
            if file.suffix.lower() not in SUFFIXES:
                tally.unsupported += 1
                continue
            try:
                text = loader.load_file(file, file.name, file.as_uri()).text
            except UnreadableDocument as error:
                tally.refused[file.name] = error.message
                continue
            tally.loaded += 1
            if expected := expectation(file):
                tally.scores[file.name] = token_f1(text, expected.read_text("utf-8"))
    return tallies


def expectation(file: Path) -> Path | None:
    """The file with the text that `file` should give, where there is one."""
    folder = file.parent
    paired = {
        "docling": folder.with_name("docling_groundtruth") / f"{file.name}.md",
        "markitdown": folder.with_name("markitdown_expected") / f"{file.stem}.md" if file.suffix == ".pdf" else None,
        "same_doc_9_formats": (folder / "document.txt") if file.suffix != ".txt" else None,
    }.get(folder.name)
    return paired if paired and paired.is_file() else None


def token_f1(text: str, expected: str) -> float:
    """The harmonic mean of precision and recall of words as a multiset, 1.0 where both have none."""
    found, wanted = words(text), words(expected)
    if not found and not wanted:
        return 1.0
    return 2 * (found & wanted).total() / (found.total() + wanted.total())


def words(markdown: str) -> Counter[str]:
    """The words of a text, lower case, without what is markup."""
    for pattern, replacement in _NOT_WORDS:
        markdown = pattern.sub(replacement, markdown)
    return Counter(re.findall(r"[^\W_]+", html.unescape(markdown).lower()))


def table(tallies: dict[str, Tally]) -> Iterator[str]:
    """A Markdown table, a row for each format."""
    yield "| format | files | read | refused | unsupported | compared | F1 mean | F1 worst |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, tally in sorted(tallies.items()):
        files = tally.loaded + len(tally.refused) + tally.unsupported
        scores = tally.scores
        worst = min(scores, key=scores.__getitem__) if scores else ""
        figures = f"{len(scores)} | {mean(scores.values()):.3f} | {scores[worst]:.3f} ({worst})" if scores else "0 | |"
        yield f"| {name} | {files} | {tally.loaded} | {len(tally.refused)} | {tally.unsupported} | {figures} |"
    every = [score for tally in tallies.values() for score in tally.scores.values()]
    counts = [sum(tally.loaded for tally in tallies.values()), sum(len(tally.refused) for tally in tallies.values())]
    left = sum(tally.unsupported for tally in tallies.values())
    average = f"{mean(every):.3f}" if every else ""
    yield f"| all | {sum(counts) + left} | {counts[0]} | {counts[1]} | {left} | {len(every)} | {average} | |"


def details(tallies: dict[str, Tally]) -> Iterator[str]:
    """Why files were refused, and which came out below 0.9."""
    for tally in tallies.values():
        for name, reason in tally.refused.items():
            yield f"refused: {name}: {reason}"
    for tally in tallies.values():
        for name, score in sorted(tally.scores.items(), key=lambda item: item[1]):
            if score < 0.9:
                yield f"F1 {score:.3f}: {name}"


if __name__ == "__main__":
    main()
