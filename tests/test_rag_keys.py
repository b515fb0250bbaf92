import json
import os
import re
import resource
import stat
from pathlib import Path

import pytest

from rag.errors import InvalidRequest, KeysDamaged, Unauthorized, Unavailable
from rag.keys import Key, Keyring, create_key, load_keys, revoke_key
from tests.conftest import Command, smallhold


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "keys.json"


def test_only_the_hash_of_a_key_is_kept(path: Path) -> None:
    made = create_key(path, "laptop", tokens_per_day=500, allow=["staff", "board", "staff"])
    assert re.fullmatch(r"shk-[0-9a-f]{8}-[\w-]{43}", made.text)  # 43 characters of base64: 32 bytes
    secret = made.text.split("-", 2)[2]
    assert secret not in path.read_text()
    assert secret not in repr(made.key)
    assert made.key.sha256 not in repr(made.key)
    (kept,) = load_keys(path)
    assert kept == made.key
    assert (kept.label, kept.tokens_per_day, kept.allow, kept.revoked) == ("laptop", 500, ("staff", "board"), None)
    assert Keyring(path).identify(made.text) == made.key


def test_the_hash_is_sha256_of_the_whole_key(path: Path) -> None:
    # Worked by hand: printf %s shk-00000001-secret | sha256sum
    digest = "ccde67c8d0c37fe0ecf146ee4ef4520cdfd320884f76963e2d07cc8e71c52ffd"
    path.parent.mkdir()
    row = {"id": "00000001", "label": "a", "sha256": digest, "created": "2026-01-01T00:00:00Z"}
    path.write_text(json.dumps({"version": 1, "keys": [row]}))
    assert Keyring(path).identify("shk-00000001-secret").label == "a"
    with pytest.raises(Unauthorized, match="not known"):
        Keyring(path).identify("shk-00000001-secreu")


