"""Loading: files made here byte by byte, and the shared folder of real ones where it is at hand."""

import contextlib
import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import indexer.parsed
from indexer.bookmarks import Bookmark, outline_of, told_headings
from indexer.chunk import Chunker
from indexer.load import SUFFIXES, Loader
from indexer.load_docx import parse_docx
from indexer.load_html import parse_html
from indexer.load_pdf import parse_pdf
from indexer.outline import find_headings
from indexer.parsed import join_pages, readable_stem, sensible_title
from indexer.reflow import Line, page_rows, page_text, vocabulary, with_edges
from rag.datatypes import Document
from rag.errors import Unavailable, UnreadableDocument, UnsupportedFormat

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data" / "formats"


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    with Loader() as loader:
        yield loader


def load(loader: Loader, folder: Path, name: str, content: bytes | str) -> Document:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return loader.load_file(file, name, f"file:///{name}")


def reason(loader: Loader, folder: Path, name: str, content: bytes | str) -> str:
    with pytest.raises(UnreadableDocument) as refused:
        load(loader, folder, name, content)
    assert "\n" not in refused.value.message
    return refused.value.message


# --- plain text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("naïve\r\n€\rline\n".encode(), "naïve\r\n€\rline\n"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        (b"\xff\xfe" + "Ünïcode 漢".encode("utf-16-le"), "Ünïcode 漢"),
        (b"\xfe\xff" + "Ünïcode".encode("utf-16-be"), "Ünïcode"),
        (b"\xff\xfe\0\0" + "wide".encode("utf-32-le"), "wide"),
        ("Le café coûte 3 € — “cher”".encode("cp1252"), "Le café coûte 3 € — “cher”"),
        ("Préface ········ 1\n————————".encode("cp1252"), "Préface ········ 1\n————————"),
        ("été, là-bas".encode() + b"\xc3", "été, là-bas\ufffd"),
        ("Привет ".encode() + b"\xff", "Привет \ufffd"),
        ("Zwei über Größe\n".encode() + "Übel, böse, Öl".encode("cp1252"), "Zwei Ã¼ber GrÃ¶ÃŸe\nÜbel, böse, Öl"),
        (b"a\x1b[31mlog\x1b[0m\tline\x0cpage", "a\x1b[31mlog\x1b[0m\tline\x0cpage"),
    ],
)
def test_text_is_kept_character_for_character(loader: Loader, tmp_path: Path, content: bytes, text: str) -> None:
    document = load(loader, tmp_path, "a_note.txt", content)
    assert document.text == text
    assert document == Document("a_note.txt", "file:///a_note.txt", "a note", text, {"format": "text"})


NOT_TEXT = "not UTF-8, UTF-16 or Windows-1252 text, nor in another charset that can be told"
SCRIPTS = {
    "cp1251 koi8-r cp866 iso8859-5": "Совет решил в марте починить крышу. Стоимость работ составит двадцать шесть "
    "тысяч крон. Паром ходит три раза в день, кроме воскресенья.",
    "cp1253 iso8859-7": "Το συμβούλιο αποφάσισε τον Μάρτιο την επισκευή της στέγης. Το κόστος των εργασιών θα είναι "
    "είκοσι έξι χιλιάδες κορώνες.",
    "cp1255": "המועצה החליטה במרץ לתקן את הגג. עלות העבודות תהיה עשרים ושישה אלף כתרים. "
    "תושבי האי אינם מרוצים, אך הסכימו לשלם.",
    "cp932 euc-jp iso2022-jp": "評議会は三月に屋根の修理を決定した。工事の費用は二万六千クローネになる見込みである。",
    "gb18030": "委员会三月份决定修理屋顶。工程费用将达到两万六千克朗。除星期日外,渡轮每天开三次。岛上的居民不满意。",
    "big5": "委員會三月份決定修理屋頂。工程費用將達到兩萬六千克朗。除星期日外,渡輪每天開三次。島上的居民不滿意。",
    "cp949": "위원회는 3월에 지붕을 수리하기로 결정했다. 공사 비용은 이만 육천 크로네가 될 것이다. "
    "페리는 하루 세 번 운항한다.",
}


@pytest.mark.parametrize(("charset", "text"), [(name, SCRIPTS[names]) for names in SCRIPTS for name in names.split()])
def test_charsets_of_other_scripts_are_told(loader: Loader, tmp_path: Path, charset: str, text: str) -> None:
    assert load(loader, tmp_path, "a.txt", text.encode(charset)).text == text
    code = "def total(rows):\n    return sum(rows)\n" * 9 + f"# {text}\n"  # few among many Latin letters
    assert load(loader, tmp_path, "a.py", code.encode(charset)).text == code
    table = "id,note\n" + "".join(f'{number},"{text}"\n' for number in range(3))
    assert f"| 2 | {text} |" in load(loader, tmp_path, "a.csv", table.encode(charset)).text


LATIN = {
    "cp1250 iso8859-2": [
        "Rada postanowiła w marcu naprawić dach. Koszt robót wyniesie dwadzieścia sześć tysięcy koron. Prom pływa trzy "
        "razy dziennie, z wyjątkiem niedziel. Mieszkańcy są niezadowoleni, lecz zgodzili się zapłacić. Źródło: X.",
        "Rada v březnu rozhodla o opravě střechy. Náklady na práce budou činit dvacet šest tisíc korun. Přívoz jezdí "
        "třikrát denně, kromě neděle. Obyvatelé ostrova nejsou spokojeni, ale souhlasili, že zaplatí. Příští zasedání "
        "se koná v červenci, můžete se ho účastnit.",
        "A tanács márciusban úgy döntött, hogy megjavíttatja a tetőt. A munka költsége huszonhatezer korona lesz. Az "
        "első ülés időpontját később közlik, a jövő évi költségvetés előkészületei szűkösek. A sziget lakói nem "
        "elégedettek, de beleegyeztek, hogy fizetnek.",
        "Consiliul a hotărât în martie să repare acoperişul. Costul lucrărilor va fi de douăzeci şi şase de mii de "
        "coroane. Locuitorii insulei nu sunt mulţumiţi, dar au fost de acord să plătească.",
        "Vijeće je u ožujku odlučilo popraviti krov. Troškovi će iznositi dvadeset šest tisuća kruna. Otočani nisu "
        "zadovoljni, ali su pristali platiti. Sljedeća sjednica održat će se u srpnju, svi će moći doći ako žele.",
    ],
    "cp1254 iso8859-9": [
        "Meclis mart ayında çatıyı onarmaya karar verdi. İşlerin maliyeti yirmi altı bin kron olacak. Feribot pazar "
        "günleri dışında günde üç kez çalışıyor. Adalılar memnun değil ama ödemeyi kabul etti."
    ],
    "cp1257 iso8859-13": [
        "Taryba kovo mėnesį nusprendė sutaisyti stogą. Darbai kainuos dvidešimt šešis tūkstančius kronų. Salos "
        "gyventojai nepatenkinti, bet sutiko mokėti. Kitas posėdis įvyks liepą, jame galės dalyvauti visi žmonės.",
        "Padome martā nolēma salabot jumtu. Darbi izmaksās divdesmit sešus tūkstošus kronu. Prāmis kursē trīs reizes "
        "dienā, izņemot svētdienas. Salas iedzīvotāji nav apmierināti, bet piekrita maksāt, ja kāds ņem līdzi ķērnu.",
    ],
}


