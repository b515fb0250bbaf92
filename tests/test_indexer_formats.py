"""Office files, books, mail, notebooks, data and source code: tiny files made here, read and damaged at random."""

import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from hashlib import sha256
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from benchmarks.inputs import mutated
from indexer.chunk import Chunker
from indexer.load import SUFFIXES, Loader
from indexer.load_csv import parse_csv
from indexer.load_docx import parse_docx
from indexer.load_epub import parse_epub
from indexer.load_json import parse_json, parse_jsonl
from indexer.load_mail import parse_eml, parse_msg
from indexer.load_notebook import parse_notebook
from indexer.load_pptx import parse_pptx
from indexer.load_xlsx import parse_xlsx
from indexer.number_formats import number_as_shown
from indexer.outline import find_headings
from indexer.parsed import Parsed
from indexer.tables import BLOCK_CHARACTERS, markdown_table
from rag.datatypes import Document
from rag.errors import UnreadableDocument

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "formats"
# Damaged files of each of nine formats; SMALLHOLD_MUTATIONS=200 makes them 2,200 with the real ones.
MUTATIONS = int(os.environ.get("SMALLHOLD_MUTATIONS", "30"))


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    with Loader(seconds=30) as loader:
        yield loader


def zipped(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


# --- tables


@pytest.mark.parametrize("mark", ["\u2028", "\x85"])
def test_only_line_breaks_end_a_record(mark: str) -> None:
    """What else Unicode calls the end of a line may stand in a string or a cell: JavaScript writes it as it is."""
    records = [{"id": 1, "text": f"one{mark}two"}, {"id": 2, "text": "three"}]
    lines = "\r\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    table = "| id | text |\n| --- | --- |\n| 1 | one two |\n| 2 | three |"
    assert parse_jsonl(lines.encode(), "a.jsonl") == Parsed(table, "a", {"format": "jsonl"})
    assert parse_csv(f"id,text\r\n1,one{mark}two\r\n2,three".encode(), "a.csv").text == table


def test_tables_repeat_their_head() -> None:
    rows = [["Town", "Note"], *([f"Town {n}", "x" * 80] for n in range(20))]
    blocks = markdown_table(rows).split("\n\n")
    assert len(blocks) > 2
    assert all(block.startswith("| Town | Note |\n| --- | --- |\n| Town ") for block in blocks)
    assert all(len(block) < BLOCK_CHARACTERS + 200 for block in blocks)
    assert [line for block in blocks for line in block.split("\n")[2:]] == [
        f"| Town {n} | {'x' * 80} |" for n in range(20)
    ]


def test_rows_that_are_longer_than_the_head_stand_under_it_however_few_they_are() -> None:
    """Of questions with their answers, four rows made a passage, the last three without the names of the columns."""
    rows = [["Question", "Answer"], *([f"Question {n}", "word " * 100] for n in range(6))]
    blocks = markdown_table(rows).split("\n\n")
    assert [block.count("\n") for block in blocks] == [2] * 6
    wide = [[f"Column {n}" for n in range(20)], *(["x"] * 20 for _ in range(40))]
    assert len(markdown_table(wide)) < 2 * sum(len(" | ".join(row)) for row in wide)
    matrix = [[f"Column {n}" for n in range(1000)], ["x"] * 1000]
    assert markdown_table(matrix).startswith("| Column 0 | Column 1 |")


def test_blocks_of_numbers_are_shorter_than_those_of_words() -> None:
    """A number of ten digits is five tokens or more: 700 characters of them are in two passages."""
    rows = [["Day", "Sum"], *([str(10**9 + n), "3.1415926535"] for n in range(30))]
    assert [block.count("\n") - 1 for block in markdown_table(rows).split("\n\n")] == [13, 13, 4]


def test_rows_that_no_passage_holds_become_sections(tmp_path: Path) -> None:
    text = "First line.\n" + "word " * 200
    rows = f'id,subject,,text\n7,Roof leaks,x|y,"{text}"\n8,,,"{"word " * 200}"\n'
    parsed = parse_csv(rows.encode(), "tickets.csv")
    assert parsed.text == (
        f"## Roof leaks\n\nid: 7\nsubject: Roof leaks\nColumn 3: x|y\ntext: {text.strip()}\n\n"
        f"## Row 2\n\nid: 8\ntext: {('word ' * 200).strip()}"
    )
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "words.json"))
    chunks = Chunker(tmp_path / "words.json", 90, 0).chunk(Document("t.csv", "", "t", parsed.text, {"format": "csv"}))
    assert {chunk.metadata["headings"] for chunk in chunks} == {"Roof leaks", "Row 2"}

    def fill(book: Any) -> None:
        book.active.append(["a", "b"])
        book.active.append(["Eel", "word " * 200])

    assert parse_xlsx(xlsx(fill), "b.xlsx").text.startswith("## Sheet\n\n### Eel\n\na: Eel\nb: word")


def test_tables_of_ragged_rows() -> None:
    assert markdown_table([["a", "b", ""], ["", ""], ["1"], ["x|y", "two\nlines", "3"]]) == (
        "| a | b |  |\n| --- | --- | --- |\n| 1 |  |  |\n| x\\|y | two lines | 3 |"
    )
    assert markdown_table([["", ""], []]) == ""
    with pytest.raises(UnreadableDocument, match="more than 5 million cells"):
        markdown_table([["x"] * 16_000, *([["y"]] * 400)])