def test_the_file_is_private_and_replaced_whole(path: Path) -> None:
    create_key(path, "a")
    before = path.stat().st_ino
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    create_key(path, "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_ino != before
    assert sorted(file.name for file in path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_write_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_key(path, "a")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        create_key(path, "b")
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == [".keys.json.lock", "keys.json"]


def test_a_key_that_differs_anywhere_is_not_known(path: Path) -> None:
    text = create_key(path, "a").text
    ring = Keyring(path)
    for at in range(len(text)):
        other = text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :]
        with pytest.raises(Unauthorized):
            ring.identify(other)
    for odd in ("", "-", "--", "shk-", text[:-1], text + "x", text.upper(), f" {text}", "shk-\udcff-\udcff", "é" * 50):
        with pytest.raises(Unauthorized):
            ring.identify(odd)


def test_a_keyring_follows_its_file(path: Path) -> None:
    ring = Keyring(path)
    with pytest.raises(Unauthorized):
        ring.identify("shk-00000001-secret")
    first = create_key(path, "first")
    second = create_key(path, "second")
    assert ring.identify(first.text).label == "first"
    assert ring.identify(second.text).label == "second"
    revoke_key(path, "first")
    with pytest.raises(Unauthorized, match="revoked"):
        ring.identify(first.text)
    assert ring.identify(second.text).label == "second"
    path.unlink()
    with pytest.raises(Unauthorized, match="not known"):
        ring.identify(second.text)


def test_a_file_is_read_again_only_when_it_has_changed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = create_key(path, "a").text
    ring = Keyring(path)
    ring.identify(text)
    monkeypatch.setattr(Key, "model_validate", None)
    monkeypatch.setattr("rag.keys.load_keys", None)
    ring.identify(text)


def test_where_the_file_cannot_be_read_nobody_is_let_in_and_the_log_says_why(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = create_key(path, "a").text
    ring = Keyring(path)
    ring.identify(text)
    whole = path.read_text()
    path.write_text(whole[:-10])
    for _ in range(3):
        with pytest.raises(KeysDamaged) as refused:
            ring.identify(text)
        assert str(path) not in str(refused.value)
    (record,) = caplog.records  # once, not for every request
    assert str(path) in record.getMessage()
    path.write_text(whole)
    assert ring.identify(text).label == "a"


def test_a_file_that_the_system_refused_is_read_once_it_is_allowed(path: Path) -> None:
    """As where too many files were open, or it was somebody else's: neither mending changes the file."""
    text = create_key(path, "a").text
    ring = Keyring(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(KeysDamaged):
            ring.identify(text)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ring.identify(text).label == "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "keys": []}',
        '{"version": 1, "keys": [{"id": "00000001", "label": "a", "sha256": "beef", "created": "2026-01-01"}]}',
        '{"version": 1, "keys": [], "more": 1}',
    ],
)
def test_a_damaged_file_is_named_and_not_quoted(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(KeysDamaged) as refused:
        load_keys(path)
    assert str(path) in str(refused.value)
    assert "smallhold keys create" in refused.value.hint
    assert "beef" not in str(refused.value)
    with pytest.raises(KeysDamaged):  # and is not written over
        create_key(path, "b")
    assert path.read_text() == text


def test_labels_name_one_key_in_use(path: Path) -> None:
    first = create_key(path, "a").key
    with pytest.raises(InvalidRequest, match="already"):
        create_key(path, "a")
    assert revoke_key(path, "a").id == first.id
    second = create_key(path, "a").key
    assert revoke_key(path, second.id).id == second.id
    assert all(key.revoked is not None for key in load_keys(path))
    for gone in ("a", first.id, "never"):
        with pytest.raises(InvalidRequest, match="no key"):
            revoke_key(path, gone)


@pytest.mark.parametrize("label", ["", " a", "a\n", "\x1b[31mred", "-a", "x" * 65, "a,b"])
def test_what_is_no_label(path: Path, label: str) -> None:
    with pytest.raises(InvalidRequest, match="no label"):
        create_key(path, label)
    with pytest.raises(InvalidRequest, match="no label"):
        create_key(path, "good", allow=[label])
    assert load_keys(path) == ()


def test_a_key_may_hold_all_labels_and_none_is_called_so(path: Path) -> None:
    assert create_key(path, "admin", allow=["*"]).key.allow == ("*",)
    with pytest.raises(InvalidRequest, match="no label"):
        create_key(path, "*")


# The command line


def test_keys_are_made_listed_and_revoked(tmp_path: Path, command: Command) -> None:
    made = smallhold("keys", "create", "--label", "laptop", "--budget-tokens-per-day", "500", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()  # the key alone, for a script to take
    assert re.fullmatch(r"shk-[0-9a-f]{8}-[\w-]{43}", text)
    assert text not in made.stderr
    assert "not shown again" in made.stderr
    other = command("keys", "create", "--label", "b", "--allow", "x", "--allow", "y", "--json")
    row = json.loads(other.stdout)
    assert (row["label"], row["allow"], row["tokens_per_day"]) == ("b", ["x", "y"], None)
    assert "sha256" not in row

    listed = json.loads(command("keys", "list", "--json").stdout)
    assert [(k["label"], k["tokens_per_day"], k["tokens_today"]) for k in listed] == [
        ("laptop", 500, 0),
        ("b", None, None),
    ]
    shown = command("keys", "list").stdout
    assert "laptop" in shown and "x, y" in shown and "500" in shown
    for out in (json.dumps(listed), shown):
        assert text.split("-", 2)[2] not in out

    path = tmp_path / ".smallhold" / "keys.json"
    assert Keyring(path).identify(text).label == "laptop"
    gone = command("keys", "revoke", "laptop")
    assert gone.returncode == 0
    with pytest.raises(Unauthorized, match="revoked"):
        Keyring(path).identify(text)
    again = command("keys", "revoke", "laptop")
    assert again.returncode == 2
    assert "smallhold keys list" in again.stderr


def test_a_path_with_brackets_is_no_markup(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALLHOLD_SERVER__KEYS", "[/old]/keys.json")
    for arguments in (("create", "--label", "laptop"), ("list",)):
        done = command("keys", *arguments)
        assert done.returncode == 0, done.stderr
        assert "in [/old]/keys.json" in done.stderr
