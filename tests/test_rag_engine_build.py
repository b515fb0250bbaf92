"""Which process the settings put a server's model into."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rag import build, serve
from rag.config import load_settings
from rag.datatypes import PrefixCounters
from rag.engine.frames import pack_options, unpack_options
from rag.models import ModelStore
from rag.probe import Finding
from rag.registry import Registry
from rag.remote import EndpointGenerator
from rag.tuning import UNTUNED, Tuning


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was made, instead of making it."""
    made: list[tuple[Any, ...]] = []
    for name in ("GuardedGenerator", "LlamaGenerator", "LlamaVocabulary"):
        monkeypatch.setattr(build, name, lambda *args, name=name, **kwargs: made.append((name, args, kwargs)))
    monkeypatch.setattr(build, "local_model", lambda settings, store: build.LocalModel(Path("m.gguf"), UNTUNED, ""))
    monkeypatch.setattr(build, "look", lambda path, memory: Finding(repacked=False, int8=True))
    return made


def served(tmp_path: Path, **generator: Any) -> Any:
    settings = load_settings(None, {"generator": {"context": 512, **generator}})
    return build.build_served_generator(settings, ModelStore(Registry(model=()), tmp_path))


def test_a_served_model_has_a_process_of_its_own(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    served(tmp_path)
    options = {
        "path": "m.gguf",
        "context": 512,
        "threads": 0,
        "extra_buffers": False,
        "int8": True,
        "tuning": UNTUNED.model_dump(),
        "sequences": 4,
        "prefix_bytes": 256_000_000,
        "prefix_folder": None,
        "folder_bytes": 0,
        "build": build.build_key(),
    }
    guarded = ("GuardedGenerator", (options, None), {"timeout": 120.0})
    assert made == [("LlamaVocabulary", (Path("m.gguf"),), {}), guarded]


def test_unless_the_settings_forbid_it(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    served(tmp_path, worker=False)
    ((name, _, options),) = made
    assert options["sequences"] == 4
    assert (name, options["path"]) == ("LlamaGenerator", Path("m.gguf"))


def test_or_it_is_somewhere_else(made: list[tuple[Any, ...]], tmp_path: Path) -> None:
    generator = served(tmp_path, endpoint="http://127.0.0.1:1/v1")
    assert isinstance(generator, EndpointGenerator)
    assert made == []
    generator.close()


def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, generator: Any) -> serve.Service:
    parts = SimpleNamespace(
        embed=lambda texts: None,
        documents=list,
        segments=list,
        document=None,
        masks=SimpleNamespace(rows=lambda view: None),
        manifest=SimpleNamespace(created=None, counts=SimpleNamespace(documents=0, chunks=0)),
        generation="000001",
        close=lambda: None,
        stream=None,
        retrieve=None,
    )
    for name in ("build_embedder", "build_pipeline", "build_retriever"):
        monkeypatch.setattr(serve, name, lambda *args: parts)
    monkeypatch.setattr(serve, "open_index", lambda *args: nullcontext(parts))
    monkeypatch.setattr(serve, "build_served_generator", lambda *args: generator)
    return serve.load_service(load_settings(None, {"models": {"dir": tmp_path}}))


def test_a_server_asks_the_model_for_its_counters_wherever_it_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generator = SimpleNamespace(prefixes=lambda: PrefixCounters(3), close=lambda: None)
    asked = service(monkeypatch, tmp_path, generator).prefixes
    assert asked is not None
    assert asked() == PrefixCounters(3)
    endpoint = EndpointGenerator("http://127.0.0.1:1/v1", "m")
    assert service(monkeypatch, tmp_path, endpoint).prefixes is None
    endpoint.close()


def test_what_goes_to_the_process_comes_out_of_the_json_again(tmp_path: Path) -> None:
    options = {
        "path": Path("m.gguf"),
        "tuning": Tuning(batch=64, micro_batch=32),
        "prefix_folder": tmp_path,
        "build": "b",
    }
    assert unpack_options(json.loads(json.dumps(pack_options(options)))) == options


@pytest.mark.parametrize(("setting", "expected"), [(None, 3), (0, 0), (5, 5)])
def test_guessing_ahead_is_as_tuned_unless_it_is_set(
    made: list[tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: int | None,
    expected: int,
) -> None:
    local = build.LocalModel(Path("m.gguf"), Tuning(batch=64, micro_batch=64, lookup=3), "")
    monkeypatch.setattr(build, "local_model", lambda settings, store: local)
    served(tmp_path, worker=False, lookup=setting)
    assert made[0][2]["tuning"] == Tuning(batch=64, micro_batch=64, lookup=expected)
