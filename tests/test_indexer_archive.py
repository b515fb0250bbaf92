"""Archives: their documents, what is left out, and what is refused before it does harm."""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from indexer import archive
from indexer.archive import unpack
from indexer.load import Contents, Loader, member_address
from rag.errors import UnreadableDocument, UnsupportedFormat

SUFFIXES = frozenset((".txt", ".md"))


@pytest.fixture
def loader() -> Iterator[Loader]:
    with Loader() as loader:
        yield loader


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for name, content in files.items():
            zip_file.writestr(name, content)
    return out.getvalue()


def tarred(files: dict[str, bytes], *links: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for link in links:
            tar.addfile(link)
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def unpacked(tmp_path: Path, name: str, content: bytes) -> tuple[dict[str, bytes], dict[str, str]]:
    """The members with their content and what was skipped. Nothing may have been written elsewhere."""
    folder = tmp_path / "away" / "into"
    folder.mkdir(parents=True)
    file = tmp_path / name
    file.write_bytes(content)
    found = unpack(file, folder, SUFFIXES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "away"])
    assert [path.name for path in (tmp_path / "away").iterdir()] == ["into"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(file for _, file in found.members)
    return {member: (folder / file).read_bytes() for member, file in found.members}, dict(found.skipped)


FILES = {"a.txt": b"one", "inner/b.md": b"two", "inner/c.gif": b"no"}
SKIPPED = {"inner/c.gif": "no loader for files named *.gif"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.zip", zipped(FILES)),
        ("x.tar", tarred(FILES)),
        ("x.tar.gz", gzip.compress(tarred(FILES))),
        ("X.TGZ", gzip.compress(tarred(FILES))),
        ("x.tar.bz2", bz2.compress(tarred(FILES))),
        ("x.tar.xz", lzma.compress(tarred(FILES))),
    ],
)
def test_kinds_of_archives(tmp_path: Path, name: str, content: bytes) -> None:
    assert unpacked(tmp_path, name, content) == ({"a.txt": b"one", "inner/b.md": b"two"}, SKIPPED)


def test_a_single_compressed_file(tmp_path: Path) -> None:
    assert unpacked(tmp_path, "notes.txt.gz", gzip.compress(b"one")) == ({"notes.txt": b"one"}, {})