@pytest.mark.parametrize(
    "content",
    [
        "Town,People\nUlla,40\nNorr,7\n",
        "Town;People\nUlla;40\nNorr;7\n",
        "Town\tPeople\nUlla\t40\r\nNorr\t7",
        "Town|People\nUlla|40\nNorr|7",
    ],
)
def test_csv_delimiters(content: str) -> None:
    assert parse_csv(content.encode(), "a_b.csv") == Parsed(
        "| Town | People |\n| --- | --- |\n| Ulla | 40 |\n| Norr | 7 |", "a b", {"format": "csv"}
    )


def test_csv_with_lines_above_its_head() -> None:
    table = "| Day | Sum |\n| --- | --- |\n| 1 May | 7 |"
    for above in ("Account 12\n\nAs of 1 June\n", "Account 12,,\n As of 1 June,,\n,,\n"):
        assert parse_csv(f"{above}Day,Sum\n1 May,7\n".encode(), "a.csv").text == f"Account 12\nAs of 1 June\n\n{table}"


def test_csv_with_a_line_for_excel() -> None:
    assert parse_csv(b"sep=;\r\na;b\r\n1,5;2\r\n", "a.csv").text == "| a | b |\n| --- | --- |\n| 1,5 | 2 |"
    assert parse_csv(b"sep=x\n1\n", "a.csv").text.startswith("| sep=x |")


def test_csv_quotes_and_single_columns() -> None:
    assert parse_csv(b'a,b\n"x, ""y""\nz",2\n', "a.csv").text == '| a | b |\n| --- | --- |\n| x, "y" z | 2 |'
    assert parse_csv(b"Sentence\none; two\nthree\nfour", "a.csv").text.endswith("| three |\n| four |")


# --- XLSX


def xlsx(fill: Callable[[Any], None]) -> bytes:
    book = openpyxl.Workbook()
    fill(book)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def two_sheets(book: Any) -> None:
    first = book.active
    first.title = "Ferries"
    first.append(["Ferries in 2024"])
    first.append(["Day", "Share", "Cost", "Open"])
    first.append([date(2024, 3, 1), 0.125, 12.5, True])
    first["B3"].number_format = "0.0%"
    first.append([])
    first.append(["", "A remark"])
    second = book.create_sheet("People")
    second.append(["Name", "Age"])
    second.append(["Ines", 41])


def test_xlsx_sheets_are_headings_and_pages() -> None:
    parsed = parse_xlsx(xlsx(two_sheets), "book_1.xlsx")
    first = (
        "## Ferries\n\nFerries in 2024\n\n| Day | Share | Cost | Open |\n| --- | --- | --- | --- |\n"
        "| 2024-03-01 | 12.5% | 12.5 | TRUE |\n\nA remark"
    )
    assert parsed.text == f"{first}\n\n## People\n\n| Name | Age |\n| --- | --- |\n| Ines | 41 |"
    assert parsed.metadata == {"format": "xlsx", "pages": f"0,{len(first) + 2}", "date": parsed.metadata["date"]}
    assert parsed.title == "book 1"


def test_xlsx_what_is_merged_down_a_column_counts_for_each_row() -> None:
    def fill(book: Any) -> None:
        for row in (["Region", "Town"], ["North", "Ulla"], [None, "Norr"], [None, None], ["South", "Lowdle"]):
            book.active.append(row)
        book.active.merge_cells("A2:A4")
        book.active.merge_cells("B5:C6")

    assert parse_xlsx(xlsx(fill), "a.xlsx").text == (
        "## Sheet\n\n| Region | Town |\n| --- | --- |\n| North | Ulla |\n| North | Norr |\n\n"
        "| South | Lowdle |\n| --- | --- |"
    )


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (12.5, '#,##0.00 "€"', "12.5 €"),
        (2.25, '0.0" kg"', "2.3 kg"),
        (-1234.5, '"$"#,##0.00;[Red]("$"#,##0.00)', "-$1234.5"),
        (1 / 3, "0.00", "0.33"),
        (1 / 3, "General", "0.333333333333333"),
        (0.255, "0%", "25.5%"),
        (0, '0;-0;"none"', "none"),
        (1, '"Yes";"Yes";"No"', "Yes"),
        (1234.5, "[$€-407] #,##0.00", "€ 1234.5"),
        (7, '_-* "Week "0_-', "Week 7"),
        (1234, '#,##0,"k"', "1234"),  # 1k
        (2.5, "# ?/?", "2.5"),
        (-3, "0;(0)", "-3"),
        (10**18, "0.00", "1000000000000000000"),
        (5, '"' * 300, "5"),
        (5, "@", "5"),
    ],
)
def test_xlsx_numbers_have_the_units_of_their_formats(value: float, number_format: str, shown: str) -> None:
    """A price was a number without its currency."""
    assert number_as_shown(value, number_format) == shown


