"""What Word keeps apart from a document's text, or makes up when it prints it: tiny files made here."""

import io
import zipfile

import openpyxl
import pytest

from indexer.load_docx import parse_docx
from indexer.load_xlsx import parse_xlsx

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def links(**targets: str) -> str:
    """Relationships: of each type, the last word of its name, the part that it leads to."""
    entries = (f'<Relationship Id="{role}" Type="{_OFFICE}/{role}" Target="{part}"/>' for role, part in targets.items())
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{"".join(entries)}</Relationships>'


def docx(
    body: str, *, styles: str = "", numbering: str = "", extra: dict[str, str] | None = None, main: str = "document.xml"
) -> bytes:
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"/>',
        "_rels/.rels": links(officeDocument=f"word/{main}"),
        f"word/{main}": f'<w:document xmlns:w="{WORD}" xmlns:r="{_OFFICE}"><w:body>{body}</w:body></w:document>',
        f"word/_rels/{main}.rels": links(
            styles="styles.xml", numbering="numbering.xml", diagramData="diagrams/data1.xml"
        ),
        "word/styles.xml": f'<w:styles xmlns:w="{WORD}">{styles}</w:styles>',
        "word/numbering.xml": f'<w:numbering xmlns:w="{WORD}">{numbering}</w:numbering>',
        **(extra or {}),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, xml in parts.items():
            archive.writestr(name, xml)
    return file.getvalue()


def par(text: str, style: str = "", place: tuple[int, int] | None = None) -> str:
    """A paragraph, where `place` says so at some depth of a list: (list, depth)."""
    properties = f'<w:pStyle w:val="{style}"/>' if style else ""
    if place:
        properties += f'<w:numPr><w:ilvl w:val="{place[1]}"/><w:numId w:val="{place[0]}"/></w:numPr>'
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def style(key: str, name: str, properties: str = "", base: str = "") -> str:
    based = f'<w:basedOn w:val="{base}"/>' if base else ""
    return (
        f'<w:style w:type="paragraph" w:styleId="{key}"><w:name w:val="{name}"/>{based}<w:pPr>{properties}</w:pPr>'
        "</w:style>"
    )


def abstract(key: int, *levels: tuple[str, str], start: int = 1, styles: tuple[str, ...] = ()) -> str:
    """A list's levels, each the form of its numbers and the text around them."""
    made = (
        f'<w:lvl w:ilvl="{depth}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/>'
        + (f'<w:pStyle w:val="{styles[depth]}"/>' if styles else "")
        + f'<w:lvlText w:val="{text}"/></w:lvl>'
        for depth, (form, text) in enumerate(levels)
    )
    return f'<w:abstractNum w:abstractNumId="{key}">{"".join(made)}</w:abstractNum>'


def num(key: int, family: int, override: str = "") -> str:
    return f'<w:num w:numId="{key}"><w:abstractNumId w:val="{family}"/>{override}</w:num>'


def test_items_have_the_numbers_that_are_printed() -> None:
    """They began with 1 again after each paragraph between them, and letters were numbers."""
    anew = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="1"/></w:lvlOverride>'
    numbering = (
        abstract(0, ("decimal", "%1."), ("lowerLetter", "%2)"), ("upperRoman", "(%3)"))
        + abstract(1, ("bullet", "•"))
        + num(1, 0)
        + num(2, 1)
        + num(3, 0, anew)
    )
    body = (
        par("Mix.", place=(1, 0))
        + par("Flour", place=(1, 1))
        + par("Water", place=(1, 1))
        + par("warm", place=(1, 2))
        + par("It has to rest.")
        + par("", place=(1, 0))
        + par("Bake.", place=(1, 0))
        + par("Coal", place=(1, 1))
        + par("Any", place=(2, 0))
        + par("Again.", place=(3, 0))
    )
    assert parse_docx(docx(body, numbering=numbering), "a.docx").text == (
        "1. Mix.\n   a) Flour\n   b) Water\n      (I) warm\n\nIt has to rest.\n\n"
        "3. Bake.\n   a) Coal\n\n- Any\n\n1. Again."
    )


def test_headings_have_the_numbers_that_are_printed() -> None:
    chapters = '<w:numPr><w:numId w:val="1"/></w:numPr>'
    styles = (
        style("H1", "heading 1", f'{chapters}<w:outlineLvl w:val="0"/>')
        + style("H2", "heading 2", f'{chapters}<w:outlineLvl w:val="1"/>')
        + style("Own", "House 'style'", base="H2")
        + style("Contents", "TOC Heading", '<w:outlineLvl w:val="9"/>', base="H1")
    )
    numbering = abstract(0, ("decimal", "§ %1"), ("decimal", "%1.%2"), styles=("H1", "H2")) + num(1, 0)
    body = (
        par("Contents", "Contents", place=(0, 0))
        + par("Scope", "H1")
        + par("Text.")
        + par("Duties", "H1")
        + par("Of owners", "H2")
        + par("Of guests", "Own", place=(1, 1))
        + par("Annex", "H1", place=(0, 0))
    )
    assert parse_docx(docx(body, styles=styles, numbering=numbering), "a.docx").text == (
        "Contents\n\n# § 1 Scope\n\nText.\n\n# § 2 Duties\n\n## 2.1 Of owners\n\n## 2.2 Of guests\n\n# Annex"
    )


