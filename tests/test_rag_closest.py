"""What is shown of a document in place of an answer."""

import pytest

from rag.closest import closest
from tests.conftest import scored


@pytest.mark.parametrize(
    ("question", "text", "shown"),
    [
        ("What do pears cost?", "Apples are nice. A pear costs 4. The shop is old.", "A pear costs 4."),
        ("Döner", "Das Brot ist gut. Ein Doner kostet 4 Euro.", "Ein Doner kostet 4 Euro."),
        ("梨多少钱？", "苹果三元。梨四元。", "梨四元。"),
    ],
)
def test_the_nearest_sentence_is_found_in_other_forms_and_scripts(question: str, text: str, shown: str) -> None:
    (near,) = closest(question, [scored(text)])
    assert near.text == shown