@pytest.mark.parametrize(
    ("charset", "text"), [(name, text) for names in LATIN for name in names.split() for text in LATIN[names]]
)
def test_charsets_of_other_latin_letters_are_told(loader: Loader, tmp_path: Path, charset: str, text: str) -> None:
    """They were read as Windows-1252: `Koszt robót` was right, `³ódŸ` was not."""
    assert load(loader, tmp_path, "a.txt", text.encode(charset)).text == text
    assert parse_html(f"<p>{text}</p>".encode(charset), "a.html").text == text
    table = "id,note\n" + "".join(f'{number},"{text}"\n' for number in range(3))
    assert f"| 2 | {text} |" in load(loader, tmp_path, "a.csv", table.encode(charset)).text


@pytest.mark.parametrize(
    "text",
    [
        "Price £5, 30 m³ of sand, © 2020, n.º 5, ¼ of 1¾ " * 30,
        "Die Größe der Bohrung, Ø 5 mm, darf über 3 µm ± 1 µm ± 2 µm ± 3 µm abweichen, “so”. " * 30,
        "¿Qué año es? ¡El 3º, señor! La camión está aquí, ¿no? " * 9,
        "L’été, là-bas, où êtes-vous allés ? « Ça » : cœur, naïf, Noël. " * 9,
        "Þórður sagði að þeir hefðu átt að færa bátinn í höfnina á miðvikudaginn, því veðrið versnaði. " * 3,
        "São Paulo não é só café: é coração, ações, à tarde, vovô, avó. " * 9,
        "Blåbærsyltetøy på brødskive, æ, ø og å. Bjørn Müller, José, François, Ángel Muñoz. " * 3,
    ],
)
def test_western_letters_and_marks_are_of_no_other_charset(loader: Loader, tmp_path: Path, text: str) -> None:
    assert load(loader, tmp_path, "a.txt", text.encode("cp1252")).text == text


@pytest.mark.parametrize(
    ("name", "text", "charset"),
    [
        ("a.xml", '<?xml version="1.0" encoding="iso-8859-2"?>\n<p>Łódź</p>', "iso-8859-2"),
        ("a.xml", "<?xml version='1.0' encoding='windows-1251'?><p>Рада</p>", "cp1251"),
        ("a.py", "#!/usr/bin/python\n# -*- coding: iso-8859-2 -*-\nx = 'Łódź'\n", "iso-8859-2"),
        ("a.rb", "# vim: set fileencoding=koi8-r :\nx = 'да'\n", "koi8-r"),
        ("a.tex", "\\documentclass{a}\n%\n\\usepackage[latin2]{inputenc}\nŁódź", "iso-8859-2"),
        ("a.py", "# coding: latin-1\nx = 'Größe, über'\n", "utf-8"),  # left behind when the file was saved anew
        ("a.xml", '<?xml version="1.0" encoding="utf-16"?><p>Größe</p>', "cp1252"),
        ("a.py", "# coding: rot13\nx = 'Größe'\n", "cp1252"),
        ("a.py", "a = 1\nb = 2\n# coding: koi8-r\nx = 'Größe'\n", "cp1252"),
    ],
)
def test_charset_that_a_text_names(loader: Loader, tmp_path: Path, name: str, text: str, charset: str) -> None:
    """It was never looked for: what was short was refused, or read as Windows-1252."""
    assert load(loader, tmp_path, name, text.encode(charset)).text == text


@pytest.mark.parametrize("charset", ["mac-roman", "cp850", "cp437"])
def test_latin_letters_are_of_no_other_script(loader: Loader, tmp_path: Path, charset: str) -> None:
    text = "Où êtes-vous allés ? Là-bas, près de l'église, à côté de la forêt : c'était très intéressant, dit-elle. "
    text += "Déjà vu, déjà cité ; où ça ? Où mène cet été le théâtre ?"
    assert reason(loader, tmp_path, "a.txt", text.replace("À", "").encode(charset)) == NOT_TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty: no text in it"),
        (b" \n\t\n", "empty: no text in it"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary data, not text"),
        ("no mark".encode("utf-16-le"), "binary data, not text"),
        ("名前,住所\n佐藤,東京都".encode("shift-jis"), NOT_TEXT),
        ("Привет, как дела?".encode("cp1251"), NOT_TEXT),
        (b"\xff\xfea", "damaged text: not the UTF-16-LE that its first bytes say"),
    ],
)
def test_what_is_no_text_is_refused(loader: Loader, tmp_path: Path, content: bytes, message: str) -> None:
    assert reason(loader, tmp_path, "a.txt", content) == message


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("a.md", "intro\n\n## The *first* one\n\n# Second", "The first one"),
        ("a.md", '---\nlayout: x\ntitle: "From the matter"\n---\n# Not this', "From the matter"),
        ("a.md", "+++\ntitle = 'Toml'\n+++\ntext", "Toml"),
        ("a.md", '{\n "draft": false,\n "title": "Of *JSON*"\n}\n\n# Not this', "Of JSON"),
        ("a.md", '{\n "title": ["no"]\n}\n\n# This', "This"),
        ("My_long-name.markdown", "no heading", "My long-name"),
        ("a.rst", "=====\nTitle\n=====\n\ntext", "Title"),
        ("a.rst", "PEP: 1\nTitle: Field of the preamble\nStatus: Final\n\nHeading\n=======\n", "Field of the preamble"),
        ("a.adoc", "= Doc title\n\ntext", "Doc title"),
        ("A.JSON", '{"title": "no"}', "A"),
        ("data_2024.csv", "# a,b\n1,2", "data 2024"),
    ],
)
def test_titles(loader: Loader, tmp_path: Path, name: str, content: str, title: str) -> None:
    assert load(loader, tmp_path, name, content).title == title


