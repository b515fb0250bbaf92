"""The converter from HotpotQA."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval import convert_hotpot
from eval.convert_hotpot import hotpot_to_qaset
from rag.errors import DataError

MILL = ["Tolmen Mill", ["The mill was built by Ada Brandt.", " It burnt in 1901."]]
BRANDT = ["Ada Brandt", ["She was born in Norrin.", "She built mills."]]
OTHER = ["Ada Brandt", ["A ship of that name."]]


def item(id_: str, context: list[Any], facts: list[Any], **changes: Any) -> dict[str, Any]:
    row = {"_id": id_, "question": f" Question {id_}? ", "answer": "Norrin", "type": "bridge", "level": "hard"}
    return {**row, "context": context, "supporting_facts": facts, **changes}


ITEMS = [
    item("a", [MILL, BRANDT], [["Tolmen Mill", 0], ["Ada Brandt", 0], ["Ada Brandt", 1]]),
    item("b", [OTHER, MILL], [["Ada Brandt", 0]], answer="a ship", type="comparison"),
    item("c", [MILL], [["Nowhere", 0]]),
    item("d", [MILL], [["Ada Brandt", 0]]),
]


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1))
    return path


@pytest.mark.parametrize("block", [1, 7, 1_000_000])
def test_paragraphs_become_documents_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(convert_hotpot, "_BLOCK", block)
    qaset = hotpot_to_qaset(write(tmp_path / "dev.json", ITEMS), tmp_path / "out", license_="CC")
    assert [(d.id, d.title, d.text) for d in qaset.documents()] == [
        ("Tolmen Mill", "Tolmen Mill", "The mill was built by Ada Brandt. It burnt in 1901."),
        ("Ada Brandt", "Ada Brandt", "She was born in Norrin. She built mills."),
        ("Ada Brandt#2", "Ada Brandt", "A ship of that name."),
    ]
    assert [(q.id, q.question, q.answers, q.relevant) for q in qaset.questions] == [
        ("a", "Question a?", ("Norrin",), ("Tolmen Mill", "Ada Brandt")),
        ("b", "Question b?", ("a ship",), ("Ada Brandt#2",)),
        ("d", "Question d?", ("Norrin",), ("Ada Brandt",)),  # from another question's context
    ]
    assert "1 questions without their supporting documents left out" in qaset.source
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]
    assert kinds == ["bridge", "comparison", "bridge"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a JSON list is wanted"),
        ({"data": []}, "a JSON list is wanted"),
        ([], "holds no question"),
        ("[", "item 0: not JSON"),
        ('[{"a": 1} {"a": 2}]', "item 0: a list under the key 'context'"),
        ([3], "item 0: a JSON object is wanted, not int"),
        ([ITEMS[0], {**ITEMS[1], "context": [["T", "no list"]]}], r"item 1.context\[0\]: \[title, \[sentences\]\]"),
        ([item("a", [MILL], [["Tolmen Mill"]])], r"item 0.supporting_facts\[0\]"),
        ([{**ITEMS[0], "answer": None}], "item 0: 'answer' must be a str"),
        ([{**ITEMS[0], "level": float("nan")}], "a number is NaN or infinite"),
        ([{k: v for k, v in ITEMS[0].items() if k != "supporting_facts"}], "The test files have no answers"),
    ],
)
def test_what_is_not_hotpot_is_named_and_leaves_nothing(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hotpot_to_qaset(write(tmp_path / "dev.json", content), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["dev.json"]


def test_an_item_without_an_end_is_not_read_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_hotpot, "MAX_ITEM", 1000)
    monkeypatch.setattr(convert_hotpot, "_BLOCK", 300)
    with pytest.raises(DataError, match="longer than 1,000 characters"):
        hotpot_to_qaset(write(tmp_path / "dev.json", '[{"_id": "' + "x" * 5000), tmp_path / "out")


def test_a_missing_comma_is_named(tmp_path: Path) -> None:
    text = f"[{json.dumps(ITEMS[0])} {json.dumps(ITEMS[1])}]"
    with pytest.raises(DataError, match="item 1: a comma"):
        hotpot_to_qaset(write(tmp_path / "dev.json", text), tmp_path / "out")