def test_xlsx_formulas_without_results_are_shown_and_told() -> None:
    """Libraries write formulas alone: the totals of such a sheet were missing, and nobody was told."""

    def fill(book: Any) -> None:
        for row in (["Slip", "Cost"], ["Norrin", 3], ["Lowdle", 4], ["Total", '=IF(SUM(B2:B3)>5,"a & b",B2)']):
            book.active.append(row)

    content = xlsx(fill)
    parsed = parse_xlsx(content, "a.xlsx")
    assert parsed.text.endswith('| Lowdle | 4 |\n| Total | =IF(SUM(B2:B3)>5,"a & b",B2) |')
    assert parsed.metadata["warning"] == (
        "1 formulas without a stored result: open and save it in a spreadsheet program"
    )
    sheet = "xl/worksheets/sheet1.xml"
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        parts = {name: book.read(name).decode() for name in book.namelist()}
    before, _, after = parts[sheet].partition('<c r="B4"')
    after = after.partition("</c>")[2]
    for kind, stored in (("n", "7"), ("str", "")):  # a number, and the empty text
        cell = f'<c r="B4" t="{kind}"><f>B2</f><v>{stored}</v></c>'
        parsed = parse_xlsx(zipped(parts | {sheet: before + cell + after}), "a.xlsx")
        assert parsed.text.endswith(f"| Total | {stored} |")
        assert "warning" not in parsed.metadata


def test_xlsx_heads_above_an_empty_row_are_those_of_the_table_below() -> None:
    def fill(book: Any) -> None:
        for row in [["Tides"], [], ["Day", "High"], [], [1, "6:10"], [2, "7:00"], [], ["Total", "two"], [], ["end"]]:
            book.active.append(row)
        book.active["E20"] = timedelta(hours=26, minutes=5)

    assert parse_xlsx(xlsx(fill), "a.xlsx").text == (
        "## Sheet\n\nTides\n\n| Day | High |\n| --- | --- |\n| 1 | 6:10 |\n| 2 | 7:00 |\n\n"
        "| Total | two |\n| --- | --- |\n\nend\n\n26:05:00"
    )


def test_xlsx_text_boxes_are_read() -> None:
    def fill(book: Any) -> None:
        book.active["A1"] = "Boats"

    drawing = (
        '<d:wsDr xmlns:d="http://d" xmlns:a="http://a"><d:sp><d:txBody><a:p><a:r><a:t>Ask Ines</a:t></a:r></a:p>'
        "<a:p><a:r><a:t>first</a:t></a:r></a:p></d:txBody></d:sp></d:wsDr>"
    )
    out = io.BytesIO(xlsx(fill))
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("xl/worksheets/_rels/sheet1.xml.rels", links(r1=("drawing", "../drawings/drawing1.xml")))
        archive.writestr("xl/drawings/drawing1.xml", drawing)
    assert parse_xlsx(out.getvalue(), "a.xlsx").text == "## Sheet\n\nBoats\n\nAsk Ines\nfirst"


def test_xlsx_far_cells_do_not_fill_the_memory() -> None:
    def far(book: Any) -> None:
        book.active["XFD1048576"] = "far"

    assert parse_xlsx(xlsx(far), "a.xlsx").text == "## Sheet\n\nfar"
    with pytest.raises(UnreadableDocument, match="not an XLSX file: a zip archive without a workbook in it"):
        parse_xlsx(zipped({"word/document.xml": "<x/>"}), "a.xlsx")


def test_chunks_know_their_sheet(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))  # a token for each word and mark
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "words.json"))
    parsed = parse_xlsx(xlsx(two_sheets), "book.xlsx")
    document = Document("book.xlsx", "", parsed.title, parsed.text, dict(parsed.metadata))
    chunks = Chunker(tmp_path / "words.json", 40, 0).chunk(document)
    last = chunks[-1]
    assert "Ines" in last.text
    assert (last.metadata["headings"], last.metadata["page"]) == ("People", 2)
    assert {chunk.metadata["page"] for chunk in chunks} == {1, 2}


# --- PPTX

_A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
_P = 'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"'
_R = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
_RELS = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'


def shape(*lines: tuple[int, str], placeholder: str | None = None) -> str:
    ph = "" if placeholder is None else f'<p:nvPr><p:ph type="{placeholder}"/></p:nvPr>'
    paragraphs = "".join(f'<a:p><a:pPr lvl="{level}"/><a:r><a:t>{text}</a:t></a:r></a:p>' for level, text in lines)
    return f"<p:sp><p:nvSpPr>{ph}</p:nvSpPr><p:txBody>{paragraphs}</p:txBody></p:sp>"


def slide(*shapes: str) -> str:
    return f"<p:sld {_A} {_P} {_R}><p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld></p:sld>"


def links(**targets: tuple[str, str]) -> str:
    found = "".join(
        f'<Relationship Id="{name}" Type="x/{kind}" Target="{target}"/>' for name, (kind, target) in targets.items()
    )
    return f"<Relationships {_RELS}>{found}</Relationships>"


CHART = f"""<c:chartSpace xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" {_A}><c:chart><c:title><c:tx>
<c:rich><a:p><a:r><a:t>Catch</a:t></a:r></a:p></c:rich></c:tx></c:title><c:plotArea><c:barChart><c:ser><c:tx><c:strRef>
<c:strCache><c:pt idx="0"><c:v>Tons</c:v></c:pt></c:strCache></c:strRef></c:tx><c:cat><c:strRef><c:strCache>
<c:pt idx="0"><c:v>2023</c:v></c:pt></c:strCache></c:strRef></c:cat>
<c:val><c:numRef><c:numCache><c:pt idx="0"><c:v>4.4000000000000004</c:v></c:pt>
</c:numCache></c:numRef></c:val></c:ser></c:barChart></c:plotArea></c:chart></c:chartSpace>"""


