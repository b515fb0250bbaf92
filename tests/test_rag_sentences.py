"""Sentence boundaries, each case worked by hand: `‖` marks where the text must be cut."""

import random
import time

import pytest

from rag.sentences import sentence_spans


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


def check(marked: str) -> None:
    text = marked.replace("‖", "")
    assert sentences(text) == [part.strip() for part in marked.split("‖")]


@pytest.mark.parametrize(
    "marked",
    [
        "One sentence.‖ Another one!‖ A third?‖ And a rest without a stop",
        "Dr. Smith met Mr. and Mrs. Jones at St. Mary's.‖ They left.",
        "Fruit, e.g. apples, i.e. Malus domestica, vs. pears.‖ Done.",
        "The U.S. Senate met.‖ He lives in the U.S.‖ It is large.",
        "J. R. R. Tolkien and J.K. Rowling wrote it.‖ George W. Bush did not.",
        "They chose plan B.‖ The rest was easy.",
        "Acme Inc. reported a loss.‖ Its rival is Acme Corp.‖ That firm reported none.",
        "She rose at 5 a.m. on Friday.‖ At 9 p.m.‖ She slept.",
        "Pi is 3.14159 and version 2.0.1 costs $1.50.‖ See Fig. 3 and No. 7 on p. 12.",
        "There was no.‖ Nobody came.",
        'He said "Stop."‖ Then he left.‖ "Why?" she asked.‖ (It was late.)‖ [So it was.]‖ End.',
        "“Wait!”‖ Nobody did.‖ ‘Why?’ they cried.",
        "Wait...‖ What?!‖ It goes on... and on.‖ Really…‖ Yes.",
        "It was shown in 1998.[12][13]‖ Later it was doubted.[note 4]‖ The end.",
        "Visit example.com or mail me@site.org today.‖ Node.js is there.",
        "Born on Jan. 5 and Sept. 12.‖ It ended in May.‖ Now rest.",
        "It is **bold.**‖ Then _slanted._‖ Plain.",
        "The phones were recalled.‖ iPhone sales fell.‖ eBay sells them.",
        "Er kam z.B. am Montag.‖ Das war gut.",
        "The work of Smith et al. Nature 5 was cited.‖ Smith et al.‖ However, nobody read it.",
        "Qui est-ce ?‖ Personne !‖ Bien.",
        "Il dit « Bonjour. »‖ Puis il partit.‖ Er sagte nichts.‖ »Nein.«‖ Ende.",
        "„Halt.“‖ Er ging.‖ ‚Nein.‘‖ Sie blieb.",
        "Linux came first.‖ macOS followed.‖ jQuery too.‖ getName() is old, e.g. setName is new.",
        "Die Einheit kam am 3. Oktober 1990.‖ Im 19. Jahrhundert war daran nicht zu denken.",
        "In August 1990 he turned 5.‖ Then it ended.‖ It closed in 1990.‖ August was warm.",
        "Der Umsatz lag bei 3,5 Mio. Euro, siehe Kap. 5 und Abs. 2.‖ Der Gewinn lag bei 1 Mio.‖ Das war wenig.",
        "Geeignet sind z. B. Tomaten, d. h. Nachtschatten, u. a. Paprika.‖ Gut.",
        "Das gilt i. V. m. § 3 und i. d. R. Montags.‖ § 5 bleibt unberührt.‖ Ende.",
        "Die 5. Auflage erschien am 1. Advent.‖ Der 2. Senat entschied.‖ Er kommt am 5.‖ Die Sitzung war gut.",
        "I am 5.‖ He is 6.‖ We picked the 3.‖ Nobody chose 4.",
        "Roe v. Wade was decided in 1973.‖ See Art. I, Sec. 8 and Art. II of the text.‖ We like modern art.‖ I do.",
        "Die Spannung ist max. 230 V bei min. 5 mm Abstand.‖ Ende.‖ Never mind.‖ It works.",
        "La Sra. López vive en Ft. Worth.‖ The wall is 5 ft.‖ It holds.",
    ],
)
def test_stops(marked: str) -> None:
    check(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "今日は雨です。‖明日は晴れますか？‖はい！‖「そうです。」‖終わり",
        "هل أنت بخير؟‖ نعم.‖ شكرا",
        "यह एक वाक्य है।‖ यह दूसरा है॥‖ अंत",
        "Привет.‖ Как дела?‖ Хорошо!",
        "Εδώ είμαι.‖ Εκεί είσαι.",
        "圆周率是3.14。‖真的",
    ],
)
def test_scripts(marked: str) -> None:
    check(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "A heading\n‖The paragraph starts here and ends here.\n\n‖Another one",
        "# Title\n‖Some text that follows the title at once.",
        "Items:\n‖- the first item\n‖- the second. ‖It has two sentences.\n‖* third",
        "1. Turn the key. ‖Wait.\n‖2. Turn it back.\n‖10) Leave.",
        "a) alpha\n‖b) beta",
        "A line wrapped by an editor at about seventy characters which then goes\n"
        "on in the next line, as mail does. ‖Here the\nsecond sentence wraps too.",
        "The creator must live in\n``__getattr__`` and nowhere else.",
        "He was greeted by Dr.\nSmith, who had come with the\nothers.",
        "Chicken stock\n‖salt\n‖two onions",
        "Short verse line,\n‖A second one,\n‖and third",
        "One line per paragraph, far too long for any editor's wrapping, so that its end is "
        "the end of what its author meant to say here\n‖and the next.",
        "Windows line ends.\r\n‖They are kept.\r\n\r\n‖Here too.",
    ],
)
def test_lines(marked: str) -> None:
    check(marked)


def test_table_rows_are_sentences() -> None:
    assert sentences("| a | b |\n|---|---|\n| 1. one | 2 |\n\nText.") == [
        "| a | b |",
        "|---|---|",
        "| 1. one | 2 |",
        "Text.",
    ]


def test_nothing() -> None:
    assert sentence_spans("") == []
    assert sentence_spans(" \n\t \r\n") == []
    assert sentence_spans(" a \n") == [(1, 2)]


def test_every_character_is_in_one_sentence_whatever_the_text() -> None:
    rng = random.Random(7)
    pieces = [
        "word",
        "Dr.",
        "U.S.",
        "3.5",
        ". ",
        "! ",
        "? ",
        "\n",
        "\n\n",
        " ",
        "- ",
        "1. ",
        "| ",
        "。",
        '."',
        "...",
        "\r\n",
        "é",
        "😀",
        "#",
    ]
    for _ in range(500):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(60)))
        spans = sentence_spans(text)
        covered = [False] * len(text)
        previous = 0
        for start, end in spans:
            assert previous <= start < end <= len(text)
            assert not text[start].isspace() and not text[end - 1].isspace()
            covered[start:end] = [True] * (end - start)
            previous = end
        assert all(inside or char.isspace() for inside, char in zip(covered, text, strict=True))


@pytest.mark.parametrize(
    "text",
    ["." * 300_000, " " * 300_000 + "x", "\n" * 300_000, "a. " * 100_000, '."' * 100_000 + "x", "-" * 300_000 + "\n"],
)
def test_no_text_takes_quadratic_time(text: str) -> None:
    start = time.perf_counter()
    sentence_spans(text)
    assert time.perf_counter() - start < 5  # linear: well under a second; quadratic: minutes
