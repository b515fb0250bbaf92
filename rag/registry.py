"""The model registry as records: which models there are, their files, hashes, licences and sources."""

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rag.errors import ConfigError, UnknownModel


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelFile(_Record):
    """One file of a model. Without `sha256` it is unpinned."""

    path: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-/]*$")
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    bytes: int = 0

    @model_validator(mode="after")
    def _stays_inside(self) -> "ModelFile":
        if ".." in Path(self.path).parts:
            raise ValueError("a model file must lie inside its model's folder")
        return self


class Source(_Record):
    """One place a model can come from; exactly one of `path`, `distributions`, `hub` and `base`.

    `base` names another model of the registry, to which `adapter` (a file of `configs/adapters`) is added; its adapted
    matrices become `quantization` (see `rag.adapter`).
    """

    path: str = ""
    distributions: tuple[str, ...] = ()
    folder: str = ""
    parts: tuple[str, ...] = ()
    hub: str = ""
    revision: str = "main"
    base: str = ""
    adapter: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.\-]*)?$")
    quantization: str = "Q8_0"

    @model_validator(mode="after")
    def _one_kind(self) -> "Source":
        if sum(map(bool, (self.path, self.distributions, self.hub, self.base))) != 1:
            raise ValueError("a source is one of path, distributions, hub and base")
        if bool(self.base) != bool(self.adapter):
            raise ValueError("base and adapter belong together")
        if self.distributions and bool(self.folder) == bool(self.parts):
            raise ValueError("distributions need either folder or parts")
        return self

    def __str__(self) -> str:
        if self.distributions:
            more = f" and {len(self.distributions) - 1} more" if len(self.distributions) > 1 else ""
            return f"distribution {self.distributions[0]}{more}"
        if self.base:
            return f"{self.base} with {self.adapter}"
        return f"hub {self.hub}@{self.revision}" if self.hub else f"path {self.path}"


class ModelSpec(_Record):
    """One model of the registry. `prompt` names the prompt of `configs/prompts` that suits it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
    kind: Literal["embedder", "generator"]
    license: str
    about: str
    default: bool = False
    prompt: str = "extractive"
    files: tuple[ModelFile, ...] = Field(min_length=1)
    source: tuple[Source, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _parts_make_one_file(self) -> "ModelSpec":
        if len(self.files) > 1 and any(s.parts for s in self.source):
            raise ValueError("a source of parts makes one file, and this model has several")
        if any(s.base for s in self.source) and (len(self.files) > 1 or self.kind != "generator"):
            raise ValueError("an adapted model is a generator in one file")
        return self

    @property
    def pinned(self) -> bool:
        """Whether every file has a hash to be checked against."""
        return all(f.sha256 for f in self.files)

    @property
    def bytes(self) -> int:
        """The size of all files, 0 where it is not known."""
        return sum(f.bytes for f in self.files)


class Registry(_Record):
    """All known models. `get` finds one by name."""

    model: tuple[ModelSpec, ...]

    def get(self, name: str) -> ModelSpec:
        """Return the model of that name. Raises `UnknownModel` listing those there are."""
        for spec in self.model:
            if spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in self.model)
        raise UnknownModel(f"there is no model {name!r} in the registry", hint=f"Known models: {known}.")

    def base_of(self, name: str) -> str:
        """Return the model that the one of that name was adapted from, "" where it was adapted from none."""
        sources = [source for spec in self.model if spec.name == name for source in spec.source]
        return next((source.base for source in sources if source.base), "")

    def defaults(self) -> list[ModelSpec]:
        """Return the models that an installation starts with."""
        return [spec for spec in self.model if spec.default]


def load_registry(extra: Path | None = None) -> Registry:
    """Read the shipped registry, with a user's own file over it: a model of the same name replaces the shipped one.

    Raises `ConfigError` naming the file and what is wrong in it.
    """
    shipped = _read(resources.files("configs") / "models.toml")
    own = _read(extra) if extra else Registry(model=())
    names = {spec.name for spec in own.model}
    return Registry(model=own.model + tuple(spec for spec in shipped.model if spec.name not in names))


def _read(file: Traversable | Path) -> Registry:
    try:
        return Registry.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"the model registry {file} cannot be used: {error}") from error