def test_titles_out_of_properties() -> None:
    assert sensible_title("Annual\x00 Report ", "a.pdf") == "Annual Report"
    for placeholder in [
        "",
        "(anonymous)",
        "untitled",
        "Microsoft Word - a.doc",
        "scan_01.jpg",
        "report",
        "42",
        "Document1",
        "PowerPoint Presentation",
        "PowerPoint-Präsentation",
        "Présentation PowerPoint",
        "Slide 1",
    ]:
        assert sensible_title(placeholder, "report.pdf") == ""
    assert sensible_title("PowerPoint for beginners", "report.pdf") == "PowerPoint for beginners"
    assert readable_stem("annual_report__2024.pdf") == "annual report 2024"


# --- refusals of all formats


def test_unsupported_formats_are_named(loader: Loader, tmp_path: Path) -> None:
    for name, message in [("a.gif", "unsupported format .gif"), ("Makefile", "unsupported format: no file suffix")]:
        with pytest.raises(UnsupportedFormat) as refused:
            load(loader, tmp_path, name, b"x")
        assert refused.value.message == message
    assert {".txt", ".md", ".rst", ".html", ".pdf", ".docx"} <= loader.suffixes == SUFFIXES


def test_what_is_no_file_is_refused(loader: Loader, tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.pdf")  # opening it would wait for ever
    for name, message in [
        ("folder.txt", "not a regular file"),
        ("pipe.pdf", "not a regular file"),
        ("missing.html", "cannot be read: No such file or directory"),
    ]:
        with pytest.raises(UnreadableDocument) as refused:
            loader.load_file(tmp_path / name, name, "")
        assert refused.value.message == message


def test_sizes_are_bounded(loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["big.txt", "big.pdf"]:
        with (tmp_path / name).open("wb") as file:
            file.truncate(312_000_000)
        with pytest.raises(UnreadableDocument, match=r"^too large: 312 MB, the limit is 100 MB$"):
            loader.load_file(tmp_path / name, name, "")
    with monkeypatch.context() as growing:  # between the look at it and the reading
        growing.setattr(indexer.load, "_check_file", lambda path, limit: None)
        with pytest.raises(UnreadableDocument, match=r"^too large: it grew while it was read$"):
            loader.load_file(tmp_path / "big.txt", "big.txt", "")
    monkeypatch.setattr(indexer.parsed, "TEXT_CHARACTERS", 1_000_000)
    assert reason(loader, tmp_path, "a.txt", "a " * 600_000) == (
        "too long: 1.2 million characters of text, the limit is 1 million"
    )


# --- HTML


def html(body: str, head: str = "") -> str:
    return f"<!DOCTYPE html><html><head>{head}</head><body>{body}</body></html>"


def text_of(body: str, head: str = "") -> str:
    return parse_html(html(body, head).encode(), "page.html").text


def test_html_keeps_the_content_and_drops_the_rest() -> None:
    prose = "A paragraph that is long enough to be the content of the page. " * 4
    text = text_of(
        f"""<header>Site name</header><nav>Home</nav><div role="navigation">Crumbs</div><script>var x = 1</script>
        <style>p {{}}</style><!-- note --><aside>Advert</aside><div hidden>secret</div><p style="display: none">gone</p>
        <main><article><header><h1>Ducks</h1></header><p>{prose}</p><aside>A remark.</aside>
        <p>More <b>bold</b> <a href="http://x">linked</a> <code>code</code><br>next line</p><img alt="pic" src="data:x">
        <ul><li>one<ul><li>inner</li></ul></li><li>two</li></ul><pre>a = 1\n  b = 2</pre></article></main>
        <footer>Imprint</footer>"""
    )
    assert text == (
        f"# Ducks\n\n{prose.strip()}\n\nA remark.\n\nMore bold linked `code`\nnext line\n\n"
        "- one\n  - inner\n- two\n\n```\na = 1\n  b = 2\n```"
    )


def test_html_never_drops_everything() -> None:
    assert text_of("<nav><p>All there is on this page.</p></nav>") == "All there is on this page."
    assert text_of("<header><h1>Name</h1></header><p>Text</p>") == "# Name\n\nText"


def test_html_tables_are_readable() -> None:
    table = """<table><tr><th rowspan=2>Year</th><th>Sum</th></tr><tr><td>12</td></tr>
    <tr><td>2025</td><td>a<br>b</td></tr></table>"""
    assert text_of(table) == "| Year | Sum |\n| --- | --- |\n| Year | 12 |\n| 2025 | a b |"
    layout = "<table><tr><td><table><tr><td>1</td><td>2</td></tr></table></td><td>side</td></tr></table>"
    assert text_of(layout) == "| 1 | 2 |\n| --- | --- |\n\nside"
    assert "| x" in text_of("<table><tr><td rowspan=99999999 colspan=99999999>x</td><td>y</td></tr></table>")


def test_long_html_tables_repeat_their_head() -> None:
    rows = "".join(f"<tr><td>Town {n}</td><td>{'x' * 80}</td></tr>" for n in range(20))
    head = "<caption>Towns</caption><colgroup><col><col></colgroup><tr><th>Town</th><th>Note</th></tr>"
    page = f"<p>Before.</p><table>{head}{rows}</table><p>After.</p>"
    blocks = text_of(page).split("\n\n")
    assert blocks[:2] == ["Before.", "Towns"]
    assert blocks[-1] == "After."
    assert len(blocks) > 5
    assert all(block.startswith("| Town | Note |\n| --- | --- |\n| Town ") for block in blocks[2:-1])
    assert [line for block in blocks[2:-1] for line in block.split("\n")[2:]] == [
        f"| Town {n} | {'x' * 80} |" for n in range(20)
    ]


def test_html_answers_that_their_questions_open_are_content() -> None:
    """An accordion, as pages of frequent questions have it: closed, the question being a button in a heading."""
    page = """<h3><button aria-expanded="false" aria-controls="a1">How do I pay?</button></h3>
    <div id="a1" hidden>By card.</div><h3><button aria-controls="a2">And when?</button></h3>
    <div id="a2" style="display: none" aria-hidden="true">In May.</div>
    <button aria-controls="menu">Menu</button><div id="menu" hidden>Home</div><div hidden>Secret</div>"""
    assert text_of(page) == "### How do I pay?\n\nBy card.\n\n### And when?\n\nIn May."


def test_html_exponents_and_soft_hyphens() -> None:
    assert text_of("<p>10<sup>6</sup> or 2.5·10<sup>−3</sup> m<sup>2</sup>, the 19<sup>th</sup></p>") == (
        "10^6 or 2.5·10^−3 m2, the 19th"
    )
    assert text_of("<p>Donau&shy;dampf&shy;schiff</p>") == "Donaudampfschiff"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (html("<p>naïve</p>", '<meta charset="iso-8859-1">').encode("latin-1"), "naïve"),
        (html("<p>“so”</p>", '<meta charset="iso-8859-1">').encode("cp1252"), "“so”"),
        (html("<p>镕基 €</p>", '<meta charset="gb2312">').encode("gb18030"), "镕基 €"),
        (html("<p>①髙</p>", '<meta charset="shift_jis">').encode("cp932"), "①髙"),
        (html("<p>똠</p>", '<meta charset="euc-kr">').encode("cp949"), "똠"),
        (html("<p>x\x81</p>", '<meta charset="iso-8859-1">').encode("latin-1"), "x\x81"),
        (html("<p>Привет</p>", '<meta charset="windows-1251">').encode("cp1251"), "Привет"),
        (b"\xff\xfe" + html("<p>漢字</p>", '<meta charset="utf-16">').encode("utf-16-le"), "漢字"),
        (html("<p>€ &amp; &#x27;</p>", '<meta charset="utf-16">').encode(), "€ & '"),
        (html("<p>“cp1252”</p>").encode("cp1252"), "“cp1252”"),
        (html("<p>x</p>", '<meta charset="no-such-thing">').encode(), "x"),
        (b'<?xml version="1.0" encoding="utf-8"?>' + html("<p>xhtml&#xD800;</p>").encode(), "xhtml\ufffd"),
        (html("<p>Größe, Maße, Höhe|</p>").encode().replace(b"|", b"\xe2\x80"), "Größe, Maße, Höhe\ufffd"),
        (html("<p>镕基|€</p>", "<meta charset=gb2312>").encode("gb18030").replace(b"|", b"\xff"), "镕基\ufffd€"),
        (b"just words", "just words"),
    ],
)
def test_html_encodings(content: bytes, text: str) -> None:
    assert parse_html(content, "a.html").text == text


