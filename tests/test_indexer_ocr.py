"""OCR: answers of Tesseract made here, a stand-in for the program, and the program itself where it is installed."""

import io
import json
import os
import signal
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pypdfium2
import pytest

from indexer import ocr, worker
from indexer.fetch import Validators
from indexer.hocr import read_hocr, read_picture
from indexer.load import Loader
from indexer.load_image import NEEDS_OCR, parse_image
from indexer.load_pdf import parse_pdf
from indexer.ocr import Recogniser
from indexer.reflow import Line, largest_print, page_rows, page_text, with_edges
from indexer.sync import sync
from indexer.update import Source, SyncReport
from indexer.urls import Pages
from rag.catalog import Original, with_recogniser
from rag.config import IndexSettings
from rag.datatypes import Document
from rag.doctor import examine_ocr
from rag.errors import Unavailable, UnreadableDocument
from rag.tesseract import OUTPUT_BYTES, Tesseract
from tests.conftest import smallhold
from tests.test_indexer_load import PICTURE, alive, fake, load, pdf, reason, show
from tests.test_indexer_sync import CountingEmbedder, LineChunker, Run, Write, contents, letters, write

__all__ = ["write"]  # a fixture

LANGUAGES = "eng"


# --- what Tesseract answers

Placed = tuple[str, int, int, int]
"""A word, where it begins and ends in pixels, and how sure Tesseract is of it."""


def hocr(*lines: tuple[int, float, Sequence[Placed]], slope: float = 0.0, height: int = 1000) -> bytes:
    """An answer of lines: where the baseline meets the left edge of the line, the size of print, the words."""
    rows = []
    for y, size, words in lines:
        left, right = words[0][1], words[-1][2]
        spans = [
            f"<span class='ocrx_word' title='bbox {a} {y - 20} {b} {y}; x_wconf {sure}'><strong>{text}</strong></span>"
            for text, a, b, sure in words
        ]
        title = f"bbox {left} {y - 20} {right} {y + 8}; baseline {slope} -8; x_size {size}; x_descenders 5"
        rows.append(f'<p class="ocr_par"><span class="ocr_line" title="{title}">{" ".join(spans)}</span></p>')
    page = f"<div class='ocr_page' title='image \"x y\"; bbox 0 0 800 {height}; ppageno 0'>{''.join(rows)}</div>"
    return f'<html xmlns="http://www.w3.org/1999/xhtml"><body>{page}</body></html>'.encode()


def words(text: str, left: int = 100, sure: int = 95) -> list[Placed]:
    """Words of 10 pixels a letter, with 10 between them."""
    placed = []
    for word in text.split():
        placed.append((word, left, left + 10 * len(word), sure))
        left += 10 * len(word) + 10
    return placed


def test_lines_are_in_points_from_the_lower_left_corner() -> None:
    found = read_hocr(hocr((200, 20, words("Two words"))), scale=2)
    # On 500 points of height the baseline is 400 from below, and a line of 10 points reaches 2 below it.
    assert found.lines == [Line("Two words", 50, 95, 398, 408, 10)]
    assert (found.confidence, found.upright, found.is_text) == (95, True, True)


def test_words_that_are_unsure_are_left_out_and_leave_no_cell_behind() -> None:
    one, two, three = words("alpha beeeeeeeta gamma")
    found = read_hocr(hocr((200, 20, [one, (*two[:3], 29), three]), (240, 20, words("x.", sure=12))), scale=1)
    assert [line.text for line in found.lines] == ["alpha gamma"]
    assert found.confidence == pytest.approx((10 * 95 + 10 * 29 + 2 * 12) / 22)
    assert not read_hocr(hocr((200, 20, words("all of this is fog", sure=49))), scale=1).is_text
    assert not read_hocr(hocr((200, 20, words("| _"))), scale=1).is_text


def test_words_far_apart_are_cells() -> None:
    row = [*words("Item"), *words("1.5 h", 240), *words("225", 330)]
    assert [line.text for line in read_hocr(hocr((200, 20, row)), scale=3).lines] == ["Item | 1.5 h | 225"]


def test_characters_of_chinese_stand_without_spaces() -> None:
    line = [("漢", 100, 120, 90), ("字", 124, 144, 90), ("and", 150, 180, 90), ("more", 190, 230, 90)]
    assert read_hocr(hocr((200, 20, line)), scale=1).lines[0].text == "漢字 and more"


def test_paper_put_in_at_a_slant_is_straightened() -> None:
    # 0.02 downwards: the middle of a line from 100 to 340 is 4.4 pixels lower than the page's left edge, of a word at
    # 100 to 150 it is 2.5.
    lines = read_hocr(hocr((200, 20, words("a line of several words")), (230, 20, words("short")), slope=0.02), 1).lines
    assert [line.bottom for line in lines] == pytest.approx([798, 768])