def pptx() -> bytes:
    cells = "".join(
        f"<a:tc><a:txBody><a:p><a:r><a:t>{text}</a:t></a:r></a:p></a:txBody></a:tc>" for text in ("Town", "People")
    )
    table = f"<p:graphicFrame><a:tbl><a:tr>{cells}</a:tr><a:tr>{cells}</a:tr></a:tbl></p:graphicFrame>"
    chart = '<p:graphicFrame><c:chart xmlns:c="http://c" r:id="r9"/></p:graphicFrame>'
    notes = slide(shape((0, "Speak slowly"), placeholder="body"), shape((0, "1"), placeholder="sldNum"))
    return zipped(
        {
            "ppt/presentation.xml": f'<p:presentation {_P} {_R}><p:sldIdLst><p:sldId id="1" r:id="r2"/>'
            '<p:sldId id="2" r:id="r1"/></p:sldIdLst></p:presentation>',
            "ppt/_rels/presentation.xml.rels": links(
                r1=("slide", "slides/slide1.xml"), r2=("slide", "slides/slide2.xml")
            ),
            "ppt/slides/slide1.xml": slide(
                shape((0, "no title here")), table, chart, f"<p:grpSp>{shape((0, 'in a group'))}</p:grpSp>"
            ),
            "ppt/slides/_rels/slide1.xml.rels": links(r9=("chart", "../charts/chart1.xml")),
            "ppt/charts/chart1.xml": CHART,
            "ppt/slides/slide2.xml": slide(
                shape((0, "Slip &amp; sand"), placeholder="title"),
                shape((0, "Point"), (1, "Sub"), placeholder="body"),
                shape((0, "12"), placeholder="sldNum"),
            ),
            "ppt/slides/_rels/slide2.xml.rels": links(r1=("notesSlide", "../notesSlides/notesSlide1.xml")),
            "ppt/notesSlides/notesSlide1.xml": notes,
        }
    )


def test_pptx_slides_are_headings_and_pages() -> None:
    parsed = parse_pptx(pptx(), "talk.pptx")
    first = "## Slip & sand\n\n- Point\n  - Sub\n\nNotes: Speak slowly"
    assert parsed.text == (
        f"{first}\n\n## Slide 2\n\nno title here\n\n| Town | People |\n| --- | --- |\n| Town | People |\n\n"
        "Catch\n\n|  | Tons |\n| --- | --- |\n| 2023 | 4.4 |\n\nin a group"
    )
    assert parsed.metadata == {"format": "pptx", "pages": f"0,{len(first) + 2}"}
    assert parsed.title == "Slip & sand"


def docx(body: str, extra: dict[str, str]) -> bytes:
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument'
        '.wordprocessingml.document.main+xml"/></Types>'
    )
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    return zipped(
        {
            "[Content_Types].xml": types,
            "_rels/.rels": links(r1=("officeDocument", "word/document.xml")),
            "word/document.xml": f"<w:document {space} {_R}><w:body>{body}</w:body></w:document>",
            **extra,
        }
    )


def test_charts_in_a_docx_become_tables() -> None:
    shown = '<c:chart xmlns:c="http://c" r:id="r5"/>'
    chart = f"<w:p><w:r><w:t>Before</w:t>{shown}</w:r></w:p><w:p><w:r><w:t>After</w:t></w:r></w:p>"
    parts = {"word/_rels/document.xml.rels": links(r5=("chart", "charts/chart1.xml")), "word/charts/chart1.xml": CHART}
    text = parse_docx(docx(chart, parts), "a.docx").text
    assert text == "Before\n\nCatch\n\n|  | Tons |\n| --- | --- |\n| 2023 | 4.4 |\n\nAfter"


# --- EPUB


def core(**days: str) -> str:
    dates = "".join(f"<t:{name}>{day}T10:00:00Z</t:{name}>" for name, day in days.items())
    return f'<cp:coreProperties xmlns:cp="x" xmlns:t="http://purl.org/dc/terms/">{dates}</cp:coreProperties>'


def test_an_office_file_is_of_the_day_of_its_last_change() -> None:
    def date(properties: str, packed: tuple[int, int, int] = (1980, 1, 1)) -> str | None:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(pptx())) as old, zipfile.ZipFile(out, "w") as archive:
            for name in old.namelist():
                archive.writestr(zipfile.ZipInfo(name, (*packed, 0, 0, 0)), old.read(name))
            archive.writestr(zipfile.ZipInfo("docProps/core.xml"), properties)
        return parse_pptx(out.getvalue(), "a.pptx").metadata.get("date")

    assert date(core(created="2020-01-01", modified="2024-03-01")) == "2024-03-01"
    assert date(core(created="2020-01-01")) == "2020-01-01"
    assert date(core()) is None
    assert date(core(modified="2013-12-23"), (2025, 4, 5)) == "2025-04-05"  # a template's, filled in later


def test_a_slide_whose_title_is_a_paragraph_loses_nothing_of_it() -> None:
    long = "The Moot agreed that " + "the slip be cleared of sand, " * 10 + "in May."
    parts = {"ppt/presentation.xml": f'<p:presentation {_P} {_R}><p:sldId r:id="r1"/></p:presentation>'}
    parts["ppt/_rels/presentation.xml.rels"] = links(r1=("slide", "slides/slide1.xml"))
    parts["ppt/slides/slide1.xml"] = slide(shape((0, long), placeholder="title"))
    text = parse_pptx(zipped(parts), "a.pptx").text
    assert text.startswith("## The Moot agreed")
    assert text.endswith(f"…\n\n{long}")


