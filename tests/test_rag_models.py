import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rag.errors import ConfigError, ModelDamaged, ModelMissing, UnknownModel
from rag.models import ModelStore
from rag.registry import ModelSpec, Registry, load_registry
from rag.sources import local_files

CONTENT = b"first half, second half"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def spec(*sources: dict[str, object], sha256: str = SHA256) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "kind": "generator",
            "license": "Apache-2.0",
            "about": "",
            "files": [{"path": "m.gguf", "sha256": sha256}],
            "source": list(sources),
        }
    )


def store(tmp_path: Path, *sources: dict[str, object], sha256: str = SHA256) -> ModelStore:
    return ModelStore(Registry(model=(spec(*sources, sha256=sha256),)), tmp_path / "store")


def weights(tmp_path: Path, content: bytes = CONTENT) -> dict[str, object]:
    (tmp_path / "w.gguf").write_bytes(content)
    return {"path": str(tmp_path / "w.gguf")}


def test_weights_are_checked_kept_and_found_again(tmp_path: Path) -> None:
    models = store(tmp_path, weights(tmp_path))
    model = models.locate("m")
    assert model.file.read_bytes() == CONTENT
    (tmp_path / "w.gguf").unlink()
    assert models.locate("m") == model
    assert sorted(p.name for p in model.path.iterdir()) == ["m.gguf", "verified.json"]


def test_other_weights_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    models = store(tmp_path, weights(tmp_path, b"something else"))
    with pytest.raises(ModelDamaged, match=f"its SHA-256 is .*, the registry's is {SHA256}"):
        models.locate("m")
    with pytest.raises(ModelMissing, match="refused"):
        models.pull("m")
    assert not models.is_kept("m")
    assert [p.name for p in (tmp_path / "store").iterdir() if not p.name.endswith(".lock")] == []


def test_weights_that_changed_on_the_disk_are_refused_then_replaced_by_a_pull(tmp_path: Path) -> None:
    models = store(tmp_path, weights(tmp_path))
    kept = models.locate("m").file
    kept.write_bytes(b"x" * len(CONTENT))
    os.utime(kept, ns=(1, 1))
    with pytest.raises(ModelDamaged, match="models pull m"):
        models.locate("m")
    assert models.pull("m").file.read_bytes() == CONTENT


def test_verify_hashes_even_what_looks_unchanged(tmp_path: Path) -> None:
    models = store(tmp_path, weights(tmp_path))
    kept = models.locate("m").file
    before = kept.stat()
    kept.write_bytes(b"x" * len(CONTENT))
    os.utime(kept, ns=(before.st_atime_ns, before.st_mtime_ns))
    models.locate("m")  # size and time are those of the verified file
    with pytest.raises(ModelDamaged):
        models.verify("m")


def test_sources_are_tried_in_order_and_all_answers_are_told(tmp_path: Path) -> None:
    missing = {"path": str(tmp_path / "nowhere.gguf")}
    assert store(tmp_path, missing, weights(tmp_path)).pull("m").file.read_bytes() == CONTENT
    with pytest.raises(ModelMissing, match=r"nowhere\.gguf: not there"):
        store(tmp_path / "b", missing).pull("m")


def test_missing_weights_name_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="smallhold models pull m"):
        store(tmp_path, {"hub": "someone/something"}).locate("m")


def test_unpinned_weights_are_taken_only_on_demand_and_pinned_then(tmp_path: Path) -> None:
    models = store(tmp_path, weights(tmp_path), sha256="")
    with pytest.raises(ModelMissing, match="--accept-unpinned"):
        models.pull("m")
    models.pull("m", accept_unpinned=True)
    assert json.loads((tmp_path / "store/m/pins.json").read_text()) == {"m.gguf": SHA256}
    (tmp_path / "store/m/m.gguf").write_bytes(b"changed later")
    with pytest.raises(ModelDamaged):
        models.verify("m")


def distribution(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """Unpack a distribution the way pip does; its code would raise if it were run."""
    package = name.replace("-", "_")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("raise SystemError('code of a weights package was run')")
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def test_parts_in_distributions_are_joined_in_order_without_running_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "w-part2", {"w_part2/data/b.bin": CONTENT[10:]})
    distribution(tmp_path, "w-part1", {"w_part1/data/a.bin": CONTENT[:10]})
    monkeypatch.syspath_prepend(str(tmp_path))
    source = {
        "distributions": ["w-part1==1.0", "w-part2==1.0"],
        "parts": ["w_part1/data/a.bin", "w_part2/data/b.bin"],
    }
    assert store(tmp_path, source).locate("m").file.read_bytes() == CONTENT


