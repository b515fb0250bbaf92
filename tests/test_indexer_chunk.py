"""Chunks, with a tokenizer whose tokens are words and punctuation marks, so that budgets can be counted by hand."""

import random
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from indexer.chunk import Chunker
from indexer.grouping import Atom, Joint, cheapest_groups, coalesced
from indexer.outline import find_headings, heading_paths, plain_title
from rag.datatypes import Chunk, Document, Span
from rag.errors import ConfigError, ModelDamaged, ModelMissing


@pytest.fixture(scope="session")
def words_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT's way: a token for each word and each punctuation mark. Truncates and pads, as published files do."""
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return _saved(tokenizer, tmp_path_factory)


@pytest.fixture(scope="session")
def bytes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token for each byte, spaces too: a chunk counts more than its sentences together."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _saved(tokenizer, tmp_path_factory)


def _saved(tokenizer: Tokenizer, factory: pytest.TempPathFactory) -> Path:
    file = factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return file


@cache
def counter(file: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def document(text: str, name: str = "a.txt", title: str = "Title", **metadata: str | float) -> Document:
    return Document(name, f"file:///{name}", title, text, metadata)


def texts(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def sentence(first: str, words: int) -> str:
    """A sentence of `words` tokens, its full stop included."""
    return " ".join([first, *["word"] * (words - 2)]) + "."


def check_invariants(chunks: list[Chunk], doc: Document, file: Path, tokens: int) -> None:
    tokenizer = counter(file)
    covered = [char.isspace() for char in doc.text]
    for number, chunk in enumerate(chunks):
        assert chunk.id == f"{doc.id}#{number}"
        assert chunk.document_id == doc.id
        assert doc.text[chunk.span.start : chunk.span.end] == chunk.text == chunk.text.strip() != ""
        assert len(tokenizer.encode(chunk.text, add_special_tokens=False).ids) <= tokens
        covered[chunk.span.start : chunk.span.end] = [True] * len(chunk.text)
    assert all(covered)
    assert all(one.span.start < other.span.start and one.span.end < other.span.end for one, other in pairwise(chunks))


def test_a_document_that_fits_is_one_chunk(words_file: Path) -> None:
    text = "\n " + " ".join([sentence("One", 90), sentence("Two", 90)]) + "\n"
    (chunk,) = Chunker(words_file, 180, 0).chunk(document(text))
    assert chunk.text == text.strip()
    assert chunk.span == (2, len(text) - 1)
    assert chunk.metadata == {"title": "Title", "uri": "file:///a.txt"}
    sections = "# A\n\n" + sentence("One", 20) + "\n\n# B\n\n" + sentence("Two", 20)  # 44 tokens
    assert len(Chunker(words_file, 44, 0).chunk(document(sections, "a.md"))) == 1
    assert len(Chunker(words_file, 43, 0).chunk(document(sections, "a.md"))) == 2


def test_nothing_gives_no_chunks(words_file: Path) -> None:
    chunker = Chunker(words_file, 20, 0)
    assert chunker.chunk(document("")) == []
    assert chunker.chunk(document(" \n\t\n")) == []


def test_slightly_over_the_budget_is_split_evenly(words_file: Path) -> None:
    parts = [sentence(f"S{n}", 10) for n in range(11)]  # 110 tokens: not 100 + 10 but 50 + 60
    chunks = Chunker(words_file, 100, 0).chunk(document(" ".join(parts)))
    assert texts(chunks) in ([" ".join(parts[:5]), " ".join(parts[5:])], [" ".join(parts[:6]), " ".join(parts[6:])])


def test_cuts_between_paragraphs_rather_than_inside_them(words_file: Path) -> None:
    one = sentence("A", 10) + " " + sentence("B", 10)
    two = sentence("C", 20) + " " + sentence("D", 10)
    chunks = Chunker(words_file, 40, 0).chunk(document(f"{one}\n\n{two}"))
    assert texts(chunks) == [one, two]  # 20 + 30, though 25 + 25 would be more even


def test_a_heading_belongs_to_what_follows(words_file: Path) -> None:
    body = [sentence(f"S{n}", 12) for n in range(6)]
    text = "\n\n".join(
        ["# Top", body[0], body[1], "## First", body[2], body[3], "## Second", "### Deep", body[4], body[5]]
    )
    chunks = Chunker(words_file, 32, 0).chunk(document(text, "a.md"))
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["# Top", "## First", "## Second"]
    assert [chunk.metadata["headings"] for chunk in chunks] == ["Top", "Top > First", "Top > Second"]


def test_headings_are_a_path_without_the_title(words_file: Path) -> None:
    body = [sentence(f"S{n}", 14) for n in range(4)]
    code = "```\n# no heading\n```"
    text = f"# Guide\n\n{body[0]}\n\n## *Install* it\n\n{body[1]}\n\n### [Linux](x)\n\n{body[2]}\n\n{code}\n\n{body[3]}"
    chunks = Chunker(words_file, 24, 0).chunk(document(text, "a.md", title="guide"))
    assert [chunk.metadata.get("headings") for chunk in chunks] == [
        None,
        "Install it",
        "Install it > Linux",
        "Install it > Linux",
    ]
    assert chunks[1].context_text.startswith("guide > Install it\n## *Install* it\n\nS1")


def test_a_chunk_of_two_sections_has_the_headings_of_both(words_file: Path) -> None:
    text = "# Top\n\n## A\n\nshort text\n\n## B\n\nshort too\n\n# Other\n\n" + sentence("S", 18)
    chunks = Chunker(words_file, 21, 0).chunk(document(text, "a.md"))
    assert [chunk.metadata["headings"] for chunk in chunks] == ["Top", "Other"]


def test_only_marked_up_text_has_headings(words_file: Path) -> None:
    text = "# Not a heading\n\n" + sentence("S", 15) + "\n\n" + sentence("T", 15)
    chunker = Chunker(words_file, 20, 0)
    assert all("headings" not in chunk.metadata for chunk in chunker.chunk(document(text, "a.txt")))
    assert all(chunk.metadata["headings"] for chunk in chunker.chunk(document(text, "a.docx", format="docx")))


def test_crumbs_are_joined(words_file: Path) -> None:
    text = "\n\n".join(["Tiny.", sentence("S", 18), "Crumb.", sentence("T", 18), "End."])
    assert [len(chunk.text.split()) for chunk in Chunker(words_file, 24, 0).chunk(document(text))] in (
        [19, 18],
        [18, 19],
    )


def test_overlap_repeats_whole_sentences_within_its_budget(words_file: Path) -> None:
    parts = [sentence(f"S{n}", 10) for n in range(8)]
    without = Chunker(words_file, 30, 0).chunk(document(" ".join(parts)))
    assert len(without) == 3
    chunks = Chunker(words_file, 40, 10).chunk(document(" ".join(parts)))
    assert len(chunks) == 3
    for before, chunk in pairwise(chunks):
        shared = before.text[chunk.span.start - before.span.start :]
        assert shared in parts
    small = Chunker(words_file, 39, 9).chunk(document(" ".join(parts)))  # no sentence fits nine tokens
    assert all(before.span.end < chunk.span.start for before, chunk in pairwise(small))


def test_overlap_stays_within_a_section(words_file: Path) -> None:
    text = f"# A\n\n{sentence('S', 20)}\n\n{sentence('T', 5)}\n\n# B\n\n{sentence('U', 20)}"
    chunks = Chunker(words_file, 40, 10).chunk(document(text, "a.md"))
    assert [chunk.text[:3] for chunk in chunks] == ["# A", "# B"]


@pytest.mark.parametrize("pages", ["twelve", 12, 3.5, "", "1-4", "0,9,4", "0,\u0664", "0," + "9" * 5000])
def test_what_a_record_says_of_its_pages_is_no_offset(words_file: Path, pages: str | float) -> None:
    (chunk,) = Chunker(words_file, 100, 0).chunk(document("One two.", "a.txt", format="text", pages=pages))
    assert chunk.metadata.keys() == {"title", "uri"}


def test_pages_are_those_where_chunks_start(words_file: Path) -> None:
    pages = [sentence("One", 12), "", sentence("Three", 12)]
    text = f"{pages[0]}\n\n{pages[2]}"
    starts = f"0,{len(pages[0])},{len(pages[0]) + 2}"
    chunks = Chunker(words_file, 16, 0).chunk(document(text, "a.pdf", format="pdf", pages=starts))
    assert [chunk.metadata["page"] for chunk in chunks] == [1, 3]
    (whole,) = Chunker(words_file, 100, 0).chunk(document(text, "a.pdf", format="pdf", pages=starts))
    assert whole.metadata["page_breaks"] == starts.removeprefix("0,")
    assert [whole.page_at(at) for at in (0, len(pages[0]) - 1, len(pages[0]) + 2, len(text) - 1)] == [1, 1, 3, 3]
    assert Chunk("c", "d", "x", Span(0, 1)).page_at(0) is None


@pytest.mark.parametrize(("head", "tokens", "lines"), [("The items:", 58, 7), ("| x | y |\n| --- | --- |", 58, 6)])
def test_a_list_keeps_its_introduction_and_a_table_its_head(
    words_file: Path, head: str, tokens: int, lines: int
) -> None:
    text = "\n".join([*(f"a line {n} of text" for n in range(lines)), head, *(f"- item {n}" for n in range(12))])
    chunks = Chunker(words_file, tokens, 0).chunk(document(text))
    assert not any(chunk.text.endswith(tuple(head.split("\n"))) for chunk in chunks)  # where an even cut would fall


def test_a_long_sentence_is_cut_at_a_clause_and_a_long_word_inside(words_file: Path) -> None:
    clauses = [" ".join(["word"] * 9) + "," for _ in range(5)]  # 10 tokens each
    chunks = Chunker(words_file, 32, 0).chunk(document(" ".join(clauses)))
    assert [chunk.text.count(",") for chunk in chunks] in ([2, 3], [3, 2])
    assert all(chunk.text.endswith(",") for chunk in chunks)
    monster = "x" * 10_000  # one unknown token to the tokenizer
    pieces = Chunker(words_file, 20, 0).chunk(document(monster))
    assert "".join(texts(pieces)) == monster
    assert max(len(piece.text) for piece in pieces) <= 20 * 16


def test_minified_json_is_cut_at_its_punctuation(words_file: Path) -> None:
    text = "[" + ",".join(f'{{"id":{n}}}' for n in range(40)) + "]"
    chunks = Chunker(words_file, 30, 0).chunk(document(text, "a.json"))
    check_invariants(chunks, document(text, "a.json"), words_file, 30)
    assert all(chunk.text[-1] in ",:}]" for chunk in chunks)


PIECES = [
    *["word", "other", "Dr.", "3.5", "U.S.", "x" * 40, "naïve", "漢字。", "😀", "http://a.b/c?d=e&f", "\u00a0", "\x0b"],
    *[
        ". ",
        "? ",
        ", ",
        "\n",
        "\n\n",
        " ",
        "  ",
        "\t",
        "\r\n",
        "- ",
        "1. ",
        "| a | b |\n",
        "# ",
        "## A\n",
        "===\n",
        "```\n",
        ": ",
    ],
]


@pytest.mark.parametrize("kind", ["words", "bytes"])
@pytest.mark.parametrize("name", ["a.md", "a.rst", "a.txt", "a.adoc"])
def test_invariants_hold_for_any_text(words_file: Path, bytes_file: Path, kind: str, name: str) -> None:
    file = words_file if kind == "words" else bytes_file
    rng = random.Random(f"{kind} {name}")
    for _ in range(40):
        tokens = rng.choice([16, 17, 25, 60, 200])
        overlap = rng.choice([0, 0, 5, tokens // 2])
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(400)))
        doc = document(text, name)
        check_invariants(Chunker(file, tokens, overlap).chunk(doc), doc, file, tokens)


def test_the_same_document_gives_the_same_chunks(words_file: Path) -> None:
    doc = document(" ".join(sentence(f"S{n}", 7) for n in range(50)), "a.md")
    assert Chunker(words_file, 40, 8).chunk(doc) == Chunker(words_file, 40, 8).chunk(doc)


def test_the_fingerprint_names_all_that_moves_cuts(words_file: Path, bytes_file: Path) -> None:
    chunker = Chunker(words_file, 40, 8)
    assert (chunker.tokens, chunker.overlap) == (40, 8)
    assert chunker.fingerprint == Chunker(words_file, 40, 8).fingerprint
    others = [Chunker(words_file, 41, 8), Chunker(words_file, 40, 7), Chunker(bytes_file, 40, 8)]
    assert len({chunker.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_bad_settings_and_files_are_refused(words_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overlap of 21 tokens") as refused:
        Chunker(words_file, 40, 21)
    assert "20" in refused.value.hint
    with pytest.raises(ModelMissing):
        Chunker(tmp_path / "tokenizer.json", 40, 0)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelDamaged, match="is not a tokenizer"):
        Chunker(tmp_path / "tokenizer.json", 40, 0)


def row(*weights_and_joints: tuple[int, Joint, float]) -> list[Atom]:
    atoms, at = [], 0
    for weight, joint, cut in weights_and_joints:
        atoms.append(Atom(at, at + weight, weight, joint, cut))
        at += weight + 1
    return atoms


def test_the_cheapest_grouping_by_hand() -> None:
    even = row((4, "sentence", 0.15), (4, "sentence", 0.15), (4, "sentence", 0.15))
    # Budget 8. 4+8: .5² + 0² + .15 = .40; 8+4 the same; 4+4+4: .75 + .30. The later start of the last chunk wins a tie.
    assert cheapest_groups(even, 8) in ([(0, 1), (1, 3)], [(0, 2), (2, 3)])
    paragraphs = row((4, "sentence", 0.15), (4, "sentence", 0.15), (4, "paragraph", 0.0))
    # 8+4 cuts at the paragraph: .25; 4+8 cuts a sentence (.15) and joins paragraphs (.3): .70.
    assert cheapest_groups(paragraphs, 8) == [(0, 2), (2, 3)]
    assert cheapest_groups(row((9, "sentence", 0.15), (1, "sentence", 0.15)), 8) == [(0, 1), (1, 2)]
    assert cheapest_groups([], 8) == []


def test_light_atoms_are_joined_but_not_headings_or_pieces() -> None:
    atoms = [
        *row((2, "heading", 0.0), (2, "paragraph", 2.0), (2, "line", 0.1), (2, "line", 0.1), (5, "line", 0.1)),
        Atom(18, 19, 1, "piece", 2.0),
    ]
    assert [(atom.start, atom.end, atom.weight, atom.joint) for atom in coalesced(atoms, 4)] == [
        (0, 2, 2, "heading"),
        (3, 8, 4, "paragraph"),
        (9, 11, 2, "line"),
        (12, 17, 5, "line"),
        (18, 19, 1, "piece"),
    ]
    assert coalesced(atoms, 1) == atoms
    far = [Atom(0, 1, 1, "sentence", 0.15), Atom(100, 101, 1, "word", 0.8)]  # more than 4 x 16 characters
    assert coalesced(far, 4) == far


@pytest.mark.parametrize(
    "text",
    [
        "7\n" * 100_000,
        "# a" + " " * 500_000 + "b\n\nc" * 100,
        "# " + "#" * 300_000 + "x",
        "x" * 500_000,
        '{"a":1},' * 50_000,
        "-" * 300_000 + "x\n" + "y " * 300,
    ],
)
def test_no_text_takes_quadratic_time(words_file: Path, text: str) -> None:
    start = time.perf_counter()
    chunks = Chunker(words_file, 200, 0).chunk(document(text, "a.md"))
    assert time.perf_counter() - start < 20  # linear: about a second; quadratic: many minutes
    assert max(len(chunk.text) for chunk in chunks) <= 200 * 16


def test_grouping_is_the_best_of_all_groupings() -> None:
    rng = random.Random(3)
    joints: list[Joint] = ["heading", "paragraph", "line", "sentence"]
    price = {"heading": 0.8, "paragraph": 0.3}
    for _ in range(50):
        kinds: list[tuple[int, Joint, float]]
        kinds = [(rng.randrange(1, 9), rng.choice(joints), rng.random()) for _ in range(8)]
        atoms = row(*kinds)

        def cost(groups: list[tuple[int, int]], atoms: list[Atom] = atoms) -> float:
            total = 0.0
            for start, end in groups:
                used = sum(atom.weight for atom in atoms[start:end])
                if used > 10:
                    return float("inf")
                total += (1 - used / 10) ** 2 + sum(price.get(atom.joint, 0) for atom in atoms[start + 1 : end])
                total += atoms[end].cut if end < len(atoms) else 0
            return total

        everything = []
        for mask in range(2**7):
            edges = [0, *(n + 1 for n in range(7) if mask >> n & 1), 8]
            everything.append(cost(list(pairwise(edges))))
        assert cost(cheapest_groups(atoms, 10)) == pytest.approx(min(everything))


@pytest.mark.parametrize(
    ("markup", "text", "expected"),
    [
        ("markdown", "# A\ntext\n## B ##\n#no\n#\n####### seven", [(1, "A"), (2, "B")]),
        ("markdown", "Title\n=====\n\nSub\n---\n\n- item\n---\na\nb\n---\n", [(1, "Title"), (2, "Sub")]),
        ("markdown", "~~~\n# code\n```\n~~~\n# A\n    # indented\n``` `x`\n# B", [(1, "A"), (1, "B")]),
        ("markdown", "---\ntitle: T\n---\n\n# A", [(1, "A")]),
        ("markdown", "# \n# A `b` **c** _d_ snake_case [e](f) <br/> \\# {#id}", [(1, "A b c d snake_case e #")]),
        (
            "rst",
            "=====\n Top\n=====\n\nOne\n---\n\ntext\n\nTwo\n---\n\n~~~\nx\n\nDeep\n^^^^\n",
            [(1, "Top"), (2, "One"), (2, "Two"), (3, "Deep")],
        ),
        ("rst", "a paragraph\nof two lines\n------------\n\n===  ===\nx    y\n===  ===\n", []),
        ("asciidoc", "= Doc\n\n== A\n\n----\n== code\n----\n\n=== B\n=no", [(1, "Doc"), (2, "A"), (3, "B")]),
    ],
)
def test_headings(markup: str, text: str, expected: list[tuple[int, str]]) -> None:
    found = find_headings(text, markup)  # type: ignore[arg-type]
    assert [(heading.level, heading.title) for heading in found] == expected
    assert all(heading.title.split()[0].strip("`*") in text[heading.start : heading.end] for heading in found)


def test_heading_paths_follow_levels() -> None:
    headings = find_headings("# A\n### B\n## C\n# D\n## E", "markdown")
    assert heading_paths(headings, "d") == [("A",), ("A", "B"), ("A", "C"), (), ("E",)]


def test_plain_title_is_bounded() -> None:
    assert plain_title("  a \n b  ") == "a b"
    assert len(plain_title("word " * 1000)) <= 200