def epub(
    page: str = "<html><body><h1>One</h1><p>Text &amp; more</p></body></html>", extra: dict[str, str] | None = None
) -> bytes:
    container = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
    package = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>
    <dc:title>A Book</dc:title></metadata><manifest>
    <item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
    <item id="a" href="text/a%20b.xhtml" media-type="application/xhtml+xml"/>
    <item id="b" href="b.xhtml" media-type="application/xhtml+xml"/></manifest>
    <spine><itemref idref="n"/><itemref idref="b"/><itemref idref="a"/></spine></package>"""
    files = {"META-INF/container.xml": container, "OPS/book.opf": package, "OPS/nav.xhtml": "<p>Contents</p>"}
    return zipped({**files, "OPS/b.xhtml": "<h1>Preface</h1>", "OPS/text/a b.xhtml": page, **(extra or {})})


def test_epub_chapters_come_in_reading_order() -> None:
    assert parse_epub(epub(), "x.epub") == Parsed("# Preface\n\n# One\n\nText & more", "A Book", {"format": "epub"})


@pytest.mark.parametrize("kind", ["nav", "ncx"])
def test_epub_chapters_without_headings_have_those_of_the_contents(kind: str) -> None:
    nav = '<nav epub:type="toc"><a href="a.html#x">The <i>Slip</i></a><a href="b.html">Tides</a></nav>'
    ncx = """<?xml version="1.0"?><!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "x"><ncx><navMap>
    <navPoint><navLabel><text>The Slip</text></navLabel><content src="a.html"/></navPoint>
    <navPoint><navLabel><text>Tides</text></navLabel><content src="b.html"/></navPoint></navMap></ncx>"""
    toc, name, media = (nav, "toc/c.xhtml", 'media-type="x" properties="nav"') if kind == "nav" else (ncx, "c.ncx", "")
    media = media or 'media-type="application/x-dtbncx+xml"'
    toc = toc.replace('href="', 'href="../') if kind == "nav" else toc
    items = "".join(f'<item id="{i}" href="{i}.html" media-type="text/html"/>' for i in "abc")
    opf = f'<package><manifest><item id="t" href="{name}" {media}/>{items}</manifest><spine>'
    opf += "".join(f'<itemref idref="{i}"/>' for i in "abc") + "</spine></package>"
    pages = {"a": "<p>THE SLIP</p><p>Sand.</p>", "b": "<p>Nine.</p>", "c": "<h1>Own</h1><p>End.</p>"}
    book = epub(extra={"OPS/book.opf": opf, f"OPS/{name}": toc, **{f"OPS/{i}.html": page for i, page in pages.items()}})
    assert parse_epub(book, "x.epub").text == "## The Slip\n\nSand.\n\n## Tides\n\nNine.\n\n# Own\n\nEnd."


def test_a_book_is_of_the_day_that_it_says() -> None:
    def date(metadata: str) -> str | None:
        opf = f"<package><metadata>{metadata}</metadata><manifest/><spine/></package>"
        return parse_epub(epub(extra={"OPS/book.opf": opf}), "x.epub").metadata.get("date")

    published = "<date> 1913-05-01 </date>"
    assert date(f'{published}<meta property="dcterms:modified">2020-02-03T10:00:00Z</meta>') == "2020-02-03"
    assert date(published) == "1913-05-01"
    assert date("<date>1913</date>") is None


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_epub_that_cannot_be_read() -> None:
    entities = "<!DOCTYPE x [<!ENTITY a 'b'>]><package/>"
    cases = {
        "not an EPUB file: damaged zip archive": b"PK\x03\x04",
        "not an EPUB file: a zip archive without a book in it": zipped({"a": ""}),
        "damaged EPUB: its XML is not well formed (no element found: line 1, column 9)": epub(
            extra={"OPS/book.opf": "<package>"}
        ),
        "refused: its XML declares a document type, which no EPUB needs and entity attacks do": epub(
            extra={"OPS/book.opf": entities}
        ),
        "encrypted EPUB: its chapters are locked (DRM)": epub(
            extra={"META-INF/encryption.xml": '<e><CipherReference URI="OPS/b.xhtml"/></e>'}
        ),
    }
    for message, content in cases.items():
        with pytest.raises(UnreadableDocument) as refused:
            parse_epub(content, "a.epub")
        assert refused.value.message == message


# --- notebooks, JSON


def notebook() -> bytes:
    cells = [
        {"cell_type": "markdown", "source": ["# Tides\n", "Some text"]},
        {
            "cell_type": "code",
            "source": "print(1)\nx",
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "42", "image/png": "iVBO"}},
                {"output_type": "error", "ename": "KeyError", "evalue": "'a'", "traceback": ["long"]},
            ],
        },
    ]
    return json.dumps({"cells": cells, "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4}).encode()


def test_notebooks() -> None:
    parsed = parse_notebook(notebook(), "a.ipynb")
    assert parsed.text == "# Tides\nSome text\n\n```python\nprint(1)\nx\n```\n\n```\n1\n42\nKeyError: 'a'\n```"
    assert (parsed.title, parsed.metadata) == ("Tides", {"format": "ipynb"})
    for content in (b"{", b"[]", b"{}", b'{"cells": 3}', b'{"cells": [{"cell_type": "code", "source": 5}]}'):
        with pytest.raises(UnreadableDocument, match="not a notebook"):
            parse_notebook(content, "a.ipynb")


def test_notebooks_show_markdown_and_html_and_no_colours() -> None:
    outputs = [
        {"output_type": "stream", "text": ["\x1b[31mWarning\x1b[0m: high water\n"]},
        {"output_type": "display_data", "data": {"text/plain": "<Markdown object>", "text/markdown": ["**Low** at 6"]}},
        {
            "output_type": "execute_result",
            "data": {"text/plain": "<IPython.core.display.HTML object>", "text/html": "<p>High at 12</p>"},
        },
        {"output_type": "execute_result", "data": {"text/plain": "   a\n0  1", "text/html": "<table></table>"}},
        {"output_type": "error", "ename": "E", "evalue": "\x1b[1mno tide\x1b[22m", "traceback": []},
    ]
    content = json.dumps({"cells": [{"cell_type": "code", "source": "x", "outputs": outputs}], "nbformat": 4})
    assert parse_notebook(content.encode(), "a.ipynb").text == (
        "```\nx\n```\n\n```\nWarning: high water\n```\n\n**Low** at 6\n\nHigh at 12\n\n```\n   a\n0  1\nE: no tide\n```"
    )


def test_json_sections_stand_below_the_member_that_holds_them() -> None:
    """Which list a record is of was not in the path above its passages."""
    data = {
        "boats": [{"name": "Hare", "crew": ["Ines", "Ole"]}],
        "slips": [{"name": "Selk", "depth": 4}, {"name": "Norrin", "depth": 2}],
    }
    text = parse_json(json.dumps(data).encode(), "a.json").text
    assert [(heading.level, heading.title) for heading in find_headings(text, "markdown")] == [
        (2, "boats"),
        (3, "Hare"),
        (2, "slips"),
    ]


def test_json_records_become_sections_or_a_table() -> None:
    people = [{"name": "Ines", "age": 41}, {"name": "Ole", "born": 1990}]
    table = "| name | age | born |\n| --- | --- | --- |\n| Ines | 41 |  |\n| Ole |  | 1990 |"
    assert parse_json(json.dumps(people).encode(), "a_b.json") == Parsed(table, "a b", {"format": "json"})
    assert parse_jsonl("\n".join(map(json.dumps, people)).encode(), "a.jsonl").text == table
    nested = {"version": 2, "people": people, "tree": {"a": {"b": [1, 2], "c": [{"d": "e", "f": True}]}}}
    assert parse_json(json.dumps(nested).encode(), "a.json").text == (
        f"version: 2\n\n## people\n\n{table}\n\n## tree\n\na:\n  b:\n    1, 2\n  c:\n    - d: e\n      f: true"
    )
    long = [{"title": "First", "text": "A long story. " * 20}, {"text": "Another. " * 20}]
    text = parse_json(json.dumps(long).encode(), "a.json").text
    assert text.startswith("## First\n\ntitle: First\ntext: A long story.")
    assert "\n\n## Record 2\n\ntext: Another." in text


def test_json_lines_under_the_name_of_json() -> None:
    lines = b'{"town": "Ulla", "people": 40}\n{"town": "Norr", "people": 7}\n'
    table = "| town | people |\n| --- | --- |\n| Ulla | 40 |\n| Norr | 7 |"
    assert parse_json(lines, "a.json") == Parsed(table, "a", {"format": "json"})


def test_what_is_no_json_is_text() -> None:
    assert parse_json(b'{"a": 1} // why', "a.json") == Parsed(
        '{"a": 1} // why', "a", {"format": "text", "warning": "not valid JSON: read as text"}
    )
    assert parse_json(b"[" * 100_000, "a.json").text == "[" * 100_000
    with pytest.raises(UnreadableDocument, match="nested more than 100 deep"):
        parse_json(b"[" * 400 + b"{}" + b"]" * 400, "a.json")


# --- mail


def mail(**heads: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"From": "Ines <i@example.org>", "Subject": "Dredging — costs", **heads}.items():
        message[name] = value
    return message


def test_eml_text_and_attachments() -> None:
    message = mail(To="moot@example.org")
    message.set_content("Dear all,\n26,300 crowns.\n")
    message.add_alternative("<p>not this</p>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="offer.pdf")
    inner = mail(Subject="Before")
    inner.set_content("<h1>Old</h1><p>news</p>", subtype="html")
    message.add_attachment(inner)
    parsed = parse_eml(message.as_bytes(), "x.eml")
    assert parsed.title == "Dredging — costs"
    assert parsed.text == (
        "From: Ines <i@example.org>\nTo: moot@example.org\nSubject: Dredging — costs\nAttached: offer.pdf\n\n"
        "Dear all,\n26,300 crowns.\n\n---\n\nFrom: Ines <i@example.org>\nSubject: Before\n\n# Old\n\nnews"
    )


def test_a_mail_is_of_the_day_on_which_it_was_sent() -> None:
    def metadata(date: str) -> dict[str, str]:
        return dict(parse_eml(f"From: a@b\nDate: {date}\n\ntext".encode(), "a.eml").metadata)

    assert metadata("Fri, 1 Mar 2024 23:30:00 +0200") == {"format": "eml", "date": "2024-03-01"}
    assert metadata("yesterday") == {"format": "eml"}
    assert metadata("") == {"format": "eml"}


def test_eml_whose_plain_text_says_nothing_is_its_html() -> None:
    message = mail()
    message.set_content(" \n\n")
    message.add_alternative("<p>The news.</p>", subtype="html")
    assert parse_eml(message.as_bytes(), "a.eml").text.endswith("\n\nThe news.")


def test_eml_texts_around_a_picture_and_what_is_attached_deeper() -> None:
    """As Apple's program writes them: the HTML as a mixture of texts, pictures and files, beside plain text or not."""
    message = mail()
    message.make_mixed()
    picture = b"Content-Type: image/png; name=a.png\nContent-ID: <1>\n\nx"
    below = b"Content-Type: text/plain; charset=utf-8\n\nAnd 26,300 crowns \xe2\x80\x93 below it.\n"
    patch = b"Content-Type: text/plain; name=p.diff\nContent-Disposition: inline\n\n+1\n"
    sheet = b"Content-Type: application/pdf; name=offer.pdf\nContent-Disposition: attachment\n\nx"
    for part in (b"Content-Type: text/plain\n\nSee the plan.\n", picture, below, patch):
        message.attach(message_from_bytes(part, policy=policy.default))
    assert parse_eml(message.as_bytes(), "a.eml").text == (
        "From: Ines <i@example.org>\nSubject: Dredging — costs\nAttached: p.diff\n\n"
        "See the plan.\n\nAnd 26,300 crowns – below it."
    )
    message, mixed = mail(), EmailMessage()
    mixed.make_mixed()
    for part in (b"Content-Type: text/html\n\n<p>one</p>", sheet, b"Content-Type: text/html\n\n<p>two</p>"):
        mixed.attach(message_from_bytes(part, policy=policy.default))
    message.make_alternative()
    message.attach(mixed)
    assert parse_eml(message.as_bytes(), "a.eml").text.endswith("Attached: offer.pdf\n\none\n\ntwo")


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_eml_heads_that_are_no_ascii(charset: str) -> None:
    parsed = parse_eml("From: J\u00f6rg <j@x.de>\nSubject: Gr\u00fc\u00dfe\n\nH\u00e4llo\n".encode(charset), "a.eml")
    assert parsed.text == "From: J\u00f6rg <j@x.de>\nSubject: Gr\u00fc\u00dfe\n\nH\u00e4llo"
    assert parsed.title == "Gr\u00fc\u00dfe"


