"""The one place that assembles: settings in, ready parts out. Heavy libraries load when a part is first used."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rag.abstain import Abstention, load_abstention
from rag.cascade import Cascade, Member, Rule, make_rule
from rag.config import CostSettings, Settings
from rag.cost import Costs, Prices
from rag.datatypes import ScoredChunk
from rag.deliberation import Deliberation, load_wordings
from rag.embedder import SentenceEmbedder
from rag.engine.ahead import ReadAhead, open_ahead
from rag.engine.frames import pack_options
from rag.engine.generator import LlamaGenerator
from rag.engine.guarded import GuardedGenerator
from rag.engine.native import LlamaVocabulary
from rag.errors import ConfigError
from rag.filter import EVERYTHING, View
from rag.fusion import with_fusion
from rag.index import Index
from rag.lazy import Closeable, LazyModel
from rag.machine import available_cores
from rag.models import ModelStore, default_directory
from rag.pipeline import RagPipeline
from rag.probe import build_key, look
from rag.prompt import Prompt, load_prompt
from rag.protocols import Embedder, LanguageModel, Retriever
from rag.registry import load_registry
from rag.remote import EndpointGenerator
from rag.retrieve import FusedRetriever
from rag.rewrite import Rewriter, load_rewrite_prompt
from rag.tuned import find_tuned
from rag.tuning import UNTUNED, Tuning
from rag.warm import Prefix, asked_prefix


def model_store(settings: Settings) -> ModelStore:
    """Return the store of weights that the settings name."""
    return ModelStore(load_registry(settings.models.registry), settings.models.dir or default_directory())


def build_embedder(settings: Settings, store: ModelStore) -> SentenceEmbedder:
    """Return the embedder that the settings name. Raises `ModelMissing`, `ModelDamaged`, `UnknownModel`."""
    model = store.locate(settings.embedder.model)
    if model.spec.kind != "embedder":
        raise ConfigError(f"{model.spec.name} is a {model.spec.kind}, not an embedder", hint="Set embedder.model.")
    return SentenceEmbedder(
        model.path, model.spec.name, model.fingerprint, settings.embedder.batch, settings.embedder.threads
    )


def build_generator(settings: Settings, store: ModelStore, *, sequences: int = 1) -> LlamaGenerator | EndpointGenerator:
    """Return the language model that the settings name: an endpoint's, the registry's, or a GGUF file's.

    A local model writes `sequences` answers at once: more take more memory, and one client needs no more than one. It
    is probed in a child process first. Raises `ModelMissing`, `ModelDamaged`, `ModelLoadFailed`.
    """
    wanted = settings.generator
    if wanted.endpoint:
        return EndpointGenerator(
            wanted.endpoint,
            wanted.model,
            api_key_env=wanted.api_key_env,
            timeout=wanted.timeout,
            deadline=wanted.deadline,
            retries=wanted.retries,
            requests_per_minute=wanted.requests_per_minute,
        )
    return LlamaGenerator(**_llama_options(settings, store, sequences))


def build_served_generator(
    settings: Settings, store: ModelStore
) -> GuardedGenerator | LlamaGenerator | EndpointGenerator:
    """Return the language model for a server, which writes several answers at once.

    A local one runs in a process of its own unless the settings forbid it. Raises what `build_generator` raises.
    """
    wanted = settings.generator
    if wanted.endpoint or not wanted.worker:
        return build_generator(settings, store, sequences=wanted.sequences)
    options = _llama_options(settings, store, wanted.sequences)
    return GuardedGenerator(pack_options(options), LlamaVocabulary(options["path"]), timeout=wanted.worker_timeout)


def build_ahead(settings: Settings, store: ModelStore) -> ReadAhead:
    """Return what reads passages ahead for the local language model of the settings, onto the same disk.

    Raises what `build_generator` raises, and `ConfigError` where the model is an endpoint's.
    """
    if settings.generator.endpoint:
        raise ConfigError(
            f"{settings.generator.model} runs behind an endpoint, where nothing can be kept for it",
            hint="Unset generator.endpoint.",
        )
    options = _llama_options(settings, store, 1)
    return open_ahead(
        options["path"],
        _prefix_folder(store),
        context=options["context"],
        budget=options["folder_bytes"],
        threads=options["threads"],
        extra_buffers=options["extra_buffers"],
        int8=options["int8"],
        tuning=options["tuning"],
        build=options["build"],
    )


def ahead_prefix(settings: Settings, ahead: ReadAhead) -> Prefix:
    """Return what tells the beginning of the settings' prompts over one chunk (`rag.warm`)."""
    return asked_prefix(
        ahead,
        build_prompt(settings),
        passage_tokens=settings.evidence.tokens,
        answer_tokens=settings.generator.max_tokens,
    )


