# mypy: disable-error-code="import-untyped, import-not-found"
"""Rebuild the generated part of the example corpus, and check the example QA set.

The Markdown, text and HTML documents under ``corpus/`` are written by hand. The PDF and Word documents are
made by this script from the readable files under ``sources/`` (``sources/x/y.pdf.md`` becomes
``corpus/x/y.pdf``), and ``qa/corpus.jsonl`` is made from the text of all documents. The output is
reproducible: the same sources and library versions give the same files.

    python examples/make_corpus.py           write the documents and qa/corpus.jsonl
    python examples/make_corpus.py --check   change nothing; exit 1 if a file is stale or a question unsound

Needs ``reportlab`` and ``python-docx`` (the committed files were written with 5.1 and 1.2).
"""

import argparse
import html
import io
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
CORPUS, SOURCES, QA = HERE / "corpus", HERE / "sources", HERE / "qa"
AUTHOR = "smallhold"
PAGE = "---page---"
MARKED_LINE = re.compile(r"(#{1,3}|-|\d+\.) (.+)")


@dataclass
class Block:
    """One piece of a source file: a heading, list item, table, page break or paragraph."""

    text: str = ""
    mark: str = ""  # "#", "##" or "###"; "-" or "1."; "|"; PAGE; nothing for a paragraph
    rows: list[list[str]] = field(default_factory=list)


def parse(source: str) -> Iterator[Block]:
    """Split Markdown-like text into blocks; a line without a mark of its own continues the one before."""
    for part in re.split(r"\n\s*\n", source.strip()):
        if part.startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
            yield Block(mark="|", rows=[rows[0], *rows[2:]])
            continue
        blocks: list[Block] = []
        for line in part.splitlines():
            if match := MARKED_LINE.match(line):
                blocks.append(Block(match[2], match[1]))
            elif blocks:
                blocks[-1].text += " " + line.strip()
            else:
                blocks.append(Block(mark=PAGE) if line == PAGE else Block(line.strip()))
        yield from blocks


def plain(blocks: list[Block]) -> str:
    """The text of a parsed source, as a reader of the PDF or Word file finds it."""
    parts = []
    for block in blocks:
        lead = "" if block.mark.startswith("#") else block.mark
        parts.append("\n".join(" | ".join(row) for row in block.rows) or f"{lead} {block.text}".strip())
    return "\n\n".join(part for part in parts if part != PAGE).replace("*", "") + "\n"


def make_pdf(blocks: list[Block]) -> bytes:
    """A paginated PDF with a text layer and its title in the metadata."""
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table

    styles, flow = getSampleStyleSheet(), []
    for block in blocks:
        text = re.sub(r"\*(.+?)\*", r"<i>\1</i>", escape(block.text))
        if block.mark == PAGE:
            flow.append(PageBreak())
        elif block.rows:
            cells = [[Paragraph(escape(cell), styles["BodyText"]) for cell in row] for row in block.rows]
            grid = [("GRID", (0, 0), (-1, -1), 0.4, "#888888"), ("VALIGN", (0, 0), (-1, -1), "TOP")]
            flow += [Spacer(1, 4), Table(cells, style=grid), Spacer(1, 8)]
        elif block.mark.startswith("#"):
            flow.append(Paragraph(text, styles[f"Heading{len(block.mark)}"]))
        else:
            style = styles["Bullet" if block.mark else "BodyText"]
            flow.append(Paragraph(text, style, bulletText=block.mark.replace("-", "\u2022") or None))
    out = io.BytesIO()
    SimpleDocTemplate(out, title=blocks[0].text, author=AUTHOR, invariant=1, pageCompression=0).build(flow)
    return out.getvalue()