def test_paths_that_lead_out_are_skipped(tmp_path: Path) -> None:
    bad = ["../a.txt", "/etc/a.txt", "x/../../a.txt", "..\\a.txt", "C:\\a.txt", "C:a.txt", "a\n.txt"]
    members, skipped = unpacked(tmp_path, "x.tar", tarred(dict.fromkeys([*bad, "good.txt"], b"x")))
    assert members == {"good.txt": b"x"}
    assert skipped == dict.fromkeys(bad, "its path leads out of the archive, or is no text")
    again = tmp_path / "zip"
    again.mkdir()
    assert unpacked(again, "x.zip", zipped(dict.fromkeys([*bad, "good.txt"], b"x")))[0] == {"good.txt": b"x"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    links = [
        link("a.txt", str(secret)),
        link("b.txt", "c.txt", tarfile.LNKTYPE),
        link("d.txt", "", tarfile.FIFOTYPE),
        link("up.txt", ".."),
    ]
    (tmp_path / "x").mkdir()
    members, skipped = unpacked(tmp_path / "x", "x.tar", tarred({"c.txt": b"c"}, *links))
    assert members == {"c.txt": b"c"}
    assert skipped == {
        "a.txt": "it is a link",
        "b.txt": "it is a link",
        "d.txt": "it is no file",
        "up.txt": "it is a link",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zip_file:
        info = zipfile.ZipInfo("a.txt")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zip_file.writestr(info, str(secret))
    (tmp_path / "y").mkdir()
    assert unpacked(tmp_path / "y", "x.zip", out.getvalue()) == ({}, {"a.txt": "it is a link"})


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_hidden_and_repeated_members(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as zip_file:
        for name in ("a.txt", ".git/b.txt", "__MACOSX/a.txt", "./a.txt", "a.txt"):
            zip_file.writestr(name, name)
    members, skipped = unpacked(tmp_path, "x.zip", out.getvalue())
    assert members == {"a.txt": b"a.txt"}
    assert skipped == dict.fromkeys(["./a.txt", "a.txt"], "there is another file of that name in the archive")


def test_names_in_utf8_that_do_not_say_so(tmp_path: Path) -> None:
    """What macOS packs: `Ergänzung.txt` was `Erg├ñnzung.txt`. Names of other programs are those of DOS."""
    content = zipped({"Erg\u00e4nzung.txt": b"a", "caf\u00e9.txt": b"b"})
    utf8 = "Erg\u00e4nzung.txt".encode()
    for start in (content.index(utf8) - 24, content.rindex(utf8) - 38):  # the flags of a member, and of its entry
        content = content[:start] + b"\0\0" + content[start + 2 :]
    dos = "caf\u00e9.txt".encode()
    assert set(unpacked(tmp_path, "x.zip", content)[0]) == {"Erg\u00e4nzung.txt", "caf\u00e9.txt"}
    for start in (content.index(dos) - 24, content.rindex(dos) - 38):
        content = content[:start] + b"\0\0" + content[start + 2 :]
    (tmp_path / "y").mkdir()
    content = content.replace(dos, b"caf\x82s.txt")
    assert set(unpacked(tmp_path / "y", "x.zip", content)[0]) == {"Erg\u00e4nzung.txt", "caf\u00e9s.txt"}


def test_archives_in_archives(tmp_path: Path) -> None:
    deep = zipped({"deep.txt": b"too deep"})
    third = zipped({"deep.zip": deep, "c.txt": b"3"})
    second = gzip.compress(tarred({"third.zip": third, "b.txt": b"2"}))
    members, skipped = unpacked(
        tmp_path, "x.zip", zipped({"second.tar.gz": second, "broken.zip": b"PK", "a.txt": b"1"})
    )
    assert members == {"a.txt": b"1", "second.tar.gz/b.txt": b"2", "second.tar.gz/third.zip/c.txt": b"3"}
    assert skipped == {
        "second.tar.gz/third.zip/deep.zip": "archives are opened 3 deep",
        "broken.zip": "damaged archive broken.zip in it",
    }


BOMB = b"\0" * 30_000_000  # compresses a thousandfold


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("x.zip", lambda: zipped({"a.txt": BOMB})),
        ("x.txt.gz", lambda: gzip.compress(BOMB)),
        ("x.tar.xz", lambda: lzma.compress(tarred({"a.txt": BOMB}))),
        ("x.tar.bz2", lambda: bz2.compress(tarred({"not asked for.bin": BOMB}))),
        ("y.zip", lambda: zipped({"inner.zip": zipped({"a.txt": BOMB})})),
    ],
)
def test_bombs_are_refused(tmp_path: Path, name: str, packed: Callable[[], bytes]) -> None:
    with pytest.raises(UnreadableDocument, match=r"^refused: it unpacks to more than 1000 MB or 200 times its size$"):
        unpacked(tmp_path, name, packed())
    written = sum(file.stat().st_size for file in (tmp_path / "away").rglob("*") if file.is_file())
    assert written < 12_000_000


def test_a_head_that_is_a_bomb(tmp_path: Path) -> None:
    """The extended head of a tar member says itself how long it is, and is read into memory."""
    info = tarfile.TarInfo("head")
    info.type, info.size = tarfile.XHDTYPE, 2_000_000_000
    head = info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 30_000_000
    with pytest.raises(UnreadableDocument, match=r"^refused"):
        unpacked(tmp_path, "x.tar.gz", gzip.compress(head))


def sparse(name: str, size: int) -> bytes:
    """A tar archive of one GNU sparse file that is nothing but a hole."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (size, 0)  # the one run of data: at the end, and empty
    head[483:495] = b"%011o\0" % size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(20 * 512 - len(head))


def test_holes_are_counted(tmp_path: Path) -> None:
    """A sparse file's zeros come out of no stream, and would fill the disk all the same."""
    (tmp_path / "x").mkdir()
    members, _ = unpacked(tmp_path / "x", "x.tar", sparse("a.txt", 4_000_000))
    assert members == {"a.txt": bytes(4_000_000)}
    with pytest.raises(UnreadableDocument, match=r"^refused"):
        unpacked(tmp_path, "x.tar", sparse("a.txt", 30_000_000))
    written = sum(file.stat().st_size for file in (tmp_path / "away").rglob("*") if file.is_file())
    assert written < 12_000_000


def test_overlapping_members_are_damage(tmp_path: Path) -> None:
    """A better zip bomb (Fifield 2019): many entries of the directory point to the same data."""
    data = zipped({"0.txt": b"\0" * 4_000_000})
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = b"".join(data[start:end].replace(b"0.txt", f"{number}.txt".encode()) for number in range(9))
    closing = bytearray(data[end:])
    closing[8:12] = (9).to_bytes(2, "little") * 2
    closing[12:16] = len(entries).to_bytes(4, "little")
    with pytest.raises(UnreadableDocument, match=r"^damaged archive$"):
        unpacked(tmp_path, "x.zip", data[:start] + entries + bytes(closing))


def test_members_are_counted_and_sized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "FILE_BYTES", 1000)
    members, skipped = unpacked(tmp_path, "x.txt.gz", gzip.compress(b"x" * 1001))
    assert (members, list(skipped)) == ({}, ["x.txt"])
    monkeypatch.setattr(archive, "MEMBERS", 5)
    (tmp_path / "x").mkdir()
    with pytest.raises(UnreadableDocument, match=r"^refused: more than 5 files in the archive$"):
        unpacked(tmp_path / "x", "x.zip", zipped({f"{n}.bin": b"" for n in range(6)}))


