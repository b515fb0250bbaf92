"""Jupyter notebooks to Markdown: text cells as they are, code fenced, what the code printed. No pictures."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from indexer.load_html import html_to_markdown
from indexer.load_text import decode
from indexer.outline import find_headings
from indexer.parsed import Parsed, printable, readable_stem, sensible_title
from rag.errors import UnreadableDocument

_OUTPUT_CHARACTERS = 2000  # of one output: longer ones are logs and dumps
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_OBJECT = re.compile(r"<[\w.]+ [^<>]*>")  # what stands for an object that is shown in another way


def parse_notebook(content: bytes, name: str) -> Parsed:
    """Return the text of a notebook (nbformat 3 or 4). Raises `UnreadableDocument` where it is none."""
    try:
        notebook = json.loads(decode(content))
        language = notebook.get("metadata", {}).get("kernelspec", {}).get("language", "")
        cells = [cell for sheet in notebook.get("worksheets", [notebook]) for cell in sheet["cells"]]
        text = printable("\n\n".join(filter(None, (_cell(cell, str(language)) for cell in cells))))
        title = str(notebook.get("metadata", {}).get("title", ""))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UnreadableDocument("not a notebook: its JSON is damaged, or holds no cells") from error
    headings = find_headings(text, "markdown")
    title = sensible_title(title, name) or (headings[0].title if headings else "") or readable_stem(name)
    return Parsed(text, title, {"format": "ipynb"})


def _cell(cell: Mapping[str, Any], language: str) -> str:
    source = _text(cell.get("source", cell.get("input", ""))).strip("\n")
    if cell["cell_type"] == "heading":  # nbformat 3
        return f"{'#' * min(6, int(cell.get('level', 1)))} {source}"
    if cell["cell_type"] != "code":
        return source
    return "\n\n".join(filter(None, [_fenced(source, language), *_outputs(cell)]))


def _outputs(cell: Mapping[str, Any]) -> Iterator[str]:
    """What the code printed, fenced, and what it showed as Markdown or HTML."""
    printed: list[str] = []
    for output in cell.get("outputs", []):
        if shown := _shown(output):
            yield _fenced("\n".join(printed), "")
            yield shown
            printed = []
        elif text := _printed(output):
            printed.append(text)
    yield _fenced("\n".join(printed), "")


def _shown(output: Mapping[str, Any]) -> str:
    data = output.get("data", {})
    if markdown := _text(data.get("text/markdown", "")):
        return _bounded(markdown)
    if "text/html" in data and _OBJECT.fullmatch(_text(data.get("text/plain", "")).strip()):
        return _bounded(html_to_markdown(_text(data["text/html"]), "", "ipynb").text)
    return ""


def _printed(output: Mapping[str, Any]) -> str:
    if output.get("output_type") in ("error", "pyerr"):
        text = f"{output.get('ename', '')}: {output.get('evalue', '')}"
    else:
        text = _text(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return _bounded(_COLOURS.sub("", text))


def _bounded(text: str) -> str:
    text = text.strip("\n")
    return text if len(text) <= _OUTPUT_CHARACTERS else text[:_OUTPUT_CHARACTERS] + "…"


def _text(lines: Any) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def _fenced(code: str, language: str) -> str:
    fence = "```" if "```" not in code else "~~~~"
    return f"{fence}{language}\n{code}\n{fence}" if code.strip() else ""
