"""DOCX to Markdown: mammoth makes HTML of it, `load_html` the rest.

Equations, which mammoth drops, become text, and charts tables of their figures.
"""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

from indexer.charts import charts_as_tables
from indexer.equations import equations_as_text
from indexer.load_html import html_to_markdown
from indexer.package import core_date, core_title, office_parts, related
from indexer.parsed import Parsed

_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
"""


def parse_docx(content: bytes, name: str) -> Parsed:
    """Return the text of a DOCX as Markdown; headers, footers, comments and pictures are left out.

    Raises `UnreadableDocument` where it is damaged, encrypted, not a DOCX, or unpacks to more than the bounds.
    """
    import mammoth

    parts = office_parts(content, "DOCX", "document.xml")
    result = mammoth.convert_to_html(
        _rezipped(parts), style_map=_STYLES, convert_image=_no_image, include_embedded_style_map=False
    )
    parsed = html_to_markdown(result.value, name, "docx")
    known = {**parsed.metadata, **core_date(content, parts)}
    return Parsed(parsed.text, core_title(parts, name) or parsed.title, known)


def _no_image(image: Any) -> list[Any]:
    del image
    return []


def _rezipped(parts: Mapping[str, bytes]) -> io.BytesIO:
    """An archive of the XML parts alone, equations turned to text and charts to tables."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, xml in parts.items():
            if name.endswith("document.xml"):
                links = related(parts, name)
                if any(kind == "chart" for kind, _ in links.values()):
                    xml = charts_as_tables(xml, parts, links)
            archive.writestr(name, equations_as_text(xml) if b"oMath" in xml else xml)
    file.seek(0)
    return file
