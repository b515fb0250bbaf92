from pathlib import Path

import pytest

from rag.config import load_settings
from rag.errors import ConfigError


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[server]\nport = 1111\nhost = "127.0.0.2"\nqueue = 3\n')
    monkeypatch.setenv("SMALLHOLD_SERVER__PORT", "2222")
    monkeypatch.setenv("SMALLHOLD_SERVER__HOST", "127.0.0.3")
    server = load_settings(file, {"server": {"port": 3333}}).server
    assert (server.port, server.host, server.queue) == (3333, "127.0.0.3", 3)


def test_the_file_may_lie_in_the_working_directory_or_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings().server.queue == 16
    Path("smallhold.toml").write_text("[server]\nqueue = 5\n")
    assert load_settings().server.queue == 5
    Path("other.toml").write_text("[server]\nqueue = 6\n")
    monkeypatch.setenv("SMALLHOLD_CONFIG", "other.toml")
    assert load_settings().server.queue == 6


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1\n", "server.prot"),
        ("[sever]\nport = 1\n", "sever"),
        ("[server]\nport = 99999\n", "server.port"),
        ("[server\n", "not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_settings(file)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_no_utf8_is_told(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[index]\ndir = "Bücher"\n', encoding=encoding)
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(file)


@pytest.mark.parametrize("name", ["SMALLHOLD_SERVER__PROT", "SMALLHOLD_SEVER__PORT", "SMALLHOLD_PORT"])
def test_unknown_variables_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError):
        load_settings()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load_settings(tmp_path / "none.toml")
