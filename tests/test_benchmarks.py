"""What `make bench` runs: each measurement is there, teaches how it is used, and needs no arguments."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Told to help, a script ends before it measures; one process for all, as most import the same large libraries.
HELP_OF_ALL = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    print("==", name)
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"benchmarks.{name}").main()
"""


def measurements() -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^BENCH := (.*)$", makefile, re.MULTILINE)
    return re.findall(r"\w+", re.sub(r"\$\(and \$\(wildcard [^)]*\)[\w/]*\),(\w+)\)", r"\1", line))


@pytest.fixture(scope="module")
def help_texts() -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, *measurements()], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    parts = re.split(r"^== (\w+)\n", done.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_makefile_names_measurements_that_exist() -> None:
    assert {"retrieval", "embedding", "poisoning", "formats", "followup", "scale"} <= set(measurements())
    assert [name for name in measurements() if not (ROOT / "benchmarks" / f"{name}.py").is_file()] == []


def test_each_says_how_it_is_used(help_texts: dict[str, str]) -> None:
    assert list(help_texts) == measurements()
    silent = [name for name, text in help_texts.items() if f"python -m benchmarks.{name}" not in text]
    assert silent == []


def test_each_runs_without_arguments(help_texts: dict[str, str]) -> None:
    wanted = {}
    for name, text in help_texts.items():
        usage = text.partition("\n\n")[0].partition("usage: ")[2]
        optional = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", usage)).split()
        if len(optional) > 1:  # the first is the script's own name
            wanted[name] = optional[1:]
    assert wanted == {}