def test_html_charset_that_is_said_late() -> None:
    """Browsers find it behind a long comment, too: Cyrillic was read as accented letters."""
    page = f"<html><head><!--{'x' * 5000}--><meta charset=windows-1251></head><body>Аренда квартир</body></html>"
    assert parse_html(page.encode("cp1251"), "a.html").text == "Аренда квартир"


def test_html_formulas_are_text() -> None:
    """Pages hide them behind pictures, and what is raised or below a line stood beside what it belongs to."""
    power = "<msup><mi>c</mi><mn>2</mn></msup>"
    tex = '<annotation encoding="application/x-tex">{\\displaystyle E=mc^{2}}</annotation>'
    hidden = (
        f'<span><span style="display: none"><math><semantics><mrow>{power}</mrow>{tex}</semantics></math></span>'
        '<img src="a.svg" aria-hidden="true"></span>'
    )
    assert text_of(f"<p>It is {hidden} joules.</p>") == "It is E=mc^{2} joules."
    fraction = f"<mfrac><mrow><mo>-</mo><mi>b</mi></mrow><msqrt><mrow>{power}<mi>d</mi></mrow></msqrt></mfrac>"
    limits = "<munderover><mo>∑</mo><mrow><mi>k</mi><mo>=</mo><mn>0</mn></mrow><mi>n</mi></munderover>"
    assert text_of(f"<p><math><mi>x</mi><mo>=</mo>{fraction}</math></p>") == "x=(-b)/(√(c^2d))"
    assert text_of(f"<p>Sum<math display='block'>{limits}<mroot><mi>k</mi><mn>3</mn></mroot></math></p>") == (
        "Sum ∑_(k=0)^nk^(1/3)"
    )
    assert text_of("<p>a <math></math> b</p>").split() == ["a", "b"]
    assert text_of("<p><math><mn>2</mn><mo>\u2062</mo><mi>x</mi></math></p>") == "2x"


def test_html_items_have_the_numbers_that_are_shown() -> None:
    items = "<li>Boats</li><li value=5>Slips<ol><li>Selk</li></ol></li><li>Sand</li>"
    assert text_of(f"<ol type=a>{items}</ol>") == "a. Boats\ne. Slips\n   1. Selk\nf. Sand"
    assert text_of(f"<ol start=3>{items}</ol>") == "3. Boats\n5. Slips\n   1. Selk\n6. Sand"


def test_html_marks_of_markdown_are_no_headings() -> None:
    text = text_of("<h1>Setup</h1><p># ifconfig -a</p><p>#1 in town</p><p>a<br># b</p>")
    assert text == "# Setup\n\n\\# ifconfig -a\n\n#1 in town\n\na\n\\# b"
    assert [heading.title for heading in find_headings(text, "markdown")] == ["Setup"]


def test_html_tables_without_words_are_none() -> None:
    assert text_of("<p>a</p><table><tr><td></td><td> </td></tr></table><p>b</p>") == "a\n\nb"


def test_html_titles() -> None:
    def title(body: str, head: str) -> str:
        return parse_html(html(body, head).encode(), "my_page.html").title

    assert title("<h1>Ducks</h1>", "<title>Ducks - Encyclopedia</title>") == "Ducks"
    assert title("<h1>Chapter 1</h1>", "<title>A Book</title>") == "A Book"
    assert title("<h2>Only heading</h2>", "") == "Only heading"
    assert title("text", "<title> </title>") == "my page"


