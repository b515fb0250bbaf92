"""One system under comparison: a row of `configs/systems.toml`, what it changes and what it costs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval.cost import TABLE, TablePrices, endpoint_prices, table_prices
from eval.energy import ACTIVE_WATTS, IDLE_WATTS
from rag.config import Settings
from rag.cost import Prices
from rag.errors import ConfigError

# Where an index or weights lie and how a server listens makes no system better or worse.
_NOT_OF_A_SYSTEM = frozenset({"index", "models", "server"})

# Said by `generator`, and only there.
_OF_THE_GENERATOR = frozenset({"model", "endpoint", "api_key_env"})

# How patiently an endpoint is asked changes no answer.
_PATIENCE = frozenset({"timeout", "deadline", "retries", "requests_per_minute"})

# Endpoints answer several at a time, and mostly keep us waiting; a model here uses every core for one question.
ENDPOINT_CONCURRENCY = 4

Price = Annotated[float, Field(ge=0, le=1_000_000)]


class Endpoint(BaseModel):
    """A generator behind an OpenAI-compatible endpoint. The key is read from the named environment variable.

    `budget` is how many US dollars the answers of a run may cost; where the others are unset the settings of
    `generator` of the same names hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    endpoint: str = Field(description="Base URL, for instance https://host/v1.")
    model: str = Field(min_length=1, description="Model name that the endpoint knows.")
    api_key_env: str = Field("", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$", description="Variable that holds the key.")
    timeout: float | None = Field(None, gt=0, le=3600, description="Longest silence, in seconds.")
    deadline: float | None = Field(None, gt=0, le=86_400, description="Longest answer, in seconds.")
    retries: int | None = Field(None, ge=0, le=20, description="Further attempts.")
    requests_per_minute: float | None = Field(None, ge=0, le=1_000_000, description="Most requests; 0 sets no limit.")
    budget: Price | None = Field(None, description="Most US dollars that a run may spend on this system.")

    @field_validator("endpoint")
    @classmethod
    def _is_plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an http or https URL is wanted")
        if parts.username or parts.password:
            raise ValueError("no user or password in the URL; name the key's variable in api_key_env")
        return url


class Watts(BaseModel):
    """What a core of the machine draws while it idles and while it computes, in watts, for estimates of energy."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    idle: float = Field(IDLE_WATTS, ge=0, le=1000)
    active: float = Field(ACTIVE_WATTS, ge=0, le=1000)

    @model_validator(mode="after")
    def _is_more_when_busy(self) -> "Watts":
        if self.active < self.idle:
            raise ValueError("a core draws no less when it computes: active must reach idle")
        return self


class SystemRow(BaseModel):
    """One system: what generates (`""`: nothing, a registry model, or an endpoint), whether it retrieves, its price.

    With `oracle` the documents that are relevant to a question are read instead of retrieved ones. `recorded` names a
    file of answers given elsewhere, instead of a generator. `parameters` is the size of the model in billions.
    `concurrency` is how many questions an endpoint is asked at a time. With `warm` a model here has read every passage
    of the corpus before the first question, as `smallhold warm` does; that is in no question's seconds.
    `settings` overrides `rag` settings for this system alone, nested like the configuration file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+@:/-]{0,63}$")
    generator: str | Endpoint = ""
    retrieval: bool
    oracle: bool = False
    warm: bool = False
    recorded: str = Field("", max_length=4096)
    parameters: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    parameters_kind: Literal["known", "estimated"] | None = None
    price_per_hour: Price | None = None
    price_per_million_prompt: Price | None = None
    price_per_million_cached: Price | None = None
    price_per_million_completion: Price | None = None
    settings: dict[str, dict[str, Any]] = {}
    concurrency: Annotated[int, Field(ge=1, le=64)] | None = None

    # What it costs beyond the prices above (`prices` in the file; a property of that name has the prices in force),
    # and what it draws.
    price_table: str | None = Field(None, alias="prices", pattern=rf"^{TABLE}[^/\s]{{1,64}}/\S{{1,200}}$")
    utilisation: Annotated[float, Field(gt=0, le=1)] = 1.0
    watts: Watts | None = None

    @model_validator(mode="before")
    @classmethod
    def _say_what_follows(cls, row: Any) -> Any:
        """An oracle's passages are read like retrieved ones, recorded answers are read by nobody of ours."""
        if isinstance(row, dict) and "retrieval" not in row and (row.get("oracle") or row.get("recorded")):
            return {**row, "retrieval": not row.get("recorded")}
        return row

    @model_validator(mode="after")
    def _is_consistent(self) -> "SystemRow":
        if self.price_table:
            _known_price(self.price_table)
        if self.recorded:
            self._check_recorded()
        elif not self.generator and not self.retrieval:
            raise ValueError("without a generator and without retrieval there is nothing to run")
        if self.oracle and not (self.generator and self.retrieval):
            raise ValueError("an oracle needs a generator that reads its passages, and no retrieval = false")
        if self.warm and not (self.retrieval and isinstance(self.generator, str) and self.generator):
            raise ValueError("only a model here, of a system that retrieves, can have read the passages before")
        if (self.parameters is None) != (self.parameters_kind is None):
            raise ValueError("parameters and parameters_kind belong together")
        if isinstance(self.generator, Endpoint) and self.generator.budget is not None and not self.prices.by_token:
            raise ValueError("a budget needs price_per_million_prompt and price_per_million_completion")
        if (self.price_per_million_prompt is None) != (self.price_per_million_completion is None):
            raise ValueError("price_per_million_prompt and price_per_million_completion belong together")
        if self.price_per_million_cached is not None and self.price_per_million_prompt is None:
            raise ValueError("price_per_million_cached needs price_per_million_prompt")
        if (self.concurrency or 1) > 1 and not isinstance(self.generator, Endpoint):
            raise ValueError("concurrency is for endpoints: a model here has every core busy with one question")
        for key in sorted(_OF_THE_GENERATOR & set(self.settings.get("generator", {}))):
            raise ValueError(f"the model is named by `generator`, not by settings.generator.{key}")
        self._check_settings()
        return self

    def _check_recorded(self) -> None:
        """Somebody else's answers have tokens, but neither our seconds nor our settings nor our documents."""
        for name in ("generator", "retrieval", "oracle", "settings"):
            if getattr(self, name):
                raise ValueError(f"recorded answers go without `{name}`")
        if self.price_per_hour is not None:
            raise ValueError("recorded answers have no seconds of ours: state prices per million tokens")

    def _check_settings(self) -> None:
        for section, values in self.settings.items():
            if section in _NOT_OF_A_SYSTEM or section not in Settings.model_fields:
                known = ", ".join(sorted(set(Settings.model_fields) - _NOT_OF_A_SYSTEM))
                raise ValueError(f"settings.{section} is not a section; there are {known}")
            _section_type(section).model_validate(values)
        if self.settings.get("cascade", {}).get("generator") and not (self.generator and self.retrieval):
            raise ValueError(
                "a cascade goes by how sure an answer from documents is: it needs a generator and retrieval"
            )

    @property
    def generates(self) -> bool:
        """Whether there are answers, ours or recorded ones; else this is retrieval alone."""
        return bool(self.generator or self.recorded)

    @property
    def at_once(self) -> int:
        """How many questions are asked at a time."""
        if not isinstance(self.generator, Endpoint):
            return 1
        return self.concurrency or ENDPOINT_CONCURRENCY

    def endpoints(self, settings: Settings) -> frozenset[str]:
        """The models of this row that an endpoint serves, whose tokens are billed: a cascade of `settings` counts."""
        own = {self.generator.model} if isinstance(self.generator, Endpoint) else set()
        second = self.apply(settings).cascade
        return frozenset(own | ({second.generator} if second.generator and second.endpoint else set()))

    @property
    def listed(self) -> TablePrices | None:
        """What a price table asks for its tokens; None where the row states prices, or no table has the model.

        Without `prices` the table is asked for the endpoint's provider and model, where the row states no price.
        """
        if self.price_per_million_prompt is not None:
            return None
        if self.price_table:
            return table_prices(self.price_table)
        if isinstance(self.generator, Endpoint) and self.price_per_hour is None:
            return endpoint_prices(self.generator.endpoint, self.generator.model)
        return None

    @property
    def prices(self) -> Prices:
        """What this system's seconds and tokens cost."""
        listed = self.listed
        if listed is not None:
            return Prices(self.price_per_hour, listed.prompt, listed.cached, listed.completion, self.utilisation)
        return Prices(
            self.price_per_hour,
            self.price_per_million_prompt,
            self.price_per_million_cached,
            self.price_per_million_completion,
            self.utilisation,
        )

    def without_generator(self) -> "SystemRow":
        """Return the retrieval part of this system, under the same name."""
        return self.model_copy(update={"generator": "", "oracle": False, "warm": False})

    def apply(self, settings: Settings) -> Settings:
        """Return the settings that this system runs with: its overrides on top, its generator put in."""
        overrides = {section: dict(values) for section, values in self.settings.items()}
        if isinstance(self.generator, Endpoint):
            overrides.setdefault("generator", {}).update(
                self.generator.model_dump(exclude={"budget"}, exclude_none=True)
            )
        elif self.generator:
            overrides.setdefault("generator", {}).update(model=self.generator, endpoint="")
        sections = {
            name: _section_type(name).model_validate({**getattr(settings, name).model_dump(), **values})
            for name, values in overrides.items()
        }
        return settings.model_copy(update=sections)

    def identity(self, settings: Settings) -> dict[str, Any]:
        """Return what an answer depends on, as plain JSON values: not the price and not the name."""
        if self.recorded:
            return {"recorded": True, "settings": {}}
        plain = self.apply(settings).model_dump(mode="json", exclude=set(_NOT_OF_A_SYSTEM))
        plain["generator"] = {key: value for key, value in plain["generator"].items() if key not in _PATIENCE}
        if not plain["cascade"]["generator"]:  # rows of before there was one still count
            del plain["cascade"]
        if not self.apply(settings).deliberation.on:
            del plain["deliberation"]
        identity = {"generates": bool(self.generator), "retrieves": self.retrieval, "settings": plain}
        return identity | {name: True for name in ("oracle", "warm") if getattr(self, name)}