def test_eml_with_odd_parts() -> None:
    odd = b"From: a@b\nContent-Type: text/plain; charset=klingon\n\nna\xc3\xafve"
    assert parse_eml(odd, "a.eml").text == "From: a@b\n\nnaïve"
    quoted = b"From: a@b\nContent-Type: text/plain; charset=iso-8859-1\n\n\x93so\x94"
    assert parse_eml(quoted, "a.eml").text == "From: a@b\n\n“so”"
    with pytest.raises(UnreadableDocument, match="not a mail"):
        parse_eml(b"just text\n\nmore", "a.eml")
    with pytest.raises(UnreadableDocument, match="not an Outlook mail"):
        parse_msg(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 5000, "a.msg")


_STREAM = 4096  # bytes: those of smaller streams lie elsewhere in the file


def msg(files: dict[str, str | bytes]) -> bytes:
    """A compound file (MS-CFB) of streams by their paths, text as Outlook has it, each filled up with zeros."""
    paths = {"": None, **{path.rpartition("/")[0]: None for path in files}, **files}
    paths = {"/".join(path.split("/")[:n]): None for path in paths for n in range(path.count("/") + 1)} | paths
    names = [path for path in paths if path]
    sectors = _STREAM // 512
    entries, streams = [], b""
    for number, path in enumerate(["", *names]):
        content = files.get(path)
        kind = 5 if not path else 1 if content is None else 2
        kids = [1 + names.index(other) for other in names if other.rpartition("/")[0] == path]
        same = [1 + names.index(other) for other in names if other.rpartition("/")[0] == path.rpartition("/")[0]]
        after = same[same.index(number) + 1] if path and same[-1] != number else 0xFFFFFFFF
        start = 1 + len(streams) // 512 if content is not None else 0xFFFFFFFE
        if content is not None:
            streams += (content.encode("utf-16-le") if isinstance(content, str) else content).ljust(_STREAM, b"\0")
        name = (path.rpartition("/")[2] or "Root Entry").encode("utf-16-le") + b"\0\0"
        below = kids[0] if kids else 0xFFFFFFFF
        entries.append(
            name.ljust(64, b"\0")
            + struct.pack("<HBBIII", len(name), kind, 1, 0xFFFFFFFF, after, below)
            + bytes(36)
            + struct.pack("<IQ", start, _STREAM if content is not None else 0)
        )
    table = [0xFFFFFFFD]
    for _ in files:
        table += [len(table) + n + 1 for n in range(sectors - 1)] + [0xFFFFFFFE]
    folder = len(table)
    size = -(-len(entries) // 4)
    table += [folder + n + 1 for n in range(size - 1)] + [0xFFFFFFFE]
    assert len(table) <= 128
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16)
    head += struct.pack("<HHHHH6x4I", 0x3E, 3, 0xFFFE, 9, 6, 0, 1, folder, 0)
    head += struct.pack("<5I", 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0)
    head += struct.pack("<109I", 0, *[0xFFFFFFFF] * 108)
    fat = struct.pack("<128I", *table, *[0xFFFFFFFF] * (128 - len(table)))
    return head + fat + streams + b"".join(entries).ljust(512 * size, b"\0")