@pytest.mark.parametrize(
    ("head", "date"),
    [
        ('<meta property="article:published_time" content=" 2024-03-01T10:00:00Z">', "2024-03-01"),
        (
            '<meta name="date" content="2020-01-01"><meta name="DCTERMS.modified" content="2024-03-02">'
            '<meta name="DCTERMS.modified" content="2025-01-01">',
            "2024-03-02",
        ),
        ('<meta name="date" content="1 March 2024"><meta name="author" content="2024-03-01">', None),
        ('<meta name="date"><meta content="2024-03-01">', None),
    ],
)
def test_html_dates(head: str, date: str | None) -> None:
    known = {"format": "html"} if date is None else {"format": "html", "date": date}
    assert parse_html(html("text", head).encode(), "a.html").metadata == known


def test_html_nested_too_deeply_still_gives_its_words(loader: Loader, tmp_path: Path) -> None:
    document = load(loader, tmp_path, "deep.html", "<div>" * 30_000 + "bottom" + "</div>" * 30_000)
    assert document.text == "bottom"
    assert reason(loader, tmp_path, "a.html", b"\0\1\2\0") == "not an HTML file: binary data, or an unknown encoding"
    assert reason(loader, tmp_path, "b.html", "<p></p>") == "empty: no text in it"


# --- PDF


def pdf(*pages: str, title: str = "", image: bool = False, password: str | None = None, bookmark: str = "") -> bytes:
    """A PDF whose pages have the given content streams. `/F1` is Helvetica, `/F2` bold, `/I1` a picture of one pixel.

    The `bookmark` leads to the last page.
    """
    identity = b"0123456789abcdef"
    owner = b"o" * 32
    key = _pdf_key(password, owner, identity) if password is not None else b""
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: _stream(
            b"\xff", b"/Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8"
        ),
        9: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >>",
        5: b"<< /Title <" + _rc4(_object_key(key, 5), title.encode("latin-1")).hex().encode() + b"> >>",
    }
    kids = []
    for number, content in enumerate(pages):
        page, stream = 10 + 2 * number, 11 + 2 * number
        objects[page] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {stream} 0 R "
            "/Resources << /Font << /F1 3 0 R /F2 9 0 R >> /XObject << /I1 4 0 R >> >> >>"
        ).encode()
        objects[stream] = _stream(_rc4(_object_key(key, stream), content.encode("cp1252")))
        kids.append(f"{page} 0 R")
    objects[2] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    if bookmark:
        objects[1] = b"<< /Type /Catalog /Pages 2 0 R /Outlines 7 0 R >>"
        objects[7] = b"<< /Type /Outlines /First 8 0 R /Last 8 0 R /Count 1 >>"
        objects[8] = f"<< /Title ({bookmark}) /Parent 7 0 R /Dest [{kids[-1]} /Fit] >>".encode()
    trailer = b"<< /Size 1000 /Root 1 0 R /Info 5 0 R"
    if password is not None:
        user = _rc4(key, _PADDING)
        objects[6] = (
            b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <"
            + owner.hex().encode()
            + b"> /U <"
            + user.hex().encode()
            + b"> >>"
        )
        trailer += b" /Encrypt 6 0 R /ID [<" + identity.hex().encode() + b"> <" + identity.hex().encode() + b">]"
    out, offsets = b"%PDF-1.4\n", {}
    for number, body in sorted(objects.items()):
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 1\n0000000000 65535 f \n"
    for number, offset in offsets.items():
        out += b"%d 1\n%010d 00000 n \n" % (number, offset)
    return out + b"trailer\n" + trailer + b" >>\nstartxref\n%d\n%%%%EOF\n" % start


def _stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries, data)


# The standard security handler, revision 2: PDF 1.7, section 7.6.3.
_PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


def _pdf_key(password: str, owner: bytes, identity: bytes) -> bytes:
    padded = (password.encode() + _PADDING)[:32]
    return hashlib.md5(padded + owner + struct.pack("<i", -4) + identity).digest()[:5]


def _object_key(key: bytes, number: int) -> bytes:
    return hashlib.md5(key + struct.pack("<I", number)[:3] + b"\0\0").digest()[:10] if key else b""


def _rc4(key: bytes, data: bytes) -> bytes:
    if not key:
        return data
    state, j = list(range(256)), 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def show(*lines: tuple[float, float, str], size: float = 10, font: str = "F1") -> str:
    """A content stream that shows each text at x, y."""
    return "\n".join(f"BT /{font} {size} Tf {x} {y} Td ({text}) Tj ET" for x, y, text in lines)


PICTURE = "q 100 0 0 100 50 50 cm /I1 Do Q"
FULL = "The line of words that fills its column to the edge"  # Helvetica 10: about 226 points


def test_pdf_pages_are_joined_and_found_again() -> None:
    parsed = parse_pdf(pdf(show((50, 700, "First page.")), "", show((50, 700, "Third page."))), "a_file.pdf")
    assert parsed.text == "First page.\n\nThird page."
    assert parsed.metadata == {"format": "pdf", "pages": "0,11,13"}
    assert parsed.title == "a file"


def test_pdf_lines_become_paragraphs() -> None:
    page = show(
        (50, 700, FULL + "s and"),
        (50, 688, "goes on in the next one, which is short."),
        (50, 676, "A new paragraph begins below it since there was"),
        (50, 664, "space, and ends."),
        (50, 630, "After a gap another."),
        (50, 618, "- item"),
        (50, 606, "- item"),
    )
    assert parse_pdf(pdf(page), "a.pdf").text == (
        f"{FULL}s and goes on in the next one, which is short.\n\n"
        "A new paragraph begins below it since there was space, and ends.\n\nAfter a gap another.\n- item\n- item"
    )


def test_pdf_exponents_are_told_from_digits() -> None:
    power = "BT /F1 10 Tf 50 700 Td (10) Tj /F1 7 Tf 4 Ts (-3) Tj 0 Ts /F1 10 Tf ( to 10) Tj /F1 7 Tf 4 Ts (12) Tj ET"
    assert parse_pdf(pdf(power), "a.pdf").text == "10^-3 to 10^12"
    plain = "BT /F1 10 Tf 50 700 Td (10) Tj /F1 7 Tf (6) Tj /F1 10 Tf ( 2) Tj -3 Ts /F1 7 Tf (1) Tj ET"  # not raised
    assert parse_pdf(pdf(plain), "a.pdf").text == "106 21"


def test_pdf_accents_stand_on_their_letters() -> None:
    """As TeX sets them: before the letter and above it, or wherever; what only looks like one stays."""
    tex = "BT /F1 10 Tf 50 700 Td [(Schr) -111 (¨) 444 (odinger, l´art)] TJ ET"
    assert parse_pdf(pdf(tex), "a.pdf").text == "Schrödinger, l´art"
    apart = show((50, 700, "Schr"), (71.7, 700, "¨"), (70.6, 700, "odinger and"), (140, 700, "his cat"))
    assert parse_pdf(pdf(apart), "a.pdf").text.startswith("Schrödinger and")