def system_in_force(name: str, settings: Settings) -> SystemRow:
    """Return the system that `smallhold ask` runs with these settings."""
    wanted = settings.generator
    if not wanted.endpoint:
        return SystemRow(name=name, generator=wanted.model, retrieval=True)
    endpoint = Endpoint(endpoint=wanted.endpoint, model=wanted.model, api_key_env=wanted.api_key_env)
    return SystemRow(name=name, generator=endpoint, retrieval=True)


def changed_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of a system, as `identity` gives them, that are not the default: `{"evidence.passages": 3}`.

    What `generator` says is left out.
    """
    changed: dict[str, Any] = {}
    for section in sorted(set(settings) & set(Settings.model_fields)):
        defaults = _section_type(section)().model_dump(mode="json")
        hidden = _OF_THE_GENERATOR if section == "generator" else frozenset()
        changed |= {
            f"{section}.{key}": value
            for key, value in settings[section].items()
            if key not in hidden and value != defaults.get(key)
        }
    return changed


def _known_price(reference: str) -> None:
    """Raise `ValueError`, which pydantic reports with its place, where the table does not have a reference."""
    try:
        table_prices(reference)
    except ConfigError as error:
        raise ValueError(error.message) from error


def _section_type(name: str) -> type[BaseModel]:
    kind = Settings.model_fields[name].annotation
    assert isinstance(kind, type) and issubclass(kind, BaseModel)
    return kind
