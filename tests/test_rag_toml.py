from pathlib import Path

import pytest

from rag.toml import MOST_BYTES, read_toml


def test_a_table_is_read_to_the_last_allowed_byte(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('name = "ö"\n' + "#" * (MOST_BYTES - 12))
    assert file.stat().st_size == MOST_BYTES
    assert read_toml(file) == {"name": "ö"}
    file.write_text(file.read_text() + "#")
    with pytest.raises(ValueError, match="it is larger than 100,000 bytes"):
        read_toml(file)


@pytest.mark.parametrize("content", [b"name = ", b'name = "\xff"'])
def test_what_is_no_toml_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(ValueError, match=r"Invalid|utf-8"):
        read_toml(tmp_path / "a.toml")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        read_toml(tmp_path / "a.toml")