def _prefix_folder(store: ModelStore) -> Path:
    return store.directory / ".prefixes"


def _llama_options(settings: Settings, store: ModelStore, sequences: int) -> dict[str, Any]:
    """Return the arguments of `LlamaGenerator`. The model has been probed."""
    wanted, local = settings.generator, local_model(settings, store)
    found = look(local.file, store.directory / "probes.json")
    tuning = local.tuning if wanted.lookup is None else local.tuning.model_copy(update={"lookup": wanted.lookup})
    return {
        "path": local.file,
        "context": wanted.context,
        "threads": wanted.threads,
        "extra_buffers": found.repacked,
        "int8": wanted.int8 and found.int8 and tuning.writable,
        "tuning": tuning,
        "sequences": sequences,
        "prefix_bytes": wanted.prefix_mb * 1_000_000,
        "prefix_folder": _prefix_folder(store) if wanted.prefix_disk_mb else None,
        "folder_bytes": wanted.prefix_disk_mb * 1_000_000,
        "build": build_key(),
    }


class LocalModel(NamedTuple):
    """A GGUF file and how to run it here. `fingerprint` stands for all that its answers depend on, "" if not known."""

    file: Path
    tuning: Tuning
    fingerprint: str


def local_model(settings: Settings, store: ModelStore) -> LocalModel:
    """Return what the settings name: the registry's verified weights or those tuned for this machine, or a user's file.

    Raises `ModelMissing`, `ModelDamaged`, `UnknownModel`, `ConfigError`.
    """
    name = settings.generator.model
    if name.endswith(".gguf"):
        return LocalModel(Path(name).expanduser(), UNTUNED, "")
    model = store.locate(name)
    if model.spec.kind != "generator":
        raise ConfigError(f"{name} is an {model.spec.kind}, not a generator", hint="Set generator.model.")
    tuned = find_tuned(model.path, model.fingerprint)
    if tuned is None:
        return LocalModel(model.file, UNTUNED, model.fingerprint)
    # The process may be allowed fewer cores than when it was measured.
    tuning = tuned.settings.model_copy(update={"threads": min(tuned.settings.threads, available_cores())})
    fingerprint = f"{model.fingerprint} {tuned.sha256[:16]} {tuning.model_dump_json()}"
    return LocalModel(model.path / tuned.file if tuned.file else model.file, tuning, fingerprint)


def generator_file(settings: Settings, store: ModelStore) -> Path:
    """Return the GGUF file that runs for what the settings name."""
    return local_model(settings, store).file


def build_pipeline(
    settings: Settings,
    generator: LanguageModel,
    retriever: Retriever | None,
    embedder: Embedder | None = None,
) -> RagPipeline:
    """Assemble the query path. Without a retriever it is closed-book; long answers need the embedder."""
    prompt = build_prompt(settings)
    return RagPipeline(
        generator=generator,
        counter=generator,
        prompt=prompt,
        retriever=retriever,
        rewriter=Rewriter(generator, load_rewrite_prompt()) if settings.evidence.rewrite else None,
        abstention=build_abstention(settings, prompt),
        abstain=settings.abstention.enabled,
        risk=settings.abstention.risk,
        deliberation=build_deliberation(settings, prompt),
        embedder=embedder,
        long=settings.answer.long,
        words=settings.answer.words,
        drop_unsupported=settings.answer.unsupported == "drop",
        candidates=settings.retrieval.candidates,
        passages=settings.evidence.passages,
        mode=settings.evidence.mode,
        enough=settings.evidence.enough,
        window=settings.evidence.window,
        hops=settings.evidence.hops,
        hop_seconds=settings.evidence.hop_seconds,
        evidence_tokens=settings.evidence.tokens,
        history_tokens=settings.evidence.history_tokens,
        max_tokens=settings.generator.max_tokens,
    )


