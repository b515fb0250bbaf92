"""Settings: a TOML file < environment (`SMALLHOLD_*`) < flags, parsed once, unknown keys refused.

Nested settings are spelt with a double underscore in the environment: `SMALLHOLD_SERVER__PORT=9000`.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from rag.config_sources import PREFIX, bad_setting, refuse_unknown_variables, settings_file
from rag.datatypes import Mode
from rag.errors import ConfigError

_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z0-9_]+)?")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IndexSettings(_Section):
    """The index directory, and what may be brought into it."""

    dir: Path = Field(Path(".smallhold/index"), description="Where the index is kept.")
    urls: Literal["never", "public", "private"] = Field(
        "never",
        description="Whether `index` may fetch pages from the network: from public addresses, or from those of private "
        "networks and of this machine too.",
    )
    ocr: str = Field(
        "",
        max_length=200,
        description="Languages of scanned PDF pages and pictures that `index` reads with Tesseract: eng, or "
        "eng+deu; unset leaves such pages out.",
    )

    @field_validator("ocr")
    @classmethod
    def _languages(cls, value: str) -> str:
        """They become a program's argument."""
        if value and not all(_LANGUAGE.fullmatch(language) for language in value.split("+")):
            raise ValueError("languages are written as `tesseract --list-langs` names them: eng, or eng+deu")
        return value


class ChunkSettings(_Section):
    """How documents are cut. Token counts are those of the embedder's own tokenizer."""

    tokens: int = Field(240, ge=16, le=8192, description="Token budget of a chunk.")
    overlap: int = Field(
        0, ge=0, le=4096, description="Tokens of whole sentences that a chunk repeats of the one before."
    )


class EmbedderSettings(_Section):
    """The model that turns text into vectors."""

    model: str = Field("all-MiniLM-L6-v2", description="Name in the model registry.")
    batch: int = Field(32, ge=1, le=4096, description="Texts per forward pass at most; of long ones fewer.")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 takes all cores.")


class RetrievalSettings(_Section):
    """How passages are found."""

    candidates: int = Field(100, ge=1, le=10_000, description="Chunks taken from each retriever before fusion.")
    dense_weight: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Weight of the dense score; the lexical one gets the rest. Unset takes what `smallhold store tune` "
        "found for the index, and 0.75 where nothing was tuned.",
    )


class EvidenceSettings(_Section):
    """What the language model is given to read."""

    passages: int = Field(3, ge=1, le=50, description="Passages that may be read for one answer.")
    mode: Mode = Field(
        "each",
        description="each reads passages one after the other, every one in a prompt of its own, until one holds the "
        "answer; joint puts them all into one prompt.",
    )
    enough: float = Field(
        0.3, ge=0, le=1, description="Read on where the model would decline with more than this probability."
    )
    window: int = Field(
        0,
        ge=0,
        le=8192,
        description="Tokens of a passage that are read: its sentences nearest to the question; 0 reads it whole.",
    )
    hops: int = Field(
        1,
        ge=0,
        le=4,
        description="Further searches for a question whose passages are all likely to be declined: for what they do "
        "not say, with the names in them.",
    )
    hop_seconds: float = Field(10.0, gt=0, le=600, description="No further search begins after so many seconds.")
    tokens: int = Field(1536, ge=32, le=100_000, description="Token budget of all passages, in the generator's tokens.")
    history_tokens: int = Field(512, ge=0, le=100_000, description="Token budget of the conversation's earlier turns.")
    rewrite: bool = Field(
        False,
        description="Whether the language model rewrites a follow-up where rules cannot put what it leans on in its "
        "place. Small models answer instead of rewriting.",
    )