def test_mails_in_an_outlook_mail_are_read() -> None:
    """Of a mail that was attached to another one only the name was kept."""
    attachment, inner = "__attach_version1.0_#00000000", "__attach_version1.0_#00000000/__substg1.0_3701000D"
    day = struct.pack("<HHIQ", 0x40, 0x39, 6, 133_640_000_000_000_000)
    parsed = parse_msg(
        msg(
            {
                "__properties_version1.0": bytes(32) + day,
                "__substg1.0_0037001F": "Slip",
                "__substg1.0_1000001F": "See below.",
                f"{attachment}/__substg1.0_3001001F": "Sand",
                f"{inner}/__properties_version1.0": bytes(24) + day,
                f"{inner}/__substg1.0_0037001F": "Sand",
                f"{inner}/__substg1.0_1000001F": "It is full.",
                "__attach_version1.0_#00000001/__substg1.0_3707001F": "map.png",
            }
        ),
        "a.msg",
    )
    assert parsed.text == (
        "Date: 2024-06-27 22:13+00:00\nSubject: Slip\nAttached: map.png\n\nSee below.\n\n---\n\n"
        "Date: 2024-06-27 22:13+00:00\nSubject: Sand\n\nIt is full."
    )
    assert (parsed.title, parsed.metadata["date"]) == ("Slip", "2024-06-27")


