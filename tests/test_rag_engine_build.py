"""Which process the settings put a server's model into."""

from pathlib import Path
from typing import Any

import pytest

from rag import build
from rag.config import load_settings
from rag.models import ModelStore
from rag.registry import Registry
from rag.remote import EndpointGenerator


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was made, instead of making it."""
    made: list[tuple[Any, ...]] = []
    for name in ("GuardedGenerator", "LlamaGenerator", "LlamaVocabulary"):
        monkeypatch.setattr(build, name, lambda *args, name=name, **kwargs: made.append((name, args, kwargs)))
    monkeypatch.setattr(build, "generator_file", lambda settings, store: Path("m.gguf"))
    monkeypatch.setattr(build, "runnable", lambda path, memory: False)
    return made


def served(tmp_path: Path, **generator: Any) -> Any:
    settings = load_settings(None, {"generator": {"context": 512, **generator}})
    return build.build_served_generator(settings, ModelStore(Registry(model=()), tmp_path))


def test_a_served_model_has_a_process_of_its_own(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    served(tmp_path)
    options = {"path": "m.gguf", "context": 512, "threads": 0, "extra_buffers": False}
    assert made == [("LlamaVocabulary", (Path("m.gguf"),), {}), ("GuardedGenerator", (options, None), {})]


def test_unless_the_settings_forbid_it(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    served(tmp_path, worker=False)
    ((name, _, options),) = made
    assert (name, options["path"]) == ("LlamaGenerator", Path("m.gguf"))


def test_or_it_is_somewhere_else(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    generator = served(tmp_path, endpoint="http://127.0.0.1:1/v1")
    assert isinstance(generator, EndpointGenerator)
    assert made == []
    generator.close()