def test_pdf_cells_of_a_row_are_kept_apart() -> None:
    rows = [("Item", "Hours", "Cost"), ("Paint", "1.5", "225"), ("Parts", "", "2,100")]
    cells = [(x, 700 - 12 * y, text) for y, row in enumerate(rows) for x, text in zip((50, 200, 300), row, strict=True)]
    assert parse_pdf(pdf(show(*cells)), "a.pdf").text == "Item | Hours | Cost\nPaint | 1.5 | 225\nParts | 2,100"


def test_pdf_running_headers_appear_once() -> None:
    def page(number: int) -> str:
        lines = [(50.0, 600.0 - 12 * n, f"Line {n} of chapter {chr(64 + number)}.") for n in range(8)]
        return show((50, 780, "The Report"), *lines, (50, 20, f"Page {number} of 4"))

    text = parse_pdf(pdf(*(page(number) for number in range(1, 5))), "a.pdf").text
    assert text.count("The Report") == 1
    assert text.count("Page 1 of 4") == 1
    assert "Page 2" not in text
    assert all(f"Line {n} of chapter {chapter}." in text for n in range(8) for chapter in "ABCD")


def test_pdf_titles() -> None:
    plain = show((50, 700, "Some words of text that are not large."), (50, 650, "More of them."))
    assert parse_pdf(pdf(plain, title="The Annual Report"), "a.pdf").title == "The Annual Report"
    large = show((50, 760, "Great"), (50, 730, "Expectations"), size=24) + "\n" + plain
    assert parse_pdf(pdf(large, title="untitled"), "a.pdf").title == "Great Expectations"
    assert parse_pdf(pdf(plain), "the_file.pdf").title == "the file"


def test_a_pdf_is_of_the_day_of_its_last_change() -> None:
    content = pdf(show((50, 700, "text")))
    assert "date" not in parse_pdf(content, "a.pdf").metadata
    for entry, date in (
        (b"/CreationDate (D:20200101120000Z) /ModDate (D:20240301120000+01'00')", "2024-03-01"),
        (b"/CreationDate (20200101)", "2020-01-01"),
        (b"/ModDate (yesterday)", None),
    ):
        known = parse_pdf(content.replace(b"<< /Title <", b"<< " + entry + b" /Title <"), "a.pdf").metadata
        assert known.get("date") == date


def test_pdf_bookmarks_name_its_headings() -> None:
    pages = ["1 Tides | 1", "2 Tides\n\nOf the slip.\nHIGH WATER\nNine.", "Tides\nSprings", "the end"]
    text, offsets = join_pages(pages)
    starts = [int(start) for start in offsets.split(",")]
    marks = [
        *(Bookmark(1, "2. Tides", 1), Bookmark(2, "2.1 High water", 1), Bookmark(1, "3 Tides", 2)),
        *(Bookmark(2, "Neaps", 2), Bookmark(1, "Nowhere", 9), Bookmark(1, "", 3), Bookmark(1, "Tides", 2)),
    ]
    outline = outline_of(text, starts, marks)
    assert outline == f"13:1,{text.index('HIGH')}:2,{starts[2]}:1"
    headings = told_headings(text, outline)
    assert [(h.level, h.title, text[h.start : h.end]) for h in headings] == [
        *((1, "2 Tides", "2 Tides"), (2, "HIGH WATER", "HIGH WATER"), (1, "Tides", "Tides"))
    ]
    for odd in ("", "x", "9:1,3:1", "3:1,3:2", "999999999:1", "3:1;", "-3:1"):
        assert told_headings(text, odd) == []


def test_pdf_headings_without_bookmarks_are_told_by_their_print() -> None:
    """Passages of a PDF without bookmarks had no headings above them, however large these were."""
    text = ((50, 600 - 12 * n, FULL) for n in range(20))
    first = [
        show((50, 750, "The harbour of Selk"), size=20),
        show((50, 700, "Tides"), size=14),
        show((50, 650, "1.1 High water"), size=10, font="F2"),
        show((50, 640, "High water"), size=10, font="F2"),  # bold alone is no heading
        show((50, 625, "Of the slip"), size=10.8, font="F2"),
        show(*text),
        show((50, 300, "38%"), size=30),  # no words
        show((50, 200, "1.1 It is full of sand"), size=10),
    ]
    parsed = parse_pdf(pdf("\n".join(first), show((50, 700, "Boats"), size=14)), "a.pdf")
    headings = told_headings(parsed.text, parsed.metadata["outline"])
    assert [(heading.level, heading.title) for heading in headings] == [
        *((1, "The harbour of Selk"), (2, "Tides"), (4, "1.1 High water"), (3, "Of the slip"), (2, "Boats"))
    ]
    marked = parse_pdf(pdf("\n".join(first), show((50, 700, "Boats"), size=14), bookmark="Boats"), "a.pdf")
    assert marked.metadata["outline"] == parsed.metadata["outline"]


def test_pdf_pages_in_large_print_alone_have_no_headings() -> None:
    large = show(*((50, 700 - 30 * n, "A poster says it all") for n in range(9)), size=20)
    assert "outline" not in parse_pdf(pdf(large + show((50, 300, FULL), (50, 280, FULL))), "a.pdf").metadata
    assert "outline" not in parse_pdf(pdf(show((50, 700, "Text")) + PICTURE), "a.pdf").metadata


def test_pdf_properties_that_are_no_text_cost_no_page() -> None:
    """UTF-16 with half of a surrogate pair, which made a parser fail that nobody needs for the pages."""
    content = pdf(show((50, 700, "Tides")), bookmark="x").replace(b"/Title (x)", b"/Title <FEFFD800>")
    content = content.replace(b"/Title <>", b"/Title <FEFFD800> /ModDate <FEFFD800>")
    parsed = parse_pdf(content, "a_file.pdf")
    assert (parsed.text, parsed.title, dict(parsed.metadata)) == ("Tides", "a file", {"format": "pdf", "pages": "0"})