def test_sizes_that_differ_by_their_letters_alone_are_one_and_titles_stand_out() -> None:
    sizes = [52, 21, 28, 20, 20, 16]
    lines = [(100 + 40 * n, size, words(f"Some line of number {n}")) for n, size in enumerate(sizes)]
    found = read_hocr(hocr(*lines), scale=1).lines
    assert [line.size for line in found] == pytest.approx([20.5 * 1.25**4, *[20.5] * 5])
    assert largest_print([found]) == "Some line of number 0"


def test_recognised_lines_become_paragraphs() -> None:
    text = [
        "This is the first line of a para-",
        "graph, which goes on up to here:",
        "it ends soon.",
        "Another one begins after a gap.",
    ]
    lines = [(100 + 30 * n + 40 * (n > 2), 20 + n % 2, words(line)) for n, line in enumerate(text)]
    found = read_hocr(hocr(*lines), scale=2).lines
    assert page_text(page_rows(with_edges(found), set())) == (
        "This is the first line of a paragraph, which goes on up to here: it ends soon.\n\n"
        "Another one begins after a gap."
    )


def test_a_page_on_its_side_is_noticed() -> None:
    upwards = hocr((500, 20, words("a line"))).replace(b"baseline 0.0 -8", b"baseline 1942 -23304")
    found = read_hocr(upwards, scale=1)
    assert not found.upright
    assert [line.upright for line in found.lines] == [False]
    none = hocr((500, 20, words("a line"))).replace(b"baseline 0.0 -8; ", b"").replace(b"bbox 100 480", b"bbox 100 80")
    assert not read_hocr(none, scale=1).upright


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff\xfe rubbish",
        b"<html><body>no page</body></html>",
        hocr((200, 20, words("cut"))) + b"<",
        hocr((200, 20, words("cut")))[:-30],
        hocr((200, 20, words("no box"))).replace(b"bbox 100", b"bbox"),
        hocr((200, 20, words("no figure"))).replace(b"x_wconf 95", b"x_wconf -"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer: bytes) -> None:
    with pytest.raises(UnreadableDocument, match="Tesseract's answer cannot be read"):
        read_hocr(answer, scale=1)


def test_a_page_without_words_is_no_text() -> None:
    found = read_hocr(hocr(), scale=1)
    assert (found.lines, found.is_text) == ([], False)


# --- pages of a PDF


class Reader:
    """Reads what it is given, page by page."""

    def __init__(self, *pages: str, trouble: str = "") -> None:
        self.trouble = trouble
        self._pages = iter(pages)

    def lines(self, page: Any) -> list[Line]:
        del page
        return [Line(text, 50, 100, 700, 710, 10) for text in [next(self._pages)] if text]


def test_pages_that_are_pictures_are_read_and_named() -> None:
    text = show((50, 700, "Words"))
    parsed = parse_pdf(pdf(text, PICTURE, PICTURE, PICTURE + "\n" + text), "a.pdf", Reader("Seen, ﬁrst", ""))
    assert parsed.text == "Words\n\nSeen, first\n\nWords"
    assert parsed.metadata == {
        "format": "pdf",
        "pages": "0,7,18,20",
        "ocr": "2",
        "warning": "1 of 4 pages recognised by OCR; 1 of 4 pages scanned, without a text layer",
    }
    content = pdf(PICTURE, PICTURE)
    troubled = parse_pdf(content, "a.pdf", Reader("Seen", "", trouble="Tesseract failed"))
    assert troubled.metadata["warning"].endswith("1 of 2 pages scanned, without a text layer (Tesseract failed)")
    with pytest.raises(UnreadableDocument, match="none with a text layer; OCR finds no text"):
        parse_pdf(content, "a.pdf", Reader("", ""))
    with pytest.raises(UnreadableDocument, match="none with a text layer; Tesseract took too long"):
        parse_pdf(content, "a.pdf", Reader("", "", trouble="Tesseract took too long"))
    with pytest.raises(UnreadableDocument, match="none with a text layer; try --ocr eng"):
        parse_pdf(content, "a.pdf")


