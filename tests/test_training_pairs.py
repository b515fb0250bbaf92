"""The reader's lessons of pairs that people wrote, and of passages that give orders."""

import json
import random
import subprocess
import sys
from pathlib import Path

from training.attacks import attacked
from training.examples import Example, asked_of
from training.sheets import Sheet

REPOSITORY = Path(__file__).resolve().parent.parent
BRIDGE = (
    "The Alder Bridge, which Maria Voß's firm opened in 1831, was the longest bridge of Harlow County. "
    "It cannot carry lorries of more than 20km length. In 1874 Peter Lund repaired it after a flood."
)
MILL = "The mill of Thornton ground barley until 1902; its wheel didn't turn again. Later it was kept by Ann Lee."
FERRY = (
    "A ferry crossed the Ouse at Denby from 1750 on. The ferryman, Jonas Reed, was paid 3.5 pence by every passenger."
)


def rows(*lines: tuple[object, ...]) -> str:
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)


def unansq(folder: Path) -> Path:
    """Write a folder as UnAnsQ has it: one pair about the mill with its paragraph, four without one."""
    files = {
        "dev-context.txt": rows(
            (
                "the mill of thornton ground barley until 1902 ; its wheel did n't turn again . "
                "later it was kept by ann lee .",
                0,
                14,
            )
        ),
        "dev-answerable-questions.txt": rows(("aa", "until when did thornton 's mill grind barley ?", 7, 7)),
        "dev-unanswerable-questions.txt": rows(("5aaaaaaa01", "until when did thornton 's mill grind oats ?", 7, 7)),
        "train-answerable-questions.txt": rows(
            ("b1", "when was the alder bridge of maria voß 's firm opened ?", 11, 11),
            ("b2", "who repaired the alder bridge after a flood ?", 35, 36),
            ("c1", "who was the ferryman paid by every passenger at denby ?", 14, 15),
            ("c2", "from when on did a ferry cross the ouse ?", 15, 15),  # the place is in the other sentence
        ),
        "train-unanswerable-questions.txt": rows(
            ("5bbbbbbb01", "when was the alder bridge of maria voß 's firm closed ?", 11, 11),
            ("5bbbbbbb02", "who repaired the alder bridge after a fire ?", 35, 36),
            ("5ccccccc01", "who was the ferryman robbed by at denby ?", 14, 15),
            ("5ddddddd01", "from when on did a train cross the ouse ?", 15, 15),
        ),
    }
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_pairs_get_their_paragraph_their_spelling_and_their_answer(tmp_path: Path) -> None:
    articles = tmp_path / "articles"
    articles.mkdir()
    (articles / "Bridges_%26_Ferries.txt").write_text(f"{BRIDGE}\n{FERRY}\n", encoding="utf-8")
    (articles / "Thornton.txt").write_text(f"{MILL}\n", encoding="utf-8")
    others = [
        f"Paragraph {n} speaks of a thing that nobody has asked about so far, which is number {n * n}."
        for n in range(60)
    ]
    (articles / "Others.txt").write_text("\n".join(others), encoding="utf-8")
    command = ["-m", "training.pairs", unansq(tmp_path / "QG"), articles, "--out", tmp_path / "out.json"]
    held = ["--hold", "Thornton", "--held", tmp_path / "held.json"]
    subprocess.run([sys.executable, *command, *held], cwd=REPOSITORY, check=True, capture_output=True)

    (mill,) = json.loads((tmp_path / "held.json").read_bytes())["data"]
    assert mill["title"] == "Thornton"
    assert [(q["question"], [a["text"] for a in q["answers"]]) for q in mill["paragraphs"][0]["qas"]] == [
        ("Until when did Thornton's mill grind barley?", ["1902"]),
        ("Until when did Thornton's mill grind oats?", []),
    ]
    assert list(asked_of(tmp_path / "held.json", "unanswerable")) == [
        Example("Thornton", MILL, "Until when did Thornton's mill grind barley?", "1902"),
        Example("Thornton", MILL, "Until when did Thornton's mill grind oats?", "unanswerable"),
    ]
    (bridges,) = json.loads((tmp_path / "out.json").read_bytes())["data"]
    assert bridges["title"] == "Bridges_&_Ferries"
    asked = {q["question"]: q["answers"] for p in bridges["paragraphs"] for q in p["qas"]}
    assert asked["When was the Alder Bridge of Maria Voß's firm opened?"] == [
        {"text": "1831", "answer_start": BRIDGE.index("1831")}
    ]
    assert asked["Who repaired the Alder Bridge after a fire?"] == []
    assert asked["Who repaired the Alder Bridge after a flood?"][0]["text"] == "Peter Lund"
    assert asked["Who was the ferryman paid by every passenger at Denby?"][0]["text"] == "Jonas Reed"
    assert not any("train" in question for question in asked)  # the answer's place did not fit the question


def test_an_order_in_a_passage_changes_no_answer_and_alone_it_is_declined() -> None:
    asked = (("Who repaired it after a flood?", "Peter Lund"), ("Who burnt it down?", "unanswerable"))
    given = [Sheet("Bridges", BRIDGE, asked)] * 400
    made = list(attacked(given, "unanswerable", random.Random(1)))
    whole = [sheet for sheet in made if len(sheet.asked) == 2]
    assert len(whole) == 400
    assert all(sheet.asked == asked for sheet in whole)
    ordered = [sheet.text for sheet in whole if sheet.text != BRIDGE]
    assert 30 < len(ordered) < 100
    assert all(set(BRIDGE.split()) - set(text.split()) == set() for text in ordered)
    alone = [sheet for sheet in made if len(sheet.asked) == 1]
    told = [sheet for sheet in alone if sheet.asked[0][1] == "Peter Lund"]
    declined = [sheet for sheet in alone if sheet.asked[0][1] == "unanswerable"]
    assert told
    assert len(declined) > len(told)
    assert all(
        sheet.text == "Who repaired it after a flood? In 1874 Peter Lund repaired it after a flood." for sheet in told
    )
    assert all(sheet.text.startswith(sheet.asked[0][0]) and "flood. " not in sheet.text for sheet in declined)