def test_pdf_chunks_stand_under_their_headings(tmp_path: Path) -> None:
    first = show((50, 700, "Of the slip."), (50, 680, "It is full of sand."))
    last = show((50, 700, "Tides"), (50, 680, "High water is at nine."))
    parsed = parse_pdf(pdf(first, last, bookmark="1. Tides"), "a.pdf")
    assert parsed.metadata["outline"] == f"{parsed.text.index('Tides')}:1"
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))  # a token for each word and mark
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "words.json"))
    document = Document("a.pdf", "", parsed.title, parsed.text, dict(parsed.metadata))
    chunks = Chunker(tmp_path / "words.json", 10, 0).chunk(document)
    found = [(chunk.metadata.get("headings"), chunk.metadata["page"]) for chunk in chunks]
    assert (found[0], found[-1]) == ((None, 1), ("Tides", 2))


def test_pdf_encryption(loader: Loader, tmp_path: Path) -> None:
    page = show((50, 700, "Secret words"))
    opened = load(loader, tmp_path, "open.pdf", pdf(page, title="Known title", password=""))
    assert (opened.text, opened.title) == ("Secret words", "Known title")
    assert reason(loader, tmp_path, "shut.pdf", pdf(page, password="x")) == "encrypted PDF: a password is needed"


def test_pdf_scans_are_named(loader: Loader, tmp_path: Path) -> None:
    text, advice = show((50, 700, "Words")), "none with a text layer; try --ocr eng"
    assert reason(loader, tmp_path, "a.pdf", pdf(PICTURE)) == f"scanned PDF: 1 page, {advice}"
    assert reason(loader, tmp_path, "b.pdf", pdf(PICTURE, PICTURE)) == f"scanned PDF: 2 pages, {advice}"
    assert reason(loader, tmp_path, "c.pdf", pdf("")) == "empty: no text in it (1 page)"
    partly = load(loader, tmp_path, "d.pdf", pdf(text, PICTURE, PICTURE + "\n" + text))
    assert partly.text == "Words\n\nWords"
    assert partly.metadata["warning"] == "1 of 3 pages scanned, without a text layer"


def test_pdf_damage_is_told(loader: Loader, tmp_path: Path) -> None:
    whole = pdf(show((50, 700, "Words")))
    assert reason(loader, tmp_path, "a.pdf", b"no PDF at all") == "not a PDF file, or damaged beyond reading"
    assert reason(loader, tmp_path, "b.pdf", whole[:40]) == "not a PDF file, or damaged beyond reading"
    assert reason(loader, tmp_path, "c.pdf", pdf()) == "not a PDF file, or damaged beyond reading"  # no page in it
    without_table = whole[: whole.index(b"xref")] + b"trailer << /Root 1 0 R >>"
    assert load(loader, tmp_path, "d.pdf", without_table).text == "Words"  # pdfium rebuilds the table


def lines_of(*texts: str, hyphen: bool = False) -> list[Line]:
    lines = [
        Line(text, 50, 50 + 5 * len(text), 700 - 12 * n, 710 - 12 * n, 10, hyphen and n < len(texts) - 1)
        for n, text in enumerate(texts)
    ]
    return with_edges(lines)


def test_words_divided_at_line_ends() -> None:
    def joined(before: str, after: str, elsewhere: str = "") -> str:
        lines = lines_of(before, after, hyphen=True)
        return page_text(page_rows(lines, vocabulary([lines, lines_of(elsewhere or "none")])))

    assert joined("an ef", "ficient way") == "an efficient way"
    assert joined("the Lucene", "BM25 system") == "the Lucene-BM25 system"
    assert joined("a dual", "encoder", "the dual-encoder model") == "a dual-encoder"
    assert joined("a dual", "encoder", "dual use of an encoder") == "a dual-encoder"
    assert joined("re", "form", "reform, form and re") == "reform"
    assert joined("a d", "dimensional space") == "a d-dimensional space"
    shown = lines_of("written out-", "side the box")
    assert page_text(page_rows(shown, vocabulary([shown]))) == "written outside the box"


# --- DOCX

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
M = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'