class GeneratorSettings(_Section):
    """The language model that answers."""

    model: str = Field("qwen2.5-coder-0.5b-reader", description="Name in the model registry, or a path to a GGUF file.")
    endpoint: str = Field("", description="Base URL of an OpenAI-compatible endpoint that serves `model` instead.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the endpoint's key.")
    context: int = Field(4096, ge=256, le=1_000_000, description="Context length in tokens.")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 takes all cores.")
    sequences: int = Field(4, ge=1, le=64, description="Answers that a server writes at the same time.")
    prefix_mb: int = Field(
        256, ge=0, le=1_000_000, description="Memory for passages that were read and may come again, in megabytes."
    )
    prefix_disk_mb: int = Field(
        0, ge=0, le=10_000_000, description="Disk for the same, beside the weights; 0 keeps nothing there."
    )
    lookup: int | None = Field(
        None,
        ge=0,
        le=16,
        description="Most tokens that an answer guesses ahead, where it seems to copy from the prompt, to have them "
        "checked in one step; 0 guesses none, unset takes what was tuned, and 0 where nothing was.",
    )
    int8: bool = Field(
        True,
        description="Whether prompts are read in int8, with a byte of memory more for each weight, where the model and "
        "the processor allow it and it was found to be faster; `ask`, which answers one question, never does.",
    )
    worker: bool = Field(
        True,
        description="Whether `serve` runs the model in a process of its own, which is started again when it dies; "
        "the other commands never do.",
    )
    worker_timeout: float = Field(
        120.0,
        ge=5,
        le=3600,
        description="How long that process may make no progress, in seconds, before it is killed and started again.",
    )
    max_tokens: int = Field(96, ge=1, le=100_000, description="Longest answer, in tokens.")
    prompt: str = Field(
        "",
        description="Name of a prompt in configs/prompts, or a path to a TOML file; unset takes the one that the "
        "registry names for the model.",
    )
    timeout: float = Field(120.0, gt=0, le=3600, description="Longest silence of an endpoint, in seconds.")
    deadline: float = Field(600.0, gt=0, le=86_400, description="Longest answer of an endpoint, in seconds.")
    retries: int = Field(4, ge=0, le=20, description="Further attempts at an endpoint that is busy, down or limiting.")
    requests_per_minute: float = Field(
        0.0, ge=0, le=1_000_000, description="Most requests sent to an endpoint in a minute; 0 sets no limit."
    )


class AnswerSettings(_Section):
    """What an answer looks like."""

    long: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Which questions get an answer composed of sentences of the documents instead of a phrase: auto "
        "takes those that ask why or how, or to explain, describe, compare or list.",
    )
    words: int = Field(100, ge=10, le=2000, description="Most words of a composed answer.")
    unsupported: Literal["drop", "mark"] = Field(
        "drop",
        description="What becomes of a further sentence of the model's that no passage supports: it is left out, or "
        "shown and marked.",
    )


class DeliberationSettings(_Section):
    """How much more computing an answer is given: attempts that vote, and reasoning before each. Off as it stands."""

    samples: int = Field(
        1, ge=1, le=32, description="Attempts at an answer, which vote; the first is greedy, the others are drawn."
    )
    phrasings: int = Field(
        1, ge=1, le=16, description="Wordings of the question that are tried, each with that many samples."
    )
    temperature: float = Field(0.7, gt=0, le=2, description="How freely the further samples are drawn.")
    reason_tokens: int = Field(
        0,
        ge=0,
        le=1024,
        description="Most tokens of reasoning before an answer, by a model that was not taught to copy.",
    )
    seconds: float = Field(20.0, gt=0, le=600, description="No further attempt begins after so many seconds.")

    @property
    def on(self) -> bool:
        """Whether anything is thought over."""
        return self.requests > 1

    @property
    def requests(self) -> int:
        """How often a model may be asked for one answer."""
        return self.samples * self.phrasings * (2 if self.reason_tokens else 1)


class AbstentionSettings(_Section):
    """When to say that the documents do not hold the answer."""

    enabled: bool = Field(True, description="Whether answers may be withheld.")
    file: Path | None = Field(None, description="A fitted estimate; unset takes the one that suits the prompt.")
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Least probability of being right at which an answer is given; unset takes the fitted one.",
    )
    risk: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Largest share of the answers given that may be wrong, in place of a threshold; the file must have "
        "been made by `smallhold calibrate`.",
    )


class CascadeSettings(_Section):
    """A second, larger model that is asked where the first is too unsure. Off unless `generator` names one."""

    generator: str = Field(
        "", description="The large model: a name in the registry, a GGUF file, or a name that `cascade.endpoint` knows."
    )
    endpoint: str = Field("", description="Base URL of an OpenAI-compatible endpoint that serves the large model.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds that endpoint's key.")
    prompt: str = Field("", description="Prompt of the large model, as `generator.prompt`.")
    file: Path | None = Field(None, description="What `smallhold eval cascade --write` made of a run of both models.")
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="The large model is asked where the small one is less sure than this; unset takes the file's.",
    )
    error_price: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="What an answer that is wrong or missing costs you, in US dollars: the large model is asked where "
        "that pays, by the file's figures.",
    )


class ModelSettings(_Section):
    """Where weights are listed and kept."""

    registry: Path | None = Field(None, description="A file of further models, in the form of configs/models.toml.")
    dir: Path | None = Field(None, description="Where weights are kept; unset takes the cache directory.")


