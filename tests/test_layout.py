"""What keeps the code base in its shape: the direction of imports, and documents that tell the truth."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from rag.config import Settings
from tests.conftest import REPOSITORY

PACKAGES = ("rag", "indexer", "eval")
# rag's modules from the ground up; each may import what stands before it.
HEAVY = {
    "faiss",
    "torch",
    "llama_cpp",
    "sentence_transformers",
    "transformers",
    "bm25s",
    "pypdfium2",
    "mammoth",
    "sklearn",
}


def imports(file: Path, *, top_level: bool = False) -> set[str]:
    """The modules that a file imports, anywhere or at its top level only (type checking aside)."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    named = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return named | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}


def sources(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


@pytest.mark.parametrize(
    ("package", "forbidden"), [("rag", {"indexer", "eval"}), ("indexer", {"eval"}), ("eval", {"indexer"})]
)
def test_imports_point_one_way(package: str, forbidden: set[str]) -> None:
    found = {
        f"{file.name} imports {module}"
        for file in sources(package)
        if not file.name.startswith("cli")
        for module in imports(file)
        if module.split(".")[0] in forbidden
    }
    assert found == set()


def test_stages_do_not_know_who_assembles_them() -> None:
    assemblers = {"rag.build", "rag.cli", "rag.serve", "rag.doctor", "rag.app"}
    for name in ("retrieve", "evidence", "prompt", "cite", "abstain", "embedder", "index", "pipeline"):
        found = imports(REPOSITORY / "rag" / f"{name}.py")
        assert found & assemblers == set(), name
        assert "rag.config" not in found, name


def test_the_engine_stands_on_the_records_alone() -> None:
    allowed = {"rag.chat_template", "rag.datatypes", "rag.errors", "rag.machine", "rag.protocols", "rag.tuning"}
    for file in (REPOSITORY / "rag" / "engine").glob("*.py"):
        inside = {module for module in imports(file) if module.startswith("rag.") and "rag.engine" not in module}
        assert inside <= allowed, file.name


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    found = {
        f"{file.relative_to(REPOSITORY)} imports {module}"
        for package in PACKAGES
        for file in sources(package)
        for module in imports(file, top_level=True)
        if module.split(".")[0] in HEAVY
    }
    assert found <= {"indexer/load_docx.py imports mammoth", "indexer/load_pdf.py imports pypdfium2"}


@cache
def commands() -> dict[str, click.Command]:
    """Every command of the command line by its full name."""
    from rag.cli import app, mount_eval

    mount_eval()
    found: dict[str, click.Command] = {}

    def walk(prefix: str, command: click.Command) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[prefix] = command
        for name, child in (inner or {}).items():
            walk(f"{prefix} {name}", child)

    walk("smallhold", typer.main.get_command(app))
    return found


def documents() -> list[Path]:
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def test_every_command_is_documented() -> None:
    text = "\n".join(file.read_text(encoding="utf-8") for file in documents())
    assert [name for name in commands() if name not in text] == []


def test_every_setting_is_documented() -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    missing = [
        f"{section}.{key}"
        for section, field in Settings.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
        if f"`{section}.{key}`" not in text
    ]
    assert missing == []


def shown_commands() -> list[tuple[str, str]]:
    """Each line of a document that shows a command of ours."""
    shown = []
    for file in documents():
        for line in file.read_text(encoding="utf-8").splitlines():
            if match := re.match(
                r"^(?:    |\$ )(?:\.venv/bin/)?(smallhold [a-z].*?)(?:\s{2,}#.*|\s{2,}[a-z].*)?$", line
            ):
                shown.append((file.name, match[1]))
    return shown


@pytest.mark.parametrize(("document", "line"), shown_commands())
def test_shown_commands_exist_with_their_options(document: str, line: str) -> None:
    words = shlex.split(line)
    known = commands()
    name = max((n for n in known if line.startswith(n)), key=len, default="")
    assert name, f"{document}: no such command: {line}"
    options = {o for p in known[name].params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    assert [w for w in words if w.startswith("--") and w not in options] == [], f"{document}: {line}"


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for file in documents():
        for target in re.findall(r"\]\(([^)#]+)", file.read_text(encoding="utf-8")):
            if not target.startswith("http") and not (file.parent / target).exists():
                broken.append(f"{file.name}: {target}")
    assert broken == []