def make_docx(blocks: list[Block]) -> bytes:
    """A Word document with real headings, lists and tables, and its title among the properties."""
    import docx

    document = docx.Document()
    for block in blocks:
        text = block.text.replace("*", "")
        if block.rows:
            table = document.add_table(len(block.rows), len(block.rows[0]), "Table Grid")
            for row, cells in zip(table.rows, block.rows, strict=True):
                for cell, value in zip(row.cells, cells, strict=True):
                    cell.text = value
        elif block.mark.startswith("#"):
            document.add_heading(text, len(block.mark))
        elif block.mark == "-":
            document.add_paragraph(text, "List Bullet")
        else:  # numbers are written out, so that every reader of the file sees them
            document.add_paragraph(f"{block.mark} {text}".strip())
    core = document.core_properties
    core.title, core.author, core.last_modified_by, core.comments = blocks[0].text, AUTHOR, AUTHOR, ""
    core.created = core.modified = datetime(2024, 1, 1)
    raw, out = io.BytesIO(), io.BytesIO()
    document.save(raw)
    with zipfile.ZipFile(raw) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():  # the same members under one fixed date and system
            info.date_time, info.create_system = (2024, 1, 1, 0, 0, 0), 3
            new.writestr(info, old.read(info.filename))
    return out.getvalue()


def page_text(page: str) -> tuple[str, str]:
    """The title of one of our own pages and the text of its <main>, without navigation and footer."""
    title, main = page.split("<title>")[1].split("</title>")[0], page.split("<main>")[1].split("</main>")[0]
    main = re.sub(r"<(p|h1|h2|tr|li)>", "\0", main.replace("<li>", "<li>- "))
    main = html.unescape(re.sub(r"<.*?>", "", re.sub(r"<t[dh]>", " | ", main)))
    lines = (" ".join(line.split()).strip("| ") for line in main.split("\0"))
    return html.unescape(title), "\n\n".join(line for line in lines if line) + "\n"


def build() -> dict[Path, bytes]:
    """Everything that this script generates, by its path."""
    files, rows = {}, {}
    for path in sorted([*SOURCES.rglob("*.*.md"), *CORPUS.rglob("*.md"), *CORPUS.rglob("*.txt")]):
        text = path.read_text(encoding="utf-8")
        target, title = path, text.splitlines()[0].lstrip("# ")
        if SOURCES in path.parents:
            target, blocks = CORPUS / path.relative_to(SOURCES).with_suffix(""), list(parse(text))
            files[target] = make_pdf(blocks) if target.suffix == ".pdf" else make_docx(blocks)
            text = plain(blocks)
        rows[target.relative_to(CORPUS).as_posix()] = {"title": title, "text": text}
    for path in CORPUS.rglob("*.html"):
        title, text = page_text(path.read_text(encoding="utf-8"))
        rows[path.relative_to(CORPUS).as_posix()] = {"title": title, "text": text}
    lines = [json.dumps({"id": name, **rows[name]}, ensure_ascii=False) + "\n" for name in sorted(rows)]
    return files | {QA / "corpus.jsonl": "".join(lines).encode()}


def problems(files: dict[Path, bytes]) -> Iterator[str]:
    """Compare the files on disk with the generated ones, and the questions with the documents."""
    for path in {*files, *CORPUS.rglob("*.pdf"), *CORPUS.rglob("*.docx")}:
        if path not in files or not path.exists() or path.read_bytes() != files[path]:
            yield f"{path.relative_to(HERE)}: is not what the sources give"
    corpus, questions = (
        [json.loads(line) for line in data.decode().split("\n") if line]
        for data in (files[QA / "corpus.jsonl"], (QA / "questions.jsonl").read_bytes())
    )
    documents = {row["id"]: " ".join(row["text"].casefold().split()) for row in corpus}
    for row in questions:
        texts = [documents.get(name, "") for name in row["relevant"]]
        answers = [" ".join(answer.casefold().split()) for answer in row["answers"]]
        if not all(texts):
            yield f"{row['id']}: a relevant document does not exist"
        if row["answerable"] and not any(answer in text for answer in answers for text in texts):
            yield f"{row['id']}: no answer occurs in the relevant documents"
        if not row["answerable"] and (answers or texts):
            yield f"{row['id']}: unanswerable, but has answers or relevant documents"
    if len({row["id"] for row in questions}) < len(questions):
        yield "questions.jsonl: an id occurs twice"
    formats = dict(sorted(Counter(Path(name).suffix for name in documents).items()))
    answerable = sum(row["answerable"] for row in questions)
    print(f"{len(documents)} documents {formats}, {len(questions)} questions, {answerable} answerable")


def main() -> int:
    """Write the generated files, or with --check compare them and test the questions."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, report what is wrong")
    files = build()
    if parser.parse_args().check:
        found = list(problems(files))
        print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
        return int(bool(found))
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