def test_pages_are_drawn_large_enough_and_not_too_large() -> None:
    class Page:
        def __init__(self, width: float, height: float, pixels: tuple[int, int]) -> None:
            self.get_size = lambda: (width, height)
            image = type("Image", (), {"get_px_size": lambda self: pixels})()
            self.get_objects = lambda **options: [image]

    def drawn(width: float, height: float, pixels: tuple[int, int]) -> tuple[int, int]:
        scale = ocr._scale(Page(width, height, pixels))
        return round(width * scale), round(height * scale)

    assert drawn(595, 842, (1240, 1754)) == (2479, 3508)  # A4 at 300 dpi
    assert drawn(100, 141, (1700, 2397)) == (1684, 2375)  # a page that says it is tiny, with a picture that is not
    assert drawn(14_400, 14_400, (10, 10)) == (5000, 5000)
    assert drawn(1, 14_400, (10, 10)) == (2, 30_000)
    assert drawn(0, 0, (10, 10)) == (0, 0)


# --- a stand-in for the program


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Puts a script in the place of Tesseract; it may change while a worker runs."""
    folder = tmp_path_factory.mktemp("bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

        def put(script: str) -> Path:
            file = folder / "new"
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)
            return file.replace(folder / "tesseract")

        yield put


@pytest.fixture(scope="module")
def worked(stand_in: Callable[[str], Path]) -> Iterator[Loader]:
    with Loader(ocr=Tesseract("stand-in 1", LANGUAGES)) as loader:
        yield loader


@pytest.fixture(scope="module")
def hasty(stand_in: Callable[[str], Path]) -> Iterator[Loader]:
    """The same with little patience."""
    with Loader(seconds=1, ocr=Tesseract("stand-in 1", LANGUAGES)) as loader:
        yield loader


Put = Callable[[str], Path]


def says(answer: bytes, folder: Path) -> str:
    """A script that gives this answer, once it has read the picture."""
    (folder / "answer").write_bytes(answer)
    return f"cat > {folder}/picture; echo $@ $OMP_THREAD_LIMIT > {folder}/arguments; cat {folder}/answer"


def test_the_program_is_given_a_picture_and_languages(stand_in: Put, worked: Loader, tmp_path: Path) -> None:
    stand_in(says(hocr((200, 20, words("Seen by the program"))), tmp_path))
    document = load(worked, tmp_path, "a.pdf", pdf(PICTURE))
    assert (document.text, document.metadata["ocr"]) == ("Seen by the program", "1")
    assert (tmp_path / "arguments").read_text() == "stdin stdout -l eng -c tessedit_create_hocr=1 1\n"
    picture = (tmp_path / "picture").read_bytes()
    assert picture.startswith(b"P5 2500 3334 255\n")
    assert len(picture) == 17 + 2500 * 3334


def test_what_has_a_text_layer_is_never_shown_to_it(stand_in: Put, worked: Loader, tmp_path: Path) -> None:
    stand_in("exit 1")
    text = show((50, 700, "Words"))
    assert load(worked, tmp_path, "a.pdf", pdf(text, PICTURE + "\n" + text)).metadata["pages"] == "0,7"
    assert load(worked, tmp_path, "a.html", "<p>x</p>").text == "x"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sleep 60", "Tesseract took too long"),
        ("while :; do :; done", "Tesseract took too long"),
        ("kill -SEGV $$", "Tesseract failed"),
        ("echo oh no >&2; exit 1", "Tesseract failed"),
        ("echo no such thing", "Tesseract's answer cannot be read"),
        ("true", "Tesseract's answer cannot be read"),
        (f"head -c {OUTPUT_BYTES + 1} /dev/zero", "Tesseract failed"),
    ],
)
def test_a_program_that_fails_costs_the_page(
    stand_in: Put, hasty: Loader, worked: Loader, tmp_path: Path, script: str, message: str
) -> None:
    stand_in(script)
    start = time.monotonic()
    document = load(hasty if "long" in message else worked, tmp_path, "a.pdf", pdf(PICTURE, show((50, 700, "Words"))))
    assert document.metadata["warning"] == f"1 of 2 pages scanned, without a text layer ({message})"
    assert time.monotonic() - start < 30


def test_a_program_that_is_gone_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf(PICTURE))
    request = {"path": str(path), "name": "a.pdf", "format": "pdf", "ocr": LANGUAGES, "seconds": 1, "patience": 1}
    told = {"error": "Tesseract does not run: No such file or directory", "passing": True}
    assert worker.answer(request, lambda: None) == told


def test_a_page_on_its_head_is_turned(stand_in: Put, worked: Loader, tmp_path: Path) -> None:
    upside, right = tmp_path / "upside", tmp_path / "right"
    upside.write_bytes(hocr((200, 20, words("umop apisdn", sure=55))))
    right.write_bytes(hocr((200, 20, words("upside down"))))
    stand_in(
        f"echo $@ >> {tmp_path}/runs; case $4 in osd) echo 'Rotate: 270';; *) "
        f'case $(head -c 7) in "P5 2500") cat {upside};; *) cat {right};; esac;; esac'
    )
    assert load(worked, tmp_path, "a.pdf", pdf(PICTURE)).text == "upside down"
    assert [run.split()[3] for run in (tmp_path / "runs").read_text().splitlines()] == ["eng", "osd", "eng"]
    stand_in(f"case $4 in osd) exit 1;; *) cat {upside};; esac")
    assert load(worked, tmp_path, "b.pdf", pdf(PICTURE)).text == "umop apisdn"


def test_each_page_has_the_time_of_a_file(tmp_path: Path) -> None:
    pages = f"for _ in range(6): time.sleep(0.5); print({json.dumps(worker.ALIVE)!r}, flush=True)"
    with Loader(seconds=0.4, command=fake(pages)) as loader:  # 2 s by the clock
        assert load(loader, tmp_path, "a.pdf", "x").text.isdigit()


def test_a_page_that_was_recognised_starts_the_clocks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks: list[tuple[float, int]] = []
    output = io.BytesIO()

    def answer(request: dict[str, Any], alive: Callable[[], None]) -> dict[str, Any]:
        for _ in range(request["pages"]):
            alive()
        return {"text": "x"}

    monkeypatch.setattr(worker, "_set_clocks", lambda *given: clocks.append(given))
    monkeypatch.setattr(worker, "_set_limits", lambda: None)
    monkeypatch.setattr(worker, "_own_output", lambda: output)
    monkeypatch.setattr(worker, "answer", answer)
    requests = [b'{"seconds": 60, "patience": 300, "pages": 2}', b'{"seconds": 1, "patience": 5, "pages": 0}']
    monkeypatch.setattr(worker.sys, "stdin", SimpleNamespace(buffer=requests))
    worker.main()
    assert clocks == [(60, 310)] * 3 + [(0, 0), (1, 15), (0, 0)]
    alive, done = json.dumps(worker.ALIVE), '{"text": "x"}'
    assert output.getvalue().decode().splitlines() == ["{}", alive, alive, done, done]


def test_the_program_ends_with_the_worker(stand_in: Put, tmp_path: Path) -> None:
    stand_in(f"echo $$ $PPID > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pids; exec sleep 60")
    told: list[str] = []
    with Loader(ocr=Tesseract("stand-in 1", LANGUAGES)) as loader:
        thread = threading.Thread(target=lambda: told.append(reason(loader, tmp_path, "a.pdf", pdf(PICTURE))))
        thread.start()
        deadline = time.monotonic() + 30
        while not (tmp_path / "pids").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        program, parent = map(int, (tmp_path / "pids").read_text().split())
        os.kill(parent, signal.SIGKILL)
        thread.join()
    assert told == ["the parser crashed"]
    while alive(program):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_file_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "PAGES", 2)
    monkeypatch.setattr(ocr, "run", lambda *_, **__: hocr((200, 20, words("Seen"))))
    beats: list[int] = []
    reader = Recogniser(LANGUAGES, seconds=1, patience=1, alive=lambda: beats.append(1))
    parsed = parse_pdf(pdf(PICTURE, PICTURE, PICTURE), "a.pdf", reader)
    assert parsed.metadata["ocr"] == "1,2"
    assert parsed.metadata["warning"].endswith("(OCR ends after 2 pages or 2 hours)")
    assert len(beats) == 4
    late = Recogniser(LANGUAGES, seconds=1, patience=1, alive=lambda: None)
    monkeypatch.setattr(ocr.time, "monotonic", lambda: late._end + 1)
    with pytest.raises(UnreadableDocument, match="OCR ends after"):
        parse_pdf(pdf(PICTURE), "a.pdf", late)


# --- whether it is there


LISTS = 'case $1 in --version) echo "tesseract 9.9"; echo more;; *) echo "List of"; echo deu; echo eng; echo osd;; esac'


def test_the_program_and_its_languages_are_looked_for(stand_in: Put, tmp_path: Path) -> None:
    stand_in(LISTS)
    assert str(Tesseract.find("eng+deu")) == "tesseract 9.9 (eng+deu)"
    assert examine_ocr("deu").detail == "tesseract 9.9 (deu)"
    assert examine_ocr("")[1:3] == ("ok", "off (index.ocr); tesseract 9.9 is installed")
    for languages, missing in {"eng+fra": "fra", "osd": "osd"}.items():
        with pytest.raises(Unavailable, match=f"no data for {missing}; it has deu, eng") as refused:
            Tesseract.find(languages)
        assert "tesseract --list-langs" in refused.value.hint
    for script in ("true", "exit 1"):
        stand_in(script)
        with pytest.raises(Unavailable, match="not here or does not run") as refused:
            Tesseract.find("eng")
        assert "apt-get install tesseract-ocr" in refused.value.hint


def test_without_the_program_nothing_begins(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    done = smallhold("index", "a.txt", "--ocr", "eng", cwd=tmp_path, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert "OCR needs the program Tesseract" in done.stderr
    assert not (tmp_path / ".smallhold").exists()
    assert examine_ocr("").state == "ok"


def test_without_the_program_the_doctor_complains_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert examine_ocr("")[1:3] == ("ok", "off (index.ocr), and Tesseract is not installed")
    assert examine_ocr("eng").state == "failed"
    assert "apt-get" in examine_ocr("eng").fix


@pytest.mark.parametrize("languages", ["", "eng", "eng+deu", "chi_sim", "script/Latin+eng"])
def test_languages(languages: str) -> None:
    assert IndexSettings(ocr=languages).ocr == languages


@pytest.mark.parametrize(
    "languages", ["-l", "eng --psm", "eng+", "+eng", "../eng", "eng/../../x", "eng\n", "eng;ls", "é", "/x", "e" * 201]
)
def test_what_is_no_language_is_no_argument(languages: str) -> None:
    with pytest.raises(ValueError, match="ocr"):
        IndexSettings(ocr=languages)


# --- files that are pictures


PNG = b"\x89PNG\r\n\x1a\n and what follows"
JPEG = b"\xff\xd8\xff and what follows"


def tiff(*pages: bytes, order: str = "<", widths: Sequence[int] = ()) -> bytes:
    """A TIFF of grey pictures, each one line of pixels unless their `widths` are given."""
    content = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    for number, pixels in enumerate(pages):
        width = widths[number] if widths else len(pixels)
        height = len(pixels) // width
        tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(pixels)}
        end = len(content) + 2 + 12 * len(tags) + 4
        tags[273] = end
        content += struct.pack(order + "H", len(tags))
        content += b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items())
        content += struct.pack(order + "I", end + len(pixels) if number + 1 < len(pages) else 0) + pixels
    return content


class Pictures:
    """Reads what it is given, page by page, and keeps which pages it was asked for."""

    def __init__(self, *pages: str, trouble: str = "") -> None:
        self.trouble = trouble
        self.asked: list[int] = []
        self._pages = pages

    def picture(self, content: bytes, page: int) -> list[Line]:
        del content
        self.asked.append(page)
        return [Line(text, 50, 100, 700, 710, 10) for text in [self._pages[page]] if text]


@pytest.mark.parametrize("content", [PNG, JPEG, tiff(b"x")])
def test_a_picture_is_read_and_named(content: bytes) -> None:
    parsed = parse_image(content, "old_letter.png", Pictures("Seen, ﬁrst"))
    assert (parsed.text, parsed.title) == ("Seen, first", "old letter")
    assert parsed.metadata == {"format": "image", "ocr": "1", "warning": "1 of 1 page recognised by OCR"}
    with pytest.raises(UnreadableDocument, match="a picture: OCR finds no text in it"):
        parse_image(content, "a.png", Pictures(""))
    with pytest.raises(UnreadableDocument, match="a picture that cannot be read: Tesseract failed"):
        parse_image(content, "a.png", Pictures("", trouble="Tesseract failed"))


@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_of_a_tiff_are_cited(order: str) -> None:
    reader = Pictures("One", "", "Three")
    parsed = parse_image(tiff(b"a", b"bb", b"c", order=order), "a.tiff", reader)
    assert (parsed.text, reader.asked) == ("One\n\nThree", [0, 1, 2])
    assert (parsed.metadata["pages"], parsed.metadata["ocr"]) == ("0,3,5", "1,3")
    assert str(parsed.metadata["warning"]).startswith("2 of 3 pages recognised by OCR; 1 of 3 pages scanned")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a.png\n/etc/hostname.png\n",
        b"http://localhost/a.png\n",
        b"GIF89a",
        b"P5 1 1 255\n\xff",
        b"II*\0",
        b"II*\0\0\0\0\0",
    ],
)
def test_what_is_no_picture_is_never_shown_to_the_program(content: bytes) -> None:
    """It reads what it does not know as a list of names of files, wherever they lie."""
    reader = Pictures("Somebody's secret")
    with pytest.raises(UnreadableDocument, match="no PNG, JPEG or TIFF picture"):
        parse_image(content, "a.png", reader)
    assert reader.asked == []


def test_a_damaged_tiff_has_the_pages_before_the_damage_and_ends() -> None:
    whole = tiff(b"a", b"b", b"c")
    reader = Pictures("x", "x", "x")
    parse_image(whole[:-50], "a.tif", reader)
    assert reader.asked == [0, 1]
    first = len(tiff(b"a")) - 5
    for after, pages in ((8, 1), (2**32 - 1, 1)):  # the first page once more; nowhere
        reader = Pictures("x", "x")
        parse_image(whole[:first] + struct.pack("<I", after) + whole[first + 4 :], "a.tif", reader)
        assert len(reader.asked) == pages


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_print_that_stands_on_its_side_is_turned(angle: int) -> None:
    """A line at the left edge of a picture of 800 by 1000 pixels, as Tesseract tells it when the picture is turned."""
    width, height = (800, 1000) if angle in (0, 180) else (1000, 800)

    def box(left: int, top: int, right: int, bottom: int) -> str:
        return "bbox {} {} {} {}".format(
            *{
                0: (left, top, right, bottom),
                90: (top, 800 - right, bottom, 800 - left),
                180: (800 - right, 1000 - bottom, 800 - left, 1000 - top),
                270: (1000 - bottom, left, 1000 - top, right),
            }[angle]
        )

    stands = f"textangle {angle}" if angle else "baseline 0 -4"
    answer = (
        f"<html><div class='ocr_page' title='image \"x\"; bbox 0 0 {width} {height}; ppageno 0; scan_res 144 144'>"
        f"<span class='ocr_line' title='{box(100, 180, 190, 204)}; {stands}; x_size 20'>"
        f"<span class='ocrx_word' title='{box(100, 180, 130, 200)}; x_wconf 95'>Two</span> "
        f"<span class='ocrx_word' title='{box(140, 180, 190, 200)}; x_wconf 95'>words</span></span></div></html>"
    )
    found = read_picture(answer.encode())
    assert found.lines == [Line("Two words", 50, 95, 398, 408, 10)]
    assert found.upright


def test_a_picture_is_given_to_the_program_as_it_is(stand_in: Put, worked: Loader, tmp_path: Path) -> None:
    answer = hocr((200, 20, words("Seen by the program")))
    stand_in(says(answer, tmp_path))
    document = load(worked, tmp_path, "a.JPG", JPEG)
    assert (document.text, document.metadata["format"]) == ("Seen by the program", "image")
    options = "stdin stdout -l eng --psm 1 -c tessedit_create_hocr=1 -c tessedit_page_number=0 1\n"
    assert (tmp_path / "arguments").read_text() == options
    assert (tmp_path / "picture").read_bytes() == JPEG
    stand_in("exit 1")
    assert reason(worked, tmp_path, "b.png", PNG) == "a picture that cannot be read: Tesseract failed"


def test_pictures_need_ocr_and_stay_without(stand_in: Put, tmp_path: Path) -> None:
    """Those in archives, too."""
    stand_in(says(hocr((200, 20, words("Seen by the program"))), tmp_path))
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.png").write_bytes(PNG)
    (docs / "notes.txt").write_text("alpha")
    with zipfile.ZipFile(docs / "all.zip", "w") as archive:
        archive.writestr("scan.tif", tiff(b"x"))

    def run(ocr: bool) -> SyncReport:
        with Loader(ocr=Tesseract("stand-in 1", LANGUAGES) if ocr else None) as loader:
            given: dict[str, Any] = {"embedder": CountingEmbedder(), "chunker": LineChunker(), "loader": loader}
            return sync(tmp_path / "index", [docs], **given)

    needs = [(str(docs / name), NEEDS_OCR) for name in ("a.png", "all.zip/scan.tif")]
    assert (run(ocr=False).skipped, run(ocr=False).failed) == (needs, [])
    assert run(ocr=True).added == ["a.png", "all.zip/scan.tif"]
    report = run(ocr=False)
    assert (report.published, report.failed, report.kept) == (False, [], 0)
    assert contents(tmp_path) == {
        "notes.txt": "alpha",
        **dict.fromkeys(("a.png", "all.zip/scan.tif"), "Seen by the program"),
    }
    (docs / "a.png").write_bytes(PNG + b", changed")
    report = run(ocr=False)
    assert (report.removed, (str(docs / "a.png"), NEEDS_OCR) in report.skipped) == (["a.png"], True)
    with zipfile.ZipFile(docs / "all.zip", "w") as archive:
        archive.writestr("new.png", PNG)
        archive.writestr("scan.tif", tiff(b"y"))
    report = run(ocr=False)
    assert (report.removed, report.skipped[1:]) == (
        ["all.zip/scan.tif"],
        [(str(docs / f"all.zip/{name}"), NEEDS_OCR) for name in ("new.png", "scan.tif")],
    )
    assert contents(tmp_path) == {"notes.txt": "alpha"}
    assert run(ocr=True).added == ["a.png", "all.zip/new.png", "all.zip/scan.tif"]


# --- turned on and off


def test_only_what_ocr_could_change_is_read_again(tmp_path: Path, write: Write) -> None:
    write("docs/plain.txt", "alpha")
    scan = write("docs/scan.md", "beta")
    Run(tmp_path, "docs")
    on = Run(tmp_path, "docs", ocr="x 1 (eng)")
    assert (on.loader.loaded, on.report.changed) == (["scan.md"], ["scan.md"])
    for recogniser in ("x 1 (eng)", ""):  # what was recognised stays where nothing is recognised any more
        run = Run(tmp_path, "docs", ocr=recogniser)
        assert (run.loader.loaded, len(run.report.unchanged), run.report.published) == ([], 2, False)
    assert Run(tmp_path, "docs", ocr="x 1 (deu)").loader.loaded == ["scan.md"]
    scan.write_text("gamma")
    assert Run(tmp_path, "docs").loader.loaded == ["scan.md"]
    assert Run(tmp_path, "docs", ocr="x 1 (deu)").loader.loaded == ["scan.md"]
    assert contents(tmp_path) == {"plain.txt": "alpha", "scan.md": "gamma"}


def test_another_version_without_ocr_does_not_lose_what_was_recognised(tmp_path: Path, write: Write) -> None:
    """A library that was brought up to date, and a run without --ocr: the scan would be refused, and removed."""
    write("docs/plain.txt", "alpha")
    write("docs/scan.md", "beta")
    Run(tmp_path, "docs", ocr="x 1 (eng)")
    run = Run(tmp_path, "docs", version="2")
    assert (run.loader.loaded, run.report.unchanged) == (["plain.txt"], ["scan.md"])
    assert Run(tmp_path, "docs", version="2", ocr="x 1 (eng)").loader.loaded == ["scan.md"]


def test_scans_that_were_refused_are_tried_again(tmp_path: Path, write: Write) -> None:
    write("docs/broken.txt", "broken")
    write("docs/scan.md", "broken")
    write("docs/fine.txt", "fine")
    Run(tmp_path, "docs")
    assert Run(tmp_path, "docs").loader.loaded == []
    run = Run(tmp_path, "docs", ocr="x 1 (eng)")
    assert (run.loader.loaded, run.report.untried) == (["scan.md"], 1)
    assert Run(tmp_path, "docs", ocr="x 1 (eng)").loader.loaded == []
    assert letters(tmp_path) == [("broken.txt", "it is broken"), ("scan.md", "it is broken")]


@pytest.mark.parametrize(
    ("read_by", "wanted", "asks_for_news_alone"),
    [("", "", True), ("", "x 1 (eng)", False), ("x 1 (eng)", "x 1 (eng)", True), ("x 1 (eng)", "", True)],
)
def test_a_page_that_ocr_could_change_is_fetched_anew(
    tmp_path: Path, read_by: str, wanted: str, asks_for_news_alone: bool
) -> None:
    url, validators = "https://example.org/a.pdf", Validators(etag='"1"')
    original = Original("urls:list", "ab", 1, with_recogniser("2", read_by))
    held = [Source(url, url, original, url, lambda: Document(url, url, "a", "x"))]
    pages = Pages(tmp_path)
    pages.remember(url, "urls:list", validators, held)
    pages.save(())
    asked = Pages.of(tmp_path).validators(url, held, lambda name: with_recogniser("2", wanted))
    assert asked == (validators if asks_for_news_alone else Validators())


def test_the_loader_says_what_ocr_could_change() -> None:
    with Loader(ocr=Tesseract("tesseract 5.3.0", "eng+deu")) as loader:
        assert loader.recogniser("folder/A.PDF") == "tesseract 5.3.0 (eng+deu)"
        assert loader.recogniser("a.docx") == loader.recogniser("pdf") == ""
        with Loader() as plain:
            assert plain.recogniser("a.pdf") == ""
            assert plain.version == loader.version


# --- the program itself


def scanned(content: bytes, *turns: int, scale: float = 200 / 72) -> bytes:
    """A PDF of pictures of another's pages, turned clockwise by degrees."""
    kids, objects = [], {1: b"<< /Type /Catalog /Pages 2 0 R >>"}
    with pypdfium2.PdfDocument(content) as source:
        for number in range(len(source)):
            turn = turns[number] if turns else 0
            bitmap = source[number].render(scale=scale, rotation=turn, grayscale=True)
            pixels = memoryview(bitmap.buffer)
            rows = b"".join(pixels[row * bitmap.stride :][: bitmap.width] for row in range(bitmap.height))
            page, stream, image = 10 + 3 * number, 11 + 3 * number, 12 + 3 * number
            width, height = bitmap.width / scale, bitmap.height / scale
            objects[page] = (
                f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Contents {stream} 0 R "
                f"/Resources << /XObject << /I1 {image} 0 R >> >> >>"
            ).encode()
            objects[stream] = _stream(f"q {width} 0 0 {height} 0 0 cm /I1 Do Q".encode())
            objects[image] = _stream(
                zlib.compress(rows, 1),
                f"/Type /XObject /Subtype /Image /Width {bitmap.width} /Height {bitmap.height} "
                "/ColorSpace /DeviceGray /BitsPerComponent 8 /Filter /FlateDecode".encode(),
            )
            kids.append(f"{page} 0 R")
    objects[2] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    bodies = b"".join(b"%d 0 obj\n%s\nendobj\n" % item for item in objects.items())
    return b"%PDF-1.4\n" + bodies + b"trailer << /Root 1 0 R >>\n%%EOF\n"  # pdfium makes the table


