"""OpenTelemetry traces of answers, after the semantic conventions for generative AI (status: development, 2026).

FastAPI makes the span of each request; below it is one of the whole answer, and below that one for each stage:
`retrieval`, `chat MODEL` for the language model, the others by their own names. No text of questions, documents or
answers is in any, no key, and no name of a document.

https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-spans.md
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from rag.api import ChatRequest
from rag.clock import watched
from rag.datatypes import Answer, Delta, Usage
from rag.errors import ConfigError, SmallholdError

CLOSE_SECONDS = 3.0  # a collector that is not there is tried again and again, which no server's end waits for
PROVIDER = "smallhold"  # of its own, since the convention names none for models that run here

Attributes = Mapping[str, str | bool | int | float | list[str]]


@dataclass(frozen=True)
class _Stage:
    """A stage that was gone through; `begin` and `end` in nanoseconds of the Unix epoch."""

    name: str
    begin: int
    end: int


class _WithoutQuery(Tracer):
    """A tracer whose spans say nothing of a URL's query, which may name a document."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_span(self, name: str, *args: Any, **more: Any) -> Span:
        told = more.get("attributes") or {}
        more["attributes"] = {key: value for key, value in told.items() if key != "url.query"}
        return self._tracer.start_span(name, *args, **more)

    def start_as_current_span(self, *args: Any, **more: Any) -> Any:
        return self._tracer.start_as_current_span(*args, **more)


class _ForRequests(TracerProvider):
    """The provider that FastAPI is given."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **more: Any) -> Tracer:
        return _WithoutQuery(self._provider.get_tracer(*args, **more))


class Traces:
    """Makes the spans of answers. `provider` decides where they go, and whether any is kept.

    `for_requests` is the same for FastAPI, which makes those of requests.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.for_requests: TracerProvider = _ForRequests(provider)
        self._tracer = provider.get_tracer("smallhold")

    def of_answer(
        self, model: str, body: ChatRequest, begin: Callable[[], Iterator[Delta]]
    ) -> Callable[[], Iterator[Delta]]:
        """Return `begin` with spans, which belong to the request at hand, in whatever thread it is run."""
        parent, asked = otel.get_current(), _asked(model, body)
        return lambda: self._traced(parent, model, asked, begin)

    def close(self) -> None:
        """Send what has not been sent yet, unless that takes longer than `CLOSE_SECONDS`."""
        shutdown = getattr(self.provider, "shutdown", None)
        if shutdown is not None:
            sender = threading.Thread(target=shutdown, name="smallhold-traces", daemon=True)
            sender.start()
            sender.join(CLOSE_SECONDS)

    def _traced(
        self, parent: otel.Context, model: str, asked: Attributes, begin: Callable[[], Iterator[Delta]]
    ) -> Iterator[Delta]:
        whole = self._tracer.start_span(
            "invoke_workflow smallhold",
            parent,
            SpanKind.INTERNAL,
            {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": "smallhold"},
        )
        stages: list[_Stage] = []
        token = watched.set(lambda name, seconds: stages.append(_stage(name, seconds)))
        answer: Answer | None = None
        deltas = begin()
        try:
            for delta in deltas:
                answer = delta.answer or answer
                yield delta
        except GeneratorExit:
            whole.set_attribute("error.type", "cancelled")
            raise
        except BaseException as error:
            _failed(whole, error)
            raise
        finally:
            close = getattr(deltas, "close", None)
            if close is not None:
                close()
            watched.reset(token)
            self._stages(trace.set_span_in_context(whole, parent), stages, model, asked, answer)
            if answer is not None:
                whole.set_attributes(_answered(answer))
            whole.end()

    def _stages(
        self, parent: otel.Context, stages: list[_Stage], model: str, asked: Attributes, answer: Answer | None
    ) -> None:
        """Make a span of each stage. Of two models, the language model was asked once for each, in their order."""
        models = [(one.model, one.usage) for one in answer.asked] if answer is not None else []
        if not models:
            models = [(model, answer.usage if answer is not None else Usage())]
        for stage in stages:
            attributes: dict[str, Any] = {}
            name, kind = stage.name, SpanKind.INTERNAL
            if stage.name == "retrieve":
                name, kind = "retrieval", SpanKind.CLIENT
                attributes = {"gen_ai.operation.name": "retrieval", "gen_ai.provider.name": PROVIDER}
                if answer is not None:
                    attributes["smallhold.retrieved"] = len(answer.retrieved)
            elif stage.name == "generate":
                said, usage = models.pop(0) if len(models) > 1 else models[0]
                name, kind = f"chat {said}", SpanKind.CLIENT
                attributes = {**asked, "gen_ai.request.model": said, **_used(said, usage, answer)}
            span = self._tracer.start_span(name, parent, kind, attributes, start_time=stage.begin)
            span.end(end_time=stage.end)


def open_traces(endpoint: str) -> Traces | None:
    """Return what sends traces to an OTLP collector, such as http://127.0.0.1:4318, in the background; None for "".

    Raises `ConfigError` where OpenTelemetry's SDK is not installed.
    """
    if not endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider as Sdk
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"server.traces is set, and OpenTelemetry's SDK is not installed ({error.name} is missing)",
            hint="Install it: pip install 'smallhold[otel]'. Or unset server.traces.",
        ) from error
    provider = Sdk(resource=Resource.create({"service.name": "smallhold"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    return Traces(provider)


def _asked(model: str, body: ChatRequest) -> Attributes:
    """What a request says of how to answer."""
    said = {
        "gen_ai.request.max_tokens": body.max_completion_tokens or body.max_tokens,
        "gen_ai.request.temperature": body.temperature,
        "gen_ai.request.top_p": body.top_p,
        # OpenAI's bounds go a little past the 64 bits that a trace has.
        "gen_ai.request.seed": None if body.seed is None else max(-(2**63), min(body.seed, 2**63 - 1)),
        "gen_ai.request.stream": body.stream or None,
    }
    known = {name: value for name, value in said.items() if value is not None}
    return {"gen_ai.operation.name": "chat", "gen_ai.provider.name": PROVIDER, "gen_ai.request.model": model, **known}


def _used(model: str, usage: Usage, answer: Answer | None) -> Attributes:
    """What the model did for an answer; nothing is known where it came to none."""
    if answer is None:
        return {}
    return {
        "gen_ai.response.model": model,
        "gen_ai.response.finish_reasons": [answer.finish_reason],
        "gen_ai.usage.input_tokens": usage.prompt,
        "gen_ai.usage.cache_read.input_tokens": usage.cached,
        "gen_ai.usage.output_tokens": usage.completion,
    }


def _answered(answer: Answer) -> Attributes:
    known: dict[str, str | bool | int | float | list[str]] = {
        "smallhold.verdict": answer.verdict.value,
        "smallhold.passages_read": answer.passages_read,
        "smallhold.citations": len(answer.citations),
    }
    return known if answer.confidence is None else {**known, "smallhold.confidence": answer.confidence}


def _failed(span: Span, error: BaseException) -> None:
    """Note of what kind an error was. Its message stays out: it may quote a document."""
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", error.code if isinstance(error, SmallholdError) else type(error).__name__)


def _stage(name: str, seconds: float) -> _Stage:
    end = time.time_ns()
    return _Stage(name, end - int(seconds * 1e9), end)