def test_another_version_of_a_distribution_is_not_taken(tmp_path: Path) -> None:
    distribution(tmp_path, "w", {"w/m.gguf": CONTENT})
    found = spec({"distributions": ["w==1.0"], "folder": "w"})
    other = spec({"distributions": ["w==1.1"], "folder": "w"})
    assert local_files(found, found.source[0], tmp_path) == {"m.gguf": [tmp_path / "w/m.gguf"]}
    assert local_files(other, other.source[0], tmp_path) == {}


def test_pull_installs_a_wheel_apart_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "smallhold_test_weights-1.0-py3-none-any.whl", "w") as wheel:
        info = "smallhold_test_weights-1.0.dist-info"
        wheel.writestr("smallhold_test_weights/m.gguf", CONTENT)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: smallhold-test-weights\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    source = {"distributions": ["smallhold-test-weights==1.0"], "folder": "smallhold_test_weights"}
    assert store(tmp_path, source).pull("m").file.read_bytes() == CONTENT
    gone = {"distributions": ["smallhold-test-weights==2.0"], "folder": "smallhold_test_weights"}
    with pytest.raises(ModelMissing, match="No matching distribution"):
        store(tmp_path / "b", gone).pull("m")


@pytest.fixture
def adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A store whose model `m` is made of `base` by a stand-in that joins base and quantization."""

    def join(base: Path, adapter: Path, out: Path, quantization: str, done: Callable[[int], None]) -> None:
        assert adapter.name == "reader-0.5b.gguf" and adapter.is_file()
        out.write_bytes(base.read_bytes() + quantization.encode())
        done(1)

    monkeypatch.setattr("rag.models.adapt", join)
    made = hashlib.sha256(CONTENT + b"Q8_0").hexdigest()
    model = spec({"base": "base", "adapter": "reader-0.5b.gguf", "quantization": "Q8_0"}, sha256=made)
    base = spec(weights(tmp_path)).model_copy(update={"name": "base"})
    return ModelStore(Registry(model=(model, base)), tmp_path / "store")


def test_an_adapted_model_is_made_when_it_is_pulled_and_its_base_with_it(adapted: ModelStore) -> None:
    with pytest.raises(ModelMissing, match="models pull m"):
        adapted.locate("m")  # nothing is fetched unasked, not even the base
    assert adapted.pull("m").file.read_bytes() == CONTENT + b"Q8_0"
    assert adapted.is_kept("base")
    assert {p.name for p in adapted.directory.iterdir() if not p.name.startswith(".")} == {"m", "base"}


def test_an_adapted_model_needs_no_network_where_its_base_is(adapted: ModelStore) -> None:
    adapted.pull("base")
    assert adapted.locate("m").file.read_bytes() == CONTENT + b"Q8_0"


def test_an_adapted_model_that_comes_out_other_than_pinned_is_refused(
    adapted: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.models.adapt", lambda base, adapter, out, quantization, done: out.write_bytes(b"other"))
    with pytest.raises(ModelMissing, match="refused"):
        adapted.pull("m")
    assert not adapted.is_kept("m")


def test_base_and_adapter_belong_together() -> None:
    with pytest.raises(ValueError, match="belong together"):
        spec({"base": "base"})


def test_the_shipped_registry_is_sound() -> None:
    registry = load_registry()
    assert {m.name for m in registry.defaults()} == {"all-MiniLM-L6-v2", "qwen2.5-coder-0.5b-reader"}
    assert all(m.pinned for m in registry.defaults())
    assert all(m.license for m in registry.model)
    with pytest.raises(UnknownModel, match=r"Known models: .*smollm2-135m-instruct"):
        registry.get("gpt-17")


@pytest.mark.parametrize(
    "text",
    [
        "[[model]]\nname = 'x'\n",
        "not toml",
        '[[model]]\nname="x"\nkind="generator"\nlicense=""\nabout=""\nfiles=[{path="../../etc/x"}]\nsource=[{hub="a/b"}]',
        '[[model]]\nname="x"\nkind="generator"\nlicense=""\nabout=""\nfiles=[{path="a"}]\nsource=[{hub="a/b",path="c"}]',
        '[[model]]\nname="x"\nkind="generator"\nlicense=""\nabout=""\nfiles=[{path="a",sha256="12"}]\nsource=[{hub="a/b"}]',
    ],
)
def test_a_malformed_registry_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_registry(file)


def test_a_users_own_model_replaces_the_shipped_one_of_that_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[model]]\nname="smollm2-135m-instruct"\nkind="generator"\nlicense="mine"\nabout=""\n'
        'files=[{path="a"}]\nsource=[{path="/a"}]'
    )
    registry = load_registry(file)
    assert registry.get("smollm2-135m-instruct").license == "mine"
    assert len(registry.model) == len(load_registry().model)