def test_damaged_archives(tmp_path: Path) -> None:
    good = {"x.zip": zipped(FILES), "x.tar.gz": gzip.compress(tarred(FILES)), "x.tar": tarred(FILES)}
    for number, (name, content) in enumerate(good.items()):
        for cut in (10, 514 if name == "x.tar" else len(content) // 2):
            folder = tmp_path / f"{number}-{cut}"
            folder.mkdir()
            with pytest.raises(UnreadableDocument, match=r"^damaged archive$"):
                unpacked(folder, name, content[:cut])


# --- through the loader


def contents(loader: Loader, file: Path) -> Contents:
    found = loader.unpack(file)
    assert found
    return found


def test_members_are_documents_of_their_own(loader: Loader, tmp_path: Path) -> None:
    file = tmp_path / "docs.zip"
    file.write_bytes(zipped({"my_note.txt": b"text", "sub dir/page.html": b"<h1>Page</h1><p>x</p>", "bad.pdf": b"x"}))
    found = contents(loader, file)
    assert [member.name for member in found.members] == ["my_note.txt", "sub dir/page.html", "bad.pdf"]
    address = member_address("docs.zip", "file:///docs.zip", found.members[1].name)
    assert address == ("docs.zip/sub dir/page.html", "file:///docs.zip#sub%20dir/page.html")
    page = found.members[1].load(*address)
    assert (page.id, page.uri, page.title, page.text) == (*address, "Page", "# Page\n\nx")
    assert found.members[0].load("i", "u").title == "my note"
    with pytest.raises(UnreadableDocument, match=r"^not a PDF file"):
        found.members[2].load("i", "u")
    assert found.members[0].bytes == 4
    with pytest.raises(UnsupportedFormat, match="documents of their own"):
        loader.load_file(file, "docs.zip", "")
    assert loader.unpack(tmp_path / "a.txt") is None


def test_members_are_of_the_day_of_their_own_change(loader: Loader, tmp_path: Path) -> None:
    """As the archive has it, or else of the archive's."""
    packed, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zip_file:
        for name, day in (("a.txt", (2023, 4, 5)), ("b.txt", (1980, 1, 1)), ("c.txt", (2023, 0, 0))):
            zip_file.writestr(zipfile.ZipInfo(name, (*day, 23, 0, 0)), name)
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as tar_file:
        for name, mtime in (("a.txt", 1_600_000_000), ("b.txt", 0), ("c.txt", 1e300)):
            info = tarfile.TarInfo(name)
            info.mtime = mtime
            tar_file.addfile(info)
    for name, content, own in (("x.zip", packed, date(2023, 4, 5)), ("x.tar", tar, date(2020, 9, 13))):
        path = tmp_path / name
        path.write_bytes(content.getvalue())
        os.utime(path, (1_700_000_000, 1_700_000_000))
        contents = loader.unpack(path)
        assert contents
        rest = date(2023, 11, 14)
        assert {m.name: m.changed for m in contents.members} == {"a.txt": own, "b.txt": rest, "c.txt": rest}


def test_members_can_be_read_after_another_archive_was_opened(loader: Loader, tmp_path: Path) -> None:
    files = []
    for name in "ab":
        files.append(tmp_path / f"{name}.zip")
        files[-1].write_bytes(zipped({"x.txt": name.encode()}))
    first, second = (contents(loader, file).members[0] for file in files)
    assert [member.load("i", "u").text for member in (first, second, first)] == ["a", "b", "a"]
    files[0].write_bytes(zipped({"y.txt": b"y"}))
    assert second.load("i", "u").text == "b"
    with pytest.raises(UnreadableDocument, match="it is no longer in the archive"):
        first.load("i", "u")


def test_what_was_unpacked_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = tmp_path / "temporary"
    away.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(away))
    (tmp_path / "good.zip").write_bytes(zipped(FILES))
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with Loader() as loader:
        contents(loader, tmp_path / "good.zip")
        assert len(list(away.iterdir())) == 1
        with pytest.raises(UnreadableDocument, match=r"^damaged archive$"):
            loader.unpack(tmp_path / "bad.zip")
        assert not list(away.iterdir())
        contents(loader, tmp_path / "good.zip")
    assert not list(away.iterdir())


def test_what_a_killed_run_unpacked_goes_with_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = tmp_path / "temporary"
    away.mkdir()
    (tmp_path / "good.zip").write_bytes(zipped(FILES))
    script = "import os, sys, pathlib, indexer.load as l; "
    script += "loader = l.Loader(); loader.unpack(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", script, str(tmp_path / "good.zip")]
    environment = {**os.environ, "TMPDIR": str(away), "PYTHONPATH": str(Path(archive.__file__).parent.parent)}
    assert subprocess.run(command, check=False, env=environment).returncode == -9
    (left,) = away.iterdir()
    assert len(list(left.iterdir())) == 3  # two documents, and the lock that its death has opened
    monkeypatch.setattr("tempfile.tempdir", str(away))
    with Loader() as loader:
        contents(loader, tmp_path / "good.zip")
        assert left not in away.iterdir()