def _stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), entries, data)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Tesseract:
    """The real one, not what stands in for it elsewhere."""
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if "pytest" not in folder]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    try:
        return Tesseract.find(LANGUAGES)
    except Unavailable as error:
        pytest.skip(str(error))


HEADS = ((50.0, "Year"), (250.0, "Barges"), (400.0, "Cost"))
BODY = [
    "The harbour of Norrin was dredged in the spring of 1923, and the",
    "cost of the work came to 26,300 crowns. The council had asked for",
    "three offers and took the second, which was not the cheapest.",
]
SECOND = ["Dredging began on the fourth of March and ended late in April,", "when the last barge left."]


@pytest.mark.slow
def test_a_scan_is_read(program: Tesseract, tmp_path: Path) -> None:
    title = show((50, 740, "The Harbour Report"), size=24)
    body = show(*((50, 700 - 16 * n, text) for n, text in enumerate(BODY)), size=12)
    table = show(*((x, 600, text) for x, text in HEADS), size=12)
    second = show(*((50, 700 - 16 * n, text) for n, text in enumerate(SECOND)), size=12)
    content = scanned(pdf("\n".join([title, body, table]), second), 0, 180)
    with Loader(ocr=program) as loader:
        document = load(loader, tmp_path, "report.pdf", content)
    pages = [int(start) for start in str(document.metadata["pages"]).split(",")]
    assert document.title == "The Harbour Report"
    assert document.text[pages[0] : pages[1]].strip() == (
        f"The Harbour Report\n\n{' '.join(BODY)}\n\nYear | Barges | Cost"
    )
    assert document.text[pages[1] :] == " ".join(SECOND)
    assert document.metadata["ocr"] == "1,2"
    assert document.metadata["warning"] == "2 of 2 pages recognised by OCR"