def docx(body: str, *, title: str = "", prolog: str = "", extra: dict[str, bytes] | None = None) -> bytes:
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    files = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        f'<Relationship Id="r1" Type="{relation}" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f"{prolog}<w:document {W} {M}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f"<w:styles {W}>"
        + "".join(
            f'<w:style w:type="paragraph" w:styleId="{key}"><w:name w:val="{name}"/></w:style>'
            for key, name in [("H1", "heading 1"), ("H2", "heading 2"), ("T", "Title")]
        )
        + "</w:styles>",
        "docProps/core.xml": '<c:coreProperties xmlns:c="http://schemas.openxmlformats.org/package/2006/metadata/'
        f'core-properties" xmlns:d="http://purl.org/dc/elements/1.1/"><d:title>{title}</d:title></c:coreProperties>',
    }
    return zipped({name: text.encode() for name, text in files.items()} | (extra or {}))


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def par(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:rPr><w:b/></w:rPr><w:t>{text}</w:t></w:r></w:p>"


def cell(text: str) -> str:
    return f"<w:tc>{par(text)}</w:tc>"


def test_docx_becomes_markdown(loader: Loader, tmp_path: Path) -> None:
    table = f"<w:tbl><w:tr>{cell('Year')}{cell('Sum')}</w:tr><w:tr>{cell('2025')}{cell('12')}</w:tr></w:tbl>"
    content = docx(
        par("Handbook", "T") + par("Part &amp; one", "H1") + par("Some text.") + table + par("Sub", "H2") + par("End")
    )
    document = load(loader, tmp_path, "a.docx", content)
    assert document.text == (
        "# Handbook\n\n# Part & one\n\nSome text.\n\n| Year | Sum |\n| --- | --- |\n| 2025 | 12 |\n\n## Sub\n\nEnd"
    )
    assert (document.title, document.metadata) == ("Handbook", {"format": "docx"})
    assert load(loader, tmp_path, "b.docx", docx(par("x"), title="Core title")).title == "Core title"
    assert load(loader, tmp_path, "my_file.docx", docx(par("x"))).title == "my file"


def run(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


def test_docx_equations_become_text() -> None:
    root = f"<m:rad><m:e><m:sSup><m:e>{run('b')}</m:e><m:sup>{run('2')}</m:sup></m:sSup>{run('-4ac')}</m:e></m:rad>"
    fraction = f"<m:f><m:num>{run('-b±')}{root}</m:num><m:den>{run('2a')}</m:den></m:f>"
    total = (
        '<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr>'
        f"<m:sub>{run('k=0')}</m:sub><m:sup>{run('n')}</m:sup><m:e>{run('k')}</m:e></m:nary>"
    )
    body = (
        f"<w:p><w:r><w:t>Roots</w:t></w:r><m:oMath>{run('x=')}{fraction}</m:oMath></w:p>"
        f"<w:p><m:oMathPara><m:oMath>{total}</m:oMath></m:oMathPara></w:p>"
    )
    assert parse_docx(docx(body), "a.docx").text == "Roots x=(-b±√(b^2-4ac))/2a\n\n∑_(k=0)^n k"


ENTITIES = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def test_docx_that_cannot_be_trusted_is_refused(loader: Loader, tmp_path: Path) -> None:
    good = docx(par("text"))
    cases = {
        "not a DOCX file: damaged zip archive": good[:-200],
        "not a DOCX file: a zip archive without a text document in it": zipped({"xl/workbook.xml": b"<x/>"}),
        "not a DOCX file: it is protected with a password, or in the older DOC format": bytes.fromhex(
            "D0CF11E0A1B11AE1"
        ),
        "refused: its XML declares a document type, which no DOCX needs and entity attacks do": docx(
            par("&a;"), prolog=ENTITIES
        ),
        "too large: it unpacks to more than 100 MB of text": docx("", extra={"word/bomb.xml": b" " * 100_000_001}),
        "empty: no text in it": docx(par("")),
    }
    for message, content in cases.items():
        assert reason(loader, tmp_path, "a.docx", content) == message
    assert reason(loader, tmp_path, "a.docx", docx("<w:p>")).startswith("damaged DOCX: its XML is not well formed")
    broken = bytearray(good)
    at = good.index(b"word/document.xml") + 20
    broken[at : at + 10] = b"\xff" * 10
    assert reason(loader, tmp_path, "a.docx", bytes(broken)) == "not a DOCX file: damaged zip archive"


# --- the worker process

PROLOGUE = "import os, signal, sys, time, json\nprint('{}', flush=True)\nfor line in sys.stdin:\n"
ANSWER = " print(json.dumps({'text': str(os.getpid()), 'title': 't', 'metadata': {}}), flush=True)\n"


def fake(*lines: str) -> list[str]:
    return [sys.executable, "-c", PROLOGUE + "".join(f" {line}\n" for line in lines) + ANSWER]


def test_a_parser_that_crashes_costs_one_file(tmp_path: Path) -> None:
    crash = fake("if 'bad' in line: os.kill(os.getpid(), signal.SIGSEGV)")
    with Loader(command=crash) as loader:
        first = load(loader, tmp_path, "a.html", "x").text
        assert load(loader, tmp_path, "b.html", "x").text == first  # one process for both
        assert reason(loader, tmp_path, "bad.html", "x") == "the parser crashed"
        assert load(loader, tmp_path, "c.html", "x").text != first


def test_a_parser_that_hangs_is_killed(tmp_path: Path) -> None:
    with Loader(seconds=0.3, command=fake("if 'bad' in line: time.sleep(60)")) as loader:
        pid = int(load(loader, tmp_path, "a.html", "x").text)
        start = time.perf_counter()
        assert reason(loader, tmp_path, "bad.html", "x") == "took longer than 0.3 s"
        assert time.perf_counter() - start < 10
        assert not alive(pid)


def test_a_parser_that_works_too_long_is_killed(tmp_path: Path) -> None:
    rows = "".join(f"<tr><td rowspan=2>{n}</td><td>x</td></tr>" for n in range(20_000))
    with Loader(seconds=0.5) as loader:
        assert reason(loader, tmp_path, "a.html", f"<table>{rows}</table>") == "took longer than 0.5 s"
        assert load(loader, tmp_path, "b.csv", "a,b\n1,2").title == "b"


def test_a_worker_that_dies_between_files_is_replaced(tmp_path: Path) -> None:
    with Loader(command=fake()) as loader:
        pid = int(load(loader, tmp_path, "a.html", "x").text)
        os.kill(pid, signal.SIGKILL)
        while alive(pid) and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        second = int(load(loader, tmp_path, "b.html", "x").text)
    assert second != pid
    assert not alive(second)


def test_a_worker_that_does_not_start_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with Loader(command=[sys.executable, "-c", ""]) as loader, pytest.raises(Unavailable, match="does not start"):
        load(loader, tmp_path, "a.html", "x")


def test_the_working_directory_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ["bs4", "json", "indexer"]:
        (tmp_path / f"{module}.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with Loader() as loader:
        assert load(loader, tmp_path, "a.html", "<p>safe</p>").text == "safe"


def test_ctrl_c_ends_the_worker_quietly(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("x")
    command = fake(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    script = (
        "import sys; from pathlib import Path; from indexer.load import Loader\n"
        f"with Loader(command={command!r}) as loader:\n loader.load_file(Path('a.html'), 'a', '')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # what the terminal does
    _, errors = process.communicate(timeout=30)
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not alive(int((tmp_path / "pid").read_text()))


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_the_version_names_the_parsers(loader: Loader) -> None:
    assert loader.version.split()[0].isdigit()
    assert "pypdfium2 " in loader.version
    assert "mammoth " in loader.version


# --- real files


@pytest.mark.shared
@pytest.mark.slow
def test_real_files_are_loaded_or_refused_with_a_reason(loader: Loader) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    refused: dict[str, str] = {}
    loaded = 0
    for file in sorted(SHARED.rglob("*")):
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        try:
            document = loader.load_file(file, file.name, file.as_uri())
        except UnreadableDocument as error:
            refused[file.name] = error.message
        else:
            loaded += 1
            assert document.text.strip()
            assert document.title
            assert document.text == document.text.encode().decode()
    scans = {name for name, message in refused.items() if message.startswith("scanned PDF")}
    assert loaded == 355
    assert len(scans) == 7
    assert {name: message for name, message in refused.items() if name not in scans} == {
        "libreoffice-writer-password.pdf": "encrypted PDF: a password is needed",
        "password.pdf": "encrypted PDF: a password is needed",
        "test_mskanji.csv": NOT_TEXT,
        "empty.xlsx": "empty: no text in it",
        "password_protected.xlsx": ("not an XLSX file: it is protected with a password, or in the older XLS format"),
        "fake-encrypted.msg": "an Outlook mail whose text is only in RTF; save it as EML or TXT",
    }