def test_damaged_numbering_is_none() -> None:
    numbering = num(1, 7) + abstract(0) + num(2, 0)
    styles = style("A", "a", base="B") + style("B", "b", base="A")  # a circle
    body = par("One", "A", place=(1, 0)) + par("Two", place=(2, 5)) + par("Three", place=(9, 0))
    text = parse_docx(docx(body, styles=styles, numbering=numbering), "a.docx").text
    assert text.split() == ["One", "Two", "Three"]


def test_characters_that_are_set_apart_stand_in_their_line() -> None:
    capital = '<w:p><w:pPr><w:framePr w:dropCap="drop"/></w:pPr><w:r><w:t>O</w:t></w:r></w:p>'
    ruby = (
        "<w:p><w:r><w:t>In </w:t></w:r><w:r><w:ruby><w:rt><w:r><w:t>とうきょう</w:t></w:r></w:rt>"
        "<w:rubyBase><w:r><w:t>東京</w:t></w:r></w:rubyBase></w:ruby></w:r><w:r><w:t>.</w:t></w:r></w:p>"
    )
    assert parse_docx(docx(capital + par("nce there was a hare.") + ruby), "a.docx").text == (
        "Once there was a hare.\n\nIn 東京."
    )


def test_diagrams_become_lists() -> None:
    shown = (
        '<w:p><w:r><w:t>The board:</w:t><w:drawing><d:relIds xmlns:d="http://d" r:dm="diagramData"/></w:drawing>'
        "</w:r></w:p>"
    )
    points = "".join(f'<d:pt><a:t xmlns:a="http://a">{text}</a:t></d:pt>' for text in ("Chair", "", "Clerk"))
    extra = {"word/diagrams/data1.xml": f'<d:dataModel xmlns:d="http://d">{points}</d:dataModel>'}
    assert parse_docx(docx(shown + par("After"), extra=extra), "a.docx").text == (
        "The board:\n\n- Chair\n\n- Clerk\n\nAfter"
    )


def test_check_boxes_say_whether_they_are_checked() -> None:
    boxes = (
        '<w:p><w:sdt><w:sdtPr><b:checkbox xmlns:b="http://schemas.microsoft.com/office/word/2010/wordml">'
        f'<b:checked b:val="{checked}"/></b:checkbox></w:sdtPr><w:sdtContent><w:r><w:t>{mark}</w:t></w:r>'
        f"</w:sdtContent></w:sdt><w:r><w:t>{text}</w:t></w:r></w:p>"
        for checked, mark, text in ((1, "☒", "Paid"), (0, "☐", "Sent"))
    )
    assert parse_docx(docx("".join(boxes)), "a.docx").text == "☒ Paid\n\n☐ Sent"


def test_the_main_part_is_what_the_file_says() -> None:
    """Word in the browser calls it `document2.xml`."""
    glossary = {"word/glossary/document.xml": f'<w:glossaryDocument xmlns:w="{WORD}"/>'}
    assert parse_docx(docx(par("Text"), main="document2.xml", extra=glossary), "a.docx").text == "Text"


@pytest.mark.parametrize("kind", ["docx", "xlsx"])
def test_strict_files_are_read_like_others(kind: str) -> None:
    """A workbook saved as "Strict Open XML" was refused: empty."""
    if kind == "docx":
        content = docx(par("Scope", "H1") + par("Text"), styles=style("H1", "heading 1"))
    else:
        book, out = openpyxl.Workbook(), io.BytesIO()
        book.active.append(["Town", "Boats"])
        book.active.append(["Selk", 7])
        book.save(out)
        content = out.getvalue()
    strict = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(strict, "w") as new:
        for name in old.namelist():
            xml = old.read(name).decode()
            for word in ("wordprocessingml", "spreadsheetml", "officeDocument", "drawingml"):
                xml = xml.replace(
                    f"http://schemas.openxmlformats.org/{word}/2006/", f"http://purl.oclc.org/ooxml/{word}/"
                )
            new.writestr(name, xml)
    parse = parse_docx if kind == "docx" else parse_xlsx
    expected = parse(content, "a")
    assert parse(strict.getvalue(), "a") == expected
    assert expected.text in ("# Scope\n\nText", "## Sheet\n\n| Town | Boats |\n| --- | --- |\n| Selk | 7 |")
