"""What the reader is taught with, and that lessons sharing a page are learnt as if each stood alone."""

import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGUFWriter

from rag.adapter import read_pairs
from tests.gguf_fakes import qwen2_matrices
from training.examples import Example
from training.sheets import Sheet, harder, sheets

# What needs PyTorch is imported by its tests: it takes seconds, which each process of a run would spend to collect.
if TYPE_CHECKING:
    from training.lora import AdaptedModel

TITLE = "Bridges"
TEXT = (
    "The Alder Bridge was opened in 1831 by Maria Voss. It was the longest bridge of Harlow County. "
    "In 1874 Peter Lund repaired it after a flood."
)
ASKED = (
    ("Who opened the Alder Bridge?", "Maria Voss"),
    ("When did Peter Lund repair the longest bridge?", "1874"),
    ("What was opened in 1831?", "Alder Bridge"),
)
NO = "unanswerable"


def test_lessons_over_one_text_share_a_sheet_up_to_its_size() -> None:
    examples = [Example(TITLE, TEXT, f"question {n}", "answer") for n in range(15)]
    made = list(sheets([*examples, Example(TITLE, "another text", "question", "answer")]))
    assert [len(sheet.asked) for sheet in made] == [12, 3, 1]
    assert made[2].text == "another text"


def test_a_twin_is_the_question_with_one_thing_changed_and_is_declined() -> None:
    sheet = Sheet(TITLE, TEXT, ASKED)
    twins, shortened = set(), 0
    for seed in range(200):
        (made,) = harder([sheet], NO, random.Random(seed))
        if made.text != TEXT:
            shortened += 1
            continue
        assert made.asked[:3] == ASKED
        twins |= {question for question, answer in made.asked[3:] if answer == NO}
        assert all(answer == NO for _, answer in made.asked[3:])
    assert "When did Peter Lund repair the shortest bridge?" in twins
    assert "What was opened in 1874?" in twins
    assert "Who opened the Harlow County?" in twins
    assert not twins & {question for question, _ in ASKED}
    assert 30 < shortened < 90


def test_a_sentence_taken_out_takes_its_answers_along() -> None:
    sheet = Sheet(TITLE, TEXT, ASKED)
    for seed in range(60):
        (made,) = harder([sheet], NO, random.Random(seed))
        for question, answer in made.asked:
            assert answer == NO or answer in made.text
            if made.text != TEXT and (question, answer) not in ASKED:
                assert dict(ASKED)[question] not in made.text


WIDTH, HEADS, KV_HEADS, INNER, WORDS = 16, 4, 2, 24, 40


@pytest.fixture
def model(tmp_path: Path) -> "AdaptedModel":
    import torch

    from training.lora import AdaptedModel

    rng = np.random.default_rng(0)
    writer = GGUFWriter(tmp_path / "tiny.gguf", "qwen2")
    writer.add_block_count(2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_embedding_length(WIDTH)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1000.0)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32))

    weight("token_embd.weight", WORDS, WIDTH)
    weight("output_norm.weight", WIDTH)
    kv = WIDTH // HEADS * KV_HEADS
    for n in range(2):
        for name, out, into in qwen2_matrices(WIDTH, kv, INNER):
            weight(f"blk.{n}.{name}.weight", out, into)
            if name in ("attn_q", "attn_k", "attn_v"):
                weight(f"blk.{n}.{name}.bias", out)
        weight(f"blk.{n}.attn_norm.weight", WIDTH)
        weight(f"blk.{n}.ffn_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    torch.manual_seed(0)
    return AdaptedModel(tmp_path / "tiny.gguf", rank=2, first=1)


def test_lessons_on_one_page_are_learnt_as_if_each_stood_alone(model: "AdaptedModel") -> None:
    from training.reader import Lesson, Page, _loss

    start = [1, 2, 3, 4, 5]
    lessons = [Lesson([6, 7], [8, 9]), Lesson([10], [11]), Lesson([12, 13, 14], [15, 16, 17])]
    alone = [_loss(model, [Page(start, [lesson])]).item() for lesson in lessons]
    assert len({round(loss, 3) for loss in alone}) == 3
    together = _loss(model, [Page(start, lessons)]).item()
    assert together == pytest.approx(sum(alone) / 3, rel=1e-3)
    # Beside a longer page, too: what is padded changes nothing.
    beside = _loss(model, [Page(start, lessons), Page([1] * 30, [lessons[0]])]).item()
    other = _loss(model, [Page([1] * 30, [lessons[0]])]).item()
    assert beside == pytest.approx((sum(alone) + other) / 4, rel=1e-3)


def test_learning_lowers_the_loss_of_what_is_learnt(model: "AdaptedModel") -> None:
    import torch

    from training.reader import Lesson, Page, _loss

    page = Page([1, 2, 3], [Lesson([4], [5, 6]), Lesson([7], [8])])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    before = _loss(model, [page]).item()
    for _ in range(30):
        optimizer.zero_grad()
        _loss(model, [page]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert _loss(model, [page]).item() < before / 2


def test_adapters_are_summed_with_weights_and_thinned_to_the_nearest_of_a_rank(tmp_path: Path) -> None:
    from training.lora import write_adapter
    from training.soup import combine

    rng = np.random.default_rng(1)
    name = "blk.0.attn_q.weight"
    deltas = []
    for n, (rank, alpha) in enumerate([(3, 6), (2, 2)]):
        a = rng.normal(size=(rank, 12)).astype(np.float32)
        b = rng.normal(size=(10, rank)).astype(np.float32)
        write_adapter(tmp_path / f"{n}.gguf", "x", alpha=alpha, halves={name: (a, b)})
        deltas.append(alpha / rank * b @ a)
    both = [tmp_path / "0.gguf", tmp_path / "1.gguf"]
    wanted = deltas[0] + 0.5 * deltas[1]
    combine(both, [1, 0.5], tmp_path / "sum.gguf")
    assert read_pairs(tmp_path / "sum.gguf")[name].delta() == pytest.approx(wanted, abs=0.05)
    combine(both, [1, 0.5], tmp_path / "thin.gguf", rank=4)
    thin = read_pairs(tmp_path / "thin.gguf")[name]
    left, sizes, right = np.linalg.svd(wanted)
    assert thin.a_rd.shape == (4, 12)
    assert thin.delta() == pytest.approx(left[:, :4] * sizes[:4] @ right[:4], abs=0.05)