class ServerSettings(_Section):
    """The HTTP endpoint."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless asked.")
    port: int = Field(8080, ge=0, le=65535, description="Port; 0 takes a free one.")
    allowed_hosts: tuple[str, ...] = Field((), description="Further Host header values accepted on loopback.")
    keys: Path = Field(Path(".smallhold/keys.json"), description="File of the API keys that `smallhold keys` makes.")
    require_key: bool = Field(
        False, description="Demand an API key on loopback too, as behind a proxy; elsewhere one is always demanded."
    )
    cors_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/*@?#\s]+$")], ...] = Field(
        (), description="Origins of web pages that may use the endpoint, such as https://intranet.example."
    )
    max_body_bytes: int = Field(1_000_000, ge=1000, description="Largest request body.")
    body_seconds: float = Field(30.0, gt=0, le=3600, description="Longest wait for a request's body, in seconds.")
    max_messages: int = Field(256, ge=1, le=100_000, description="Most messages of one chat request.")
    max_characters: int = Field(200_000, ge=1, le=1_000_000_000, description="Longest message, in characters.")
    max_tokens: int = Field(2048, ge=1, le=100_000, description="Longest answer that a request may ask for, in tokens.")
    deadline: float = Field(
        300.0, gt=0, le=86_400, description="Longest answer, in seconds, waiting for the model included."
    )
    log: Literal["plain", "json"] = Field(
        "plain", description="Form of the log on stderr; json has a line for each request, too."
    )
    traces: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="Address of an OpenTelemetry collector (OTLP over HTTP) that traces are sent to.",
    )
    drain: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="Longest wait for answers under way when the server is told to end, in seconds.",
    )
    queue: int = Field(16, ge=1, le=10_000, description="Requests that may wait for the model before 429 is answered.")
    requests: int = Field(
        128, ge=1, le=100_000, description="Requests of all kinds under way at once before 503 is answered."
    )


class FeedbackSettings(_Section):
    """What people may say of answers."""

    enabled: bool = Field(False, description="Whether answers can be rated and commented on; what was rated is kept.")
    file: Path = Field(Path(".smallhold/feedback.sqlite"), description="Where that is kept.")
    days: int = Field(90, ge=1, le=3650, description="For how long it is kept.")


class CostSettings(_Section):
    """What answers are paid for with, to be shown beside them, and the model that they are compared with."""

    per_hour: float | None = Field(None, ge=0, le=1e6, description="US dollars for an hour of this machine.")
    per_million_prompt: float | None = Field(
        None, ge=0, le=1e6, description="US dollars for a million prompt tokens, where `generator.endpoint` takes them."
    )
    per_million_completion: float | None = Field(
        None, ge=0, le=1e6, description="The same for the tokens of answers; both or none."
    )
    baseline: str = Field("", max_length=100, description="Name of the model to compare with.")
    baseline_per_million_prompt: float | None = Field(
        None, ge=0, le=1e6, description="US dollars that it takes for a million prompt tokens."
    )
    baseline_per_million_completion: float | None = Field(
        None, ge=0, le=1e6, description="The same for the tokens of answers; both or none."
    )


class Settings(BaseSettings):
    """All settings. Build one with `load_settings`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    index: IndexSettings = IndexSettings()
    chunk: ChunkSettings = ChunkSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    generator: GeneratorSettings = GeneratorSettings()
    answer: AnswerSettings = AnswerSettings()
    deliberation: DeliberationSettings = DeliberationSettings()
    abstention: AbstentionSettings = AbstentionSettings()
    cascade: CascadeSettings = CascadeSettings()
    models: ModelSettings = ModelSettings()
    server: ServerSettings = ServerSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    cost: CostSettings = CostSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags win over the environment, the environment over the file; no .env file, no secrets folder."""
        del dotenv_settings, file_secret_settings
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))


def load_settings(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the configuration once. `flags` is nested like the file: `{"server": {"port": 9000}}`.

    `file` defaults to `$SMALLHOLD_CONFIG`, then to `smallhold.toml` in the working directory where that exists.
    Raises `ConfigError` naming the setting and what is wrong with it.
    """
    path = settings_file(file)

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    refuse_unknown_variables(Settings.model_fields)
    try:
        return FileSettings(**(flags or {}))
    except ValidationError as error:
        raise bad_setting(error, path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except SettingsError as error:
        raise ConfigError(f"the environment cannot be read as settings: {error}") from error
