"""Which texts may say the same, and which do."""

import random

import numpy as np
import pytest

from rag.minhash import BANDS, jaccard, profile, say_the_same, signature

VOCABULARY = [
    a + b + c for a in ("ba", "do", "ki", "lu") for b in ("ran", "sel", "tor", "mip") for c in ("ta", "lo", "x")
]
LEASE = (
    "The lease of the mill in Ardal runs for three years and may be ended by the owner with a notice of ninety days. "
    "The tenant pays a fee of 100 crowns on the first of January 2023, keeps the wheel in good repair and must not let "
    "the rooms to others. What is broken is mended within a month by whoever broke it, and water is shared with the "
    "smithy below the weir as it has been since the flood."
)


def prose(chance: random.Random, words: int = 120) -> list[str]:
    return [chance.choice(VOCABULARY) for _ in range(words)]


def changed(words: list[str], share: float, chance: random.Random) -> list[str]:
    made = list(words)
    for place in chance.sample(range(len(words)), round(share * len(words))):
        made[place] = f"other{chance.randrange(10**6)}".translate(str.maketrans("0123456789", "abcdefghij"))
    return made


@pytest.mark.parametrize("share", [0.01, 0.02, 0.03, 0.04, 0.05])
def test_copies_with_a_few_words_changed_are_found_and_said_to_be_the_same(share: float) -> None:
    chance = random.Random(7)
    found = same = 0
    for _ in range(100):
        words = prose(chance)
        one, other = " ".join(words), " ".join(changed(words, share, chance))
        found += bool((signature(one) == signature(other)).any())
        same += say_the_same(one, other)
    assert (found, same) >= (99, 97)


def test_texts_of_the_same_words_in_another_order_share_no_band() -> None:
    chance = random.Random(8)
    words = prose(chance)
    one = signature(" ".join(words))
    for _ in range(100):
        chance.shuffle(words)
        assert not (one == signature(" ".join(words))).any()


def test_unlike_texts_seldom_share_a_band() -> None:
    chance = random.Random(9)
    signatures = np.array([signature(" ".join(prose(chance))) for _ in range(300)])
    shared = (signatures[:, None] == signatures).any(axis=2).sum() - 300
    assert shared == 0  # of 89,700; their similarity is about 0.03


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("2023", "2024"),
        ("100 crowns", "120 crowns"),
        ("100 crowns", "100 pounds"),
        ("three years", "five years"),
        ("three years", "three months"),
        ("must not let", "must let"),
        ("may be ended", "can't be ended"),
        ("Ardal", "Vossen"),
        ("good repair", "disrepair"),
        ("below the weir", "above the weir"),
        ("the owner", "The Owner"),
    ],
)
def test_what_differs_in_a_fact_is_never_the_same(said: str, meant: str) -> None:
    assert LEASE.count(said) >= 1
    other = LEASE.replace(said, meant, 1)
    assert jaccard(profile(LEASE), profile(other)) >= 0.75  # by their words alone they are alike
    assert not say_the_same(LEASE, other)
    assert not (signature(LEASE) == signature(other)).any() or said == "good repair"


def test_names_that_have_changed_places_are_not_the_same() -> None:
    sold = LEASE + " Ola Berg sold it to Kari Lund in the spring."
    assert not say_the_same(sold, LEASE + " Kari Lund sold it to Ola Berg in the spring.")


def test_a_negative_of_a_word_is_not_the_same() -> None:
    assert not say_the_same(LEASE + " Subletting is lawful here.", LEASE + " Subletting is unlawful here.")


@pytest.mark.parametrize(
    "copy",
    [
        LEASE.replace(" ", "\n", 20),
        LEASE.replace("to others.", "to others;"),
        LEASE.replace("fl", "ﬂ"),
        LEASE.replace("repair", "re\u00adpair"),
        LEASE.replace("mended", "fixed"),
        LEASE.replace("2023, keeps", "2023, holds"),
    ],
    ids=["spaces", "punctuation", "ligatures", "soft hyphens", "a word", "a word behind a number and a pause"],
)
def test_how_a_text_is_set_changes_nothing(copy: str) -> None:
    assert copy != LEASE
    assert say_the_same(LEASE, copy)
    assert (signature(LEASE) == signature(copy)).any()


def test_a_short_text_is_alike_word_for_word_or_not_at_all() -> None:
    short = "The ferry to the island leaves from the old pier in the harbour every morning when the tide is high enough"
    assert say_the_same(short, short.replace("The ferry", "The  ferry,"))
    assert not say_the_same(short, short.replace("ferry", "tram"))
    assert not say_the_same("yes", "perhaps")


def test_scripts_without_capitals_are_alike_word_for_word() -> None:
    text = "水車は 川の そばに あります " * 20
    assert say_the_same(text, text.replace(" ", "\n"))
    assert not say_the_same(text, text.replace("川", "海", 1))


def test_texts_without_words_are_the_same_only_where_they_are_equal() -> None:
    assert say_the_same("...", "...")
    assert not say_the_same("...", "---")
    assert not say_the_same("", "...")


def test_a_signature_is_part_of_the_format() -> None:
    """These are what docs/format.md says, on every machine: raise the format's version where they change."""
    assert BANDS == 12
    assert signature("The mill stands by the river").tolist() == EXPECTED
    assert signature("").dtype == np.uint32


EXPECTED = [
    1286477562,
    631295517,
    3393325793,
    869254648,
    1893623789,
    323077466,
    3762173857,
    91720979,
    1636139033,
    463869174,
    1718030119,
    403307859,
]
