import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rag.datatypes import PrefixCounters, PrefixTier
from rag.engine.context import TokenArray
from rag.engine.files import PrefixFiles, identity_of
from rag.engine.owners import Owners, names
from rag.engine.prefix import Prefixes
from rag.engine.states import Match, PrefixIndex, SavedStates, key_of, shared_length, tokens_of
from tests.engine_fakes import FakeContext

RANDOM = random.Random(2)


def tokens(*values: int) -> TokenArray:
    return np.array(values, np.int32)


def some(length: int, first: int = 1) -> TokenArray:
    return tokens(first, *(RANDOM.randrange(1, 60) for _ in range(length - 1)))


def state(text: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(text, np.uint8)


def test_the_longest_common_prefix_is_that_of_a_neighbour() -> None:
    index = PrefixIndex()
    known = {bytes(key_of(tokens(*(RANDOM.randrange(3) for _ in range(RANDOM.randrange(1, 9)))))) for _ in range(200)}
    for key in known:
        index.add(key)
    for _ in range(300):
        asked = tokens(*(RANDOM.randrange(3) for _ in range(RANDOM.randrange(1, 9))))
        assert index.longest(asked).shared == max(shared_length(tokens_of(key), asked) for key in known)
    for key in known:
        index.remove(key)
    assert index.longest(tokens(1)) == Match(b"", 0)


def test_states_in_memory_leave_by_their_last_use() -> None:
    saved = SavedStates(budget=25)
    a, b, c = (key_of(some(5, first)) for first in (1, 2, 3))
    saved.put(a, state(b"a" * 10))
    saved.put(b, state(b"b" * 10))
    assert saved.get(a) is not None
    saved.put(c, state(b"c" * 10))
    assert (saved.get(b), saved.bytes, len(saved)) == (None, 20, 2)
    saved.put(b, state(b"b" * 30))
    assert (saved.get(b), saved.bytes, len(saved)) == (None, 20, 2), "larger than the budget: it moves no other"


def test_what_somebody_said_never_lies_on_a_disk(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path, "model", 10_000)
    saved = SavedStates(1000, files)
    owners, read = Owners(), some(100)
    theirs, other = (names(read, 60, owners.number(owner)) for owner in ("a", "b"))
    saved.put(key_of(read[:60]), state(b"of a passage"))
    saved.put(key_of(theirs), state(b"of a conversation"))
    assert [saved.longest(asked).shared for asked in (theirs, other)] == [100, 60]
    saved.close()
    assert (len(files), files.longest(theirs).shared) == (1, 60)


def test_numbers_of_owners_fit_beside_a_token() -> None:
    owners = Owners()
    largest = tokens(2**18 - 1)
    numbers = [owners.number(str(i)) for i in range(10_000)]
    assert len({int(names(largest, 0, number)[0]) for number in set(numbers)}) == len(set(numbers)) > 8000
    assert min(int(names(largest, 0, number)[0]) for number in numbers) > 0


def test_the_number_of_an_owner_who_still_asks_is_nobody_elses() -> None:
    owners = Owners()
    first = owners.number("first")
    for i in range(20_000):
        assert owners.number(str(i)) != first
        if i % 1000 == 0:
            assert owners.number("first") == first


def test_states_on_disk_outlive_the_process(tmp_path: Path) -> None:
    key = key_of(some(100))
    saved = SavedStates(1000, PrefixFiles(tmp_path, "model", 10_000))
    saved.put(key, state(b"keys and values"))
    saved.close()
    later = SavedStates(1000, PrefixFiles(tmp_path, "model", 10_000))
    assert later.longest(tokens_of(key)[:80]) == Match(key, 80)
    found = later.get(key)
    assert found is not None
    assert found.tobytes() == b"keys and values"


def one_file(folder: Path, identity: str = "model") -> tuple[bytes, Path]:
    key = key_of(some(100))
    PrefixFiles(folder, identity, 100_000).put(key, state(bytes(range(256)) * 4))
    return key, next(folder.glob("*/*.kv"))


@pytest.mark.parametrize("place", [0, 9, 13, 17, 30, 200, 600, -40, -1])
def test_a_damaged_file_is_deleted_and_never_used(tmp_path: Path, place: int) -> None:
    key, path = one_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    files = PrefixFiles(tmp_path, "model", 100_000)
    match = files.longest(tokens_of(key))
    assert files.get(match.key) is None
    assert not path.exists()
    assert files.longest(tokens_of(key)).shared == 0


@pytest.mark.parametrize("length", [0, 5, 28, 100, 700])
def test_a_file_cut_short_is_deleted(tmp_path: Path, length: int) -> None:
    key, path = one_file(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    files = PrefixFiles(tmp_path, "model", 100_000)
    assert len(files) == 0
    assert not path.exists()
    files.put(key, state(b"again"))
    found = files.get(key)
    assert found is not None
    assert found.tobytes() == b"again"


def test_a_file_that_another_process_deletes_at_once_is_counted_and_missed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.engine.files._write", lambda path, blocks: None)
    files, key = PrefixFiles(tmp_path, "model", 100_000), key_of(some(100))
    files.put(key, state(b"gone"))
    assert files.bytes == files.expected_size(100, 4)
    assert files.get(key) is None
    assert files.longest(tokens_of(key)).shared == 0


def test_a_file_damaged_while_it_is_known_is_deleted(tmp_path: Path) -> None:
    key, path = one_file(tmp_path)
    files = PrefixFiles(tmp_path, "model", 100_000)
    path.write_bytes(b"")
    assert files.get(key) is None
    assert not path.exists()


def test_another_models_files_are_not_seen_and_foreign_ones_deleted(tmp_path: Path) -> None:
    key, path = one_file(tmp_path)
    other = PrefixFiles(tmp_path, "another", 100_000)
    assert (len(other), other.get(key)) == (0, None)
    assert path.exists()
    other.put(key, state(b"its own"))
    (folder,) = {p.parent for p in tmp_path.glob("*/*.kv")} - {path.parent}
    stray = folder / path.name
    stray.write_bytes(path.read_bytes())
    assert len(PrefixFiles(tmp_path, "another", 100_000)) == 0
    assert not stray.exists()


def test_states_belong_to_weights_build_and_settings(tmp_path: Path) -> None:
    path, context = tmp_path / "model.gguf", FakeContext()
    path.write_bytes(b"GGUF weights")
    os.utime(path, (100, 100))
    identities = [identity_of(path, context, "b1")]
    assert identity_of(path, FakeContext(cells=64), "b1") == identities[0], "a context of any length may use them"
    identities.append(identity_of(path, context, "b2"))
    context.identity = "k8 v8 f1"
    identities.append(identity_of(path, context, "b1"))
    os.utime(path, (200, 200))
    identities.append(identity_of(path, context, "b1"))
    path.write_bytes(b"GGUF others!")
    os.utime(path, (200, 200))
    identities.append(identity_of(path, context, "b1"))
    assert len(set(identities)) == 5


def test_the_budget_is_kept_across_models_by_last_use(tmp_path: Path) -> None:
    size = 28 + 1 + 40 + 1000 + 32
    first, second = PrefixFiles(tmp_path, "a", 4 * size), PrefixFiles(tmp_path, "b", 4 * size)
    keys = [key_of(some(10, first_token)) for first_token in range(1, 6)]
    for i, key in enumerate(keys[:4]):
        (first if i % 2 else second).put(key, state(bytes(1000)))
        os.utime(max(tmp_path.glob("*/*.kv"), key=lambda p: p.stat().st_mtime_ns), (i, i))
    assert second.get(keys[0]) is not None  # used now: it stays
    fresh = PrefixFiles(tmp_path, "a", 4 * size)
    fresh.put(keys[4], state(bytes(1000)))
    left = {p.parent.name for p in tmp_path.glob("*/*.kv")}
    assert fresh.bytes <= 4 * size * 0.9
    assert second.get(keys[0]) is not None
    assert fresh.get(keys[4]) is not None
    assert len(left) == 2
    assert fresh.get(keys[1]) is None


def test_what_another_process_reads_ahead_is_found_while_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.engine.files.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("rag.engine.files.FOUND_AT_ONCE", 2)
    here, other = (PrefixFiles(tmp_path, "model", 10_000) for _ in range(2))
    assert here.longest(tokens(1, 2)).shared == 0
    for i in range(3):
        other.put(key_of(tokens(i, i)), state(b"read ahead"))
        os.utime(other.folder, ns=(1, 10**18 + i))  # on a fast disk two files have one stamp
    for _ in range(2):
        here.longest(tokens(0))
    found = here.longest(tokens(2, 2, 5))
    assert (found.shared, len(here), here.bytes) == (2, 3, other.bytes)
    content = here.get(found.key)
    assert content is not None
    assert content.tobytes() == b"read ahead"


def test_many_files_that_leave_are_not_looked_for_among_all(tmp_path: Path) -> None:
    """A tenth of them leaves at once, in the thread that writes the answers."""
    files = PrefixFiles(tmp_path, "model", 10**12)
    places = [files.folder / f"{i}.kv" for i in range(20_000)]
    for i, place in enumerate(places):
        files._note(key_of(tokens(i, i)), place)
    began = time.process_time()
    for place in places[::100]:
        files._delete(place)
    assert time.process_time() - began < 0.5  # 3 s where each is looked for
    assert len(files) == 19_800
    assert files.longest(tokens(100, 100)).shared == 0
    assert files.longest(tokens(101, 101)).shared == 2


def test_a_disk_that_fails_costs_nothing_but_the_state(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    files = PrefixFiles(tmp_path / "file", "model", 1000)
    files.put(key_of(some(10)), state(b"x"))
    assert len(files) == 0


def read(context: FakeContext, prefixes: Prefixes, asked: TokenArray) -> tuple[int, int]:
    """Take a sequence and fill it; return it and what it knew."""
    from rag.engine.context import Part

    sequence = prefixes.take()
    assert sequence is not None
    known = prefixes.begin(sequence, asked[:-1], [])
    context.read([Part(sequence, known, asked[known:], 1)])
    assert context.tokens(sequence) == asked.tolist()
    return sequence, known


def test_a_prefix_that_left_the_context_comes_back_from_memory() -> None:
    context = FakeContext(batch=1000, sequences=8)
    prefixes = Prefixes(context, SavedStates(1 << 20), cells=250)
    passages = [some(200, first) for first in (1, 2, 3)]
    for passage in passages:
        asked = np.append(passage, some(20)).astype(np.int32)
        sequence, known = read(context, prefixes, asked)
        assert known == 0
        prefixes.keep(sequence, asked, keep=200)
    kept = PrefixCounters(
        misses=3, context=PrefixTier(0, 0, 1, 4 * 220), memory=PrefixTier(0, 0, 2, 2 * 4 * 200), disk=PrefixTier()
    )
    assert prefixes.counters() == kept
    asked = np.append(passages[0], some(20)).astype(np.int32)
    assert read(context, prefixes, asked)[1] == 200
    assert prefixes.counters() == replace(kept, memory=replace(kept.memory, hits=1, tokens=200))


def test_a_state_comes_back_also_where_idle_prefixes_must_make_room() -> None:
    context = FakeContext(cells=700, batch=1000, sequences=8)
    prefixes = Prefixes(context, SavedStates(1 << 20), cells=660)
    passages = [some(200, first) for first in (1, 2, 3, 4)]
    for passage in passages:
        asked = np.append(passage, some(20)).astype(np.int32)
        while context.used() + len(asked) > context.cells:
            assert prefixes.drop_oldest()
        sequence, _ = read(context, prefixes, asked)
        prefixes.keep(sequence, asked, keep=200)
    assert context.used() == 660
    sequence = prefixes.take()
    assert sequence is not None
    assert prefixes.begin(sequence, passages[0], []) == 200
    assert context.tokens(sequence) == passages[0].tolist()
    assert (prefixes.counters().context.states, prefixes.counters().memory.hits) == (2, 1)


def test_what_is_found_is_counted_where_it_was_found(tmp_path: Path) -> None:
    passage, size = some(200), 28 + 1 + 4 * 200 + 4 * 200 + 32
    PrefixFiles(tmp_path, "m", 10_000).put(key_of(passage), passage.view(np.uint8))
    prefixes = Prefixes(
        FakeContext(batch=1000, sequences=8), SavedStates(1 << 20, PrefixFiles(tmp_path, "m", 10_000)), cells=500
    )
    on_disk = PrefixTier(0, 0, 1, size)
    assert prefixes.counters() == PrefixCounters(disk=on_disk)
    assert prefixes.begin(0, passage, []) == 200
    from_disk, copied = replace(on_disk, hits=1, tokens=200), PrefixTier(0, 0, 1, 4 * 200)
    assert prefixes.counters() == PrefixCounters(disk=from_disk, memory=copied)
    assert prefixes.begin(1, passage[:150], []) == 150, "no longer from the disk"
    found = replace(copied, hits=1, tokens=150)
    assert prefixes.counters() == PrefixCounters(disk=from_disk, memory=found)
    assert prefixes.begin(2, passage[:120], [(0, passage)]) == 120
    assert prefixes.begin(3, some(90, first=60), [(0, passage)]) == 0
    in_context = PrefixTier(hits=1, tokens=120)
    assert prefixes.counters() == PrefixCounters(1, context=in_context, disk=from_disk, memory=found)


def test_one_passage_with_another_question_takes_its_place() -> None:
    context = FakeContext(batch=1000, sequences=8)
    prefixes = Prefixes(context, SavedStates(1 << 20), cells=2000)
    passage = some(200)
    for first in (2, 3, 4):
        asked = np.append(passage, some(20, first)).astype(np.int32)
        sequence, _ = read(context, prefixes, asked)
        prefixes.keep(sequence, asked, keep=200)
    assert (prefixes.counters().context.states, prefixes.counters().context.bytes) == (1, 4 * 220)
    assert context.used() == 220


def test_cells_that_idle_sequences_share_are_weighed_once() -> None:
    context = FakeContext(batch=1000, sequences=8)
    prefixes = Prefixes(context, SavedStates(0), cells=2000)
    head = some(100)
    for first in (2, 3):
        sequence, _ = read(context, prefixes, np.append(head, some(200, first)).astype(np.int32))
        prefixes.keep(sequence, tokens(*context.tokens(sequence)), keep=300)
    assert prefixes.counters().context == PrefixTier(1, 100, 2, 4 * 500)
    prefixes.drop_oldest()
    assert prefixes.counters().context == PrefixTier(1, 100, 1, 4 * 300)
    prefixes.forget()
    assert prefixes.counters().context == PrefixTier(1, 100, 0, 0)


def test_sequences_run_out_only_where_all_are_in_use() -> None:
    context = FakeContext(sequences=4)
    prefixes = Prefixes(context, SavedStates(0), cells=2000)
    taken = [read(context, prefixes, some(70, first))[0] for first in (1, 2, 3)]
    assert prefixes.take() is None
    prefixes.keep(taken[0], tokens(*context.tokens(taken[0])), keep=70)
    assert prefixes.take() == taken[0]
    assert context.tokens(taken[0]) == []