# --- source code


def test_definitions_are_headings() -> None:
    code = (
        "import os\n\nclass Ferry(Boat):\n    classy = 1\n    async def sail(self):\n        pass\n\n"
        "export default function dock() {}\npub(crate) fn moor<T>(t: T) {}\nimpl<T> Quay for Slip {}\n"
        "func (f *Ferry) Load(n int) {}\ncreate or replace table towns (id int)\n# def comment\nreturn function\n"
    )
    assert [(h.level, h.title) for h in find_headings(code, "code")] == [
        (1, "Ferry"),
        (5, "sail"),
        (1, "dock"),
        (1, "moor"),
        (1, "Quay"),
        (1, "Load"),
        (1, "towns"),
    ]


def test_source_code_is_kept_as_it_is(loader: Loader, tmp_path: Path) -> None:
    file = tmp_path / "my_ferry.py"
    file.write_text("def sail():\n\treturn 1\n")
    document = loader.load_file(file, "my_ferry.py", "")
    assert (document.text, document.title) == ("def sail():\n\treturn 1\n", "my_ferry.py")
    assert document.metadata == {"format": "code"}


# --- damage


def samples() -> dict[str, bytes]:
    message = mail()
    message.set_content("Dear all,\n26,300 crowns.\n")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="offer.pdf")
    return {
        "a.xlsx": xlsx(two_sheets),
        "a.pptx": pptx(),
        "a.epub": epub(),
        "a.ipynb": notebook(),
        "a.json": json.dumps([{"name": "Ines", "age": [1, {"a": "b"}]}] * 3).encode(),
        "a.csv": b"Town;People\nUlla;40\nNorr;7\n" * 10,
        "a.eml": message.as_bytes(),
        "a.docx": docx("".join(f"<w:p><w:r><w:t>Paragraph {number}</w:t></w:r></w:p>" for number in range(5)), {}),
        "a.html": b"<html><title>T</title><body><table><tr><td rowspan=2>x</td></tr></table></body></html>",
    }


@pytest.mark.parametrize("name", samples())
def test_damaged_files_are_refused_or_read(name: str, loader: Loader, tmp_path: Path) -> None:
    """Bytes changed, cut out and doubled, the parts of zip archives too, so that damage gets past their checksums."""
    chance = random.Random(name)
    good = samples()[name]
    read = check_damaged((mutated(good, chance) for _ in range(MUTATIONS)), name, loader, tmp_path)
    assert read


@pytest.mark.shared
def test_damaged_real_files_are_refused_or_read(loader: Loader, tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    files = [file for file in sorted(SHARED.rglob("*")) if file.suffix.lower() in SUFFIXES]
    small = [file for file in files if file.is_file() and file.stat().st_size < 300_000]
    chance = random.Random(1)
    for _ in range(2 * MUTATIONS):
        file = chance.choice(small)
        check_damaged([mutated(file.read_bytes(), chance)], f"a{file.suffix}", loader, tmp_path)


def check_damaged(contents: Iterable[bytes], name: str, loader: Loader, folder: Path) -> int:
    """Load files of these contents; return how many could be read. The others must be refused with a reason."""
    file = folder / name
    read = 0
    for content in contents:
        file.write_bytes(content)
        try:
            document = loader.load_file(file, name, "")
        except UnreadableDocument as error:
            reason = error.message
            bad = [mark for mark in ("\n", "crashed", "longer than", "GB of memory") if mark in reason]
            if bad:
                pytest.fail(f"{name} of SHA-256 {sha256(content).hexdigest()}: {reason}")
        else:
            read += 1
            assert document.text.strip()
            document.text.encode()
    return read