def build_prompt(settings: Settings) -> Prompt:
    """Return the prompt of the settings, or else the one that suits the model, or else the common one."""
    wanted = settings.generator
    registry = load_registry(settings.models.registry)
    suited = [spec.prompt for spec in registry.model if spec.name == wanted.model and not wanted.endpoint]
    return load_prompt(wanted.prompt or next(iter(suited), "extractive"))


def build_deliberation(settings: Settings, prompt: Prompt) -> Deliberation | None:
    """Return how answers are thought over, None where they are not.

    Raises `ConfigError` where there are too few phrasings, or the model was taught to copy and cannot reason.
    """
    wanted = settings.deliberation
    if not wanted.on:
        return None
    wordings = load_wordings()
    known = 1 + len(wordings.phrasings)
    if wanted.phrasings > known:
        raise ConfigError(
            f"deliberation.phrasings is {wanted.phrasings}, and there are {known} with the question itself",
            hint="Lower it, or raise deliberation.samples instead.",
        )
    if wanted.reason_tokens and prompt.decline:
        base = load_registry(settings.models.registry).base_of(settings.generator.model) or "a plain model"
        raise ConfigError(
            f"deliberation.reason_tokens is set, and {settings.generator.model} was taught to copy a phrase or to "
            "decline: it does not reason",
            hint=f"Set generator.model to {base}, or unset deliberation.reason_tokens.",
        )
    return Deliberation(wordings, **wanted.model_dump())


def build_abstention(settings: Settings, prompt: Prompt) -> Abstention:
    """Return the estimate of the settings, or else the one that was fitted to answers to this prompt.

    Raises `ConfigError` where the settings ask for a promise that the estimate does not make.
    """
    wanted = settings.abstention
    if wanted.risk is not None and wanted.threshold is not None:
        raise ConfigError(
            "abstention.risk and abstention.threshold are both set", hint="Set one: a risk target finds its threshold."
        )
    source = wanted.file or prompt.abstention
    fitted = load_abstention(source, wanted.threshold)
    fitted = fitted.model_copy(update={"no_promise": _no_promise(fitted, str(source), settings)})
    if wanted.enabled and wanted.risk is not None:
        fitted.at_risk(wanted.risk)
    return fitted


def _no_promise(fitted: Abstention, source: str, settings: Settings) -> str:
    """Return why an estimate promises nothing under these settings, "" where it does."""
    if fitted.promise is None:
        return f"the estimate {source} was fitted without a test of what it keeps"
    changed = fitted.promise.broken_by(settings.model_dump(mode="json"))
    return f"the estimate {source} was tested with other settings: {changed}" if changed else ""


def build_costs(settings: CostSettings) -> Costs | None:
    """What answers cost; None where no price is stated. Raises `ConfigError` where only one of two prices is."""
    here = Prices(settings.per_hour, settings.per_million_prompt, None, settings.per_million_completion)
    there = Prices(None, settings.baseline_per_million_prompt, None, settings.baseline_per_million_completion)
    for prices, names in ((here, "cost."), (there, "cost.baseline_")):
        if (prices.per_million_prompt is None) != (prices.per_million_completion is None):
            raise ConfigError(
                f"only one of {names}per_million_prompt and {names}per_million_completion is set",
                hint="Set both or none.",
            )
    if not here.stated and not there.stated:
        return None
    return Costs(here, there, settings.baseline or "baseline")


