"""DOCX to Markdown: mammoth makes HTML of it, `load_html` the rest.

What mammoth drops is written into the document first: equations, the figures of charts, the words of diagrams, the
numbers of lists and headings.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from indexer.charts import write_out_figures
from indexer.equations import equations_as_text
from indexer.load_html import html_to_markdown
from indexer.numbering import CLOSING, OPENING, label_paragraphs
from indexer.package import core_date, core_title, office_parts, related, xml_root
from indexer.parsed import Parsed
from indexer.runs import join_runs
from indexer.styles import Styles

_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
"""
_LABEL = f"{OPENING}([^{CLOSING}]*){CLOSING}"
_ITEM = re.compile(rf"<li>((?:<[^>]*>)*){_LABEL}")
_ANYWHERE = re.compile(_LABEL)
_CHECKBOX = re.compile(r'<input [^<>]*type="checkbox"[^<>]*>')


def parse_docx(content: bytes, name: str) -> Parsed:
    """Return the text of a DOCX as Markdown; headers, footers, comments and pictures are left out.

    Raises `UnreadableDocument` where it is damaged, encrypted, not a DOCX, or unpacks to more than the bounds.
    """
    import mammoth

    parts, main = office_parts(content, "DOCX")
    of_kind = dict(related(parts, main).values())
    styles = Styles(xml_root(parts[of_kind["styles"]]) if of_kind.get("styles") in parts else None)
    result = mammoth.convert_to_html(
        _written_out(parts, main, styles, of_kind.get("numbering", "")),
        style_map=_STYLES + _heading_styles(styles),
        convert_image=_no_image,
        include_embedded_style_map=False,
    )
    parsed = html_to_markdown(_readable(result.value), name, "docx")
    known = {**parsed.metadata, **core_date(content, parts)}
    return Parsed(parsed.text, core_title(parts, name) or parsed.title, known)


def _heading_styles(styles: Styles) -> str:
    """Headings are what stands in the outline, whatever the author calls its style."""
    escaped = ((name.replace("\\", "\\\\").replace("'", "\\'"), level) for name, level in styles.headings().items())
    return "".join(f"p[style-name='{name}'] => h{level}:fresh\n" for name, level in escaped)


def _readable(html: str) -> str:
    """What mammoth has made, labels as those of their items or as text, check boxes as characters."""
    html = _CHECKBOX.sub(lambda box: "☒ " if 'checked="' in box.group() else "☐ ", html)
    html = _ITEM.sub(r'<li data-label="\2">\1', html)
    return _ANYWHERE.sub(r"\1 ", html)


def _no_image(image: Any) -> list[Any]:
    del image
    return []


def _written_out(parts: Mapping[str, bytes], main: str, styles: Styles, numbering: str) -> io.BytesIO:
    """An archive of the XML parts alone, with what mammoth drops written as text."""
    root = xml_root(parts[main])
    write_out_figures(root, parts, related(parts, main))
    join_runs(root)
    label_paragraphs(root, styles, xml_root(parts[numbering]) if numbering in parts else None)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            xml = ElementTree.tostring(root) if name == main else content
            archive.writestr(name, equations_as_text(xml) if b"oMath" in xml else xml)
    file.seek(0)
    return file