def drawn(content: bytes, turn: int, scale: float) -> tuple[int, int, bytes]:
    """The first page of a PDF, turned clockwise by degrees: width, height, grey pixels."""
    with pypdfium2.PdfDocument(content) as source:
        bitmap = source[0].render(scale=scale, rotation=turn, grayscale=True)
        pixels = memoryview(bitmap.buffer)
        rows = [bytes(pixels[row * bitmap.stride :][: bitmap.width]) for row in range(bitmap.height)]
        return bitmap.width, bitmap.height, b"".join(rows)


def png(width: int, height: int, pixels: bytes) -> bytes:
    rows = b"".join(b"\0" + pixels[row * width : (row + 1) * width] for row in range(height))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    ]
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.slow
def test_pictures_of_print_are_read(program: Tesseract, tmp_path: Path) -> None:
    """A photograph that stands on its side, and a TIFF of two pages."""
    body = show(*((50, 740 - 16 * n, text) for n, text in enumerate(BODY)), size=12)
    second = show(*((50, 740 - 16 * n, text) for n, text in enumerate(SECOND)), size=12)
    with Loader(ocr=program) as loader:
        document = load(loader, tmp_path, "side.png", png(*drawn(pdf(body), 90, 150 / 72)))
        assert document.text == " ".join(BODY)
        pages = [drawn(pdf(page), 0, 150 / 72) for page in (body, second)]
        document = load(loader, tmp_path, "two.tif", tiff(*(page[2] for page in pages), widths=[p[0] for p in pages]))
        assert document.text == f"{' '.join(BODY)}\n\n{' '.join(SECOND)}"
        assert document.metadata["ocr"] == "1,2"
        refused = reason(loader, tmp_path, "list.png", f"{tmp_path}/side.png\n")
        assert refused == "no PNG, JPEG or TIFF picture, or damaged beyond reading"
        assert reason(loader, tmp_path, "cut.png", png(*pages[0])[:200]).startswith("a picture that cannot be read")