@contextmanager
def local_pipeline(settings: Settings) -> Iterator[RagPipeline | Cascade]:
    """Yield the whole query path over the settings' index; models and index are released at the end.

    A promise that nobody tested, or an index that is missing, is told before anybody waits for a model.
    """
    settings = with_fusion(settings)
    prompt = build_prompt(settings)
    build_abstention(settings, prompt), build_deliberation(settings, prompt)
    store = model_store(settings)
    embedder = build_embedder(settings, store)
    with ExitStack() as opened:
        large = opened.enter_context(closing(build_large(settings, store))) if settings.cascade.generator else None
        index = opened.enter_context(open_index(settings, embedder))
        generator = opened.enter_context(closing(build_generator(settings, store)))
        pipeline = build_pipeline(settings, generator, build_retriever(settings, index, embedder), embedder)
        yield pipeline if large is None else build_cascade(settings, pipeline, large, embedder)


def build_large(
    settings: Settings, store: ModelStore, build: Callable[[Settings, ModelStore], Closeable] = build_generator
) -> LazyModel:
    """Return the large model of a cascade, which `build` loads when it is first asked.

    Whether the settings fit together and the weights are here is found out now. Raises what `build_generator` raises.
    """
    cascade_rule(settings)
    own = large_settings(settings)
    if not own.generator.endpoint:
        local_model(own, store)
    return LazyModel(lambda: build(own, store))


def large_settings(settings: Settings) -> Settings:
    """Return the settings that the large model of a cascade is asked with: its own name, prompt and estimate."""
    wanted = settings.cascade
    named = {"model": wanted.generator, "endpoint": wanted.endpoint, "api_key_env": wanted.api_key_env}
    return settings.model_copy(
        update={
            "generator": settings.generator.model_copy(update={**named, "prompt": wanted.prompt}),
            "abstention": settings.abstention.model_copy(update={"file": None, "threshold": None}),
        }
    )


def cascade_rule(settings: Settings) -> Rule:
    """Return when the large model of the settings is asked. Raises `ConfigError` where they do not fit together."""
    wanted = settings.cascade
    if settings.abstention.enabled and settings.abstention.risk is not None:
        raise ConfigError(
            "abstention.risk and cascade.generator are both set, and a promise is one about a single model's answers",
            hint="Unset one of them, or send `risk` with the requests that need it: the small model answers those.",
        )
    return make_rule(
        small=settings.generator.model,
        large=wanted.generator,
        file=wanted.file,
        threshold=wanted.threshold,
        error_price=wanted.error_price,
    )


def build_cascade(
    settings: Settings, small: RagPipeline, large: LanguageModel, embedder: Embedder | None = None
) -> Cascade:
    """Put the large model of the settings behind a pipeline. It is handed what that one's retriever found.

    With the same `embedder` it answers as it does alone: long answers are long ones, and support may be in other words.
    """
    second = build_pipeline(large_settings(settings), large, _Nothing(), embedder)
    return Cascade(
        Member(model_name(settings), small),
        Member(model_name(large_settings(settings)), second),
        cascade_rule(settings),
    )


def model_name(settings: Settings) -> str:
    """Return what people call the language model: its name, or that of its file."""
    model = settings.generator.model
    return Path(model).stem if model.endswith(".gguf") else model


class _Nothing:
    """The retriever of a pipeline that is handed what was found."""

    def retrieve(self, question: str, k: int, view: View = EVERYTHING) -> list[ScoredChunk]:
        """Return nothing."""
        del question, k, view
        return []


def open_index(settings: Settings, embedder: SentenceEmbedder, directory: Path | None = None) -> Index:
    """Open the index of the settings, or of another directory, refusing one of another embedder."""
    return Index.open(directory or settings.index.dir, embedder.fingerprint)


def open_newer(settings: Settings, embedder: SentenceEmbedder, index: Index) -> Index | None:
    """Open what took the place of `index` in the directory of the settings, None where nothing did.

    What both have in common is shared: neither read nor verified again. Raises what `Index.open` raises.
    """
    if index.is_current(settings.index.dir):
        return None
    return Index.open(settings.index.dir, embedder.fingerprint, before=index)


def build_retriever(settings: Settings, index: Index, embedder: SentenceEmbedder) -> FusedRetriever:
    """Return the hybrid retriever over an open index."""
    return FusedRetriever(index, embedder, settings.retrieval.candidates, settings.retrieval.dense_weight)
