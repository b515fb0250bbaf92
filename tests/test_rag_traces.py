"""Traces of requests and answers, as a tracer provider gets them: one of ours at the API, and the SDK where it is."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

from rag.api import MAX_SEED
from rag.clock import Clock, watched
from rag.datatypes import Asked, Chunk, Delta, Message, ScoredChunk, Usage
from rag.datatypes import Span as Range
from rag.errors import ConfigError, PromptTooLong
from rag.keys import create_key
from rag.pipeline import RagPipeline
from rag.prompt import load_prompt
from rag.traces import Traces, open_traces
from tests.conftest import REPOSITORY, ListRetriever, QueueGenerator
from tests.test_rag_app import ANSWER, Script, ask, error, events, serving, until

SECRET = "The north ferry leaves at six."
FOUND = ScoredChunk(Chunk("ferry.md#0", "ferry.md", SECRET, Range(0, len(SECRET)), {"title": "Ferry"}), 0.9, 0.9, 1.0)


class Recorded(trace.Span):
    """A span that keeps what it was told."""

    def __init__(self, name: str, parent: trace.Span, kind: Any, attributes: Mapping[str, Any], begin: int) -> None:
        above = parent.get_span_context()
        self.name, self.kind, self.begin, self.end_time = name, kind, begin, 0
        self.attributes = dict(attributes)
        self.status = StatusCode.UNSET
        self.told: list[str] = []
        self.parent_id = above.span_id if above.is_valid else 0
        number = id(self) % 2**63 + 1
        self._context = SpanContext(above.trace_id or number, number, False, TraceFlags(1))

    def end(self, end_time: int | None = None) -> None:
        self.end_time = end_time or time.time_ns()

    def get_span_context(self) -> SpanContext:
        return self._context

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.attributes.update(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self.told.append(f"{name} {attributes}")

    def update_name(self, name: str) -> None:
        self.name = name

    def is_recording(self) -> bool:
        return not self.end_time

    def set_status(self, status: Any, description: str | None = None) -> None:
        self.status = getattr(status, "status_code", status)
        self.told.append(str(getattr(status, "description", description)))

    def record_exception(self, exception: BaseException, *args: Any, **more: Any) -> None:
        self.told.append(str(exception))


@dataclass
class Recorder(trace.TracerProvider, trace.Tracer):
    spans: list[Recorded] = field(default_factory=list)
    closed: bool = False

    def get_tracer(self, *args: Any, **more: Any) -> trace.Tracer:
        return self

    def start_span(  # type: ignore[override]
        self, name: str, context: Any = None, kind: Any = None, attributes: Any = None, *, start_time: int = 0, **_: Any
    ) -> Recorded:
        parent = trace.get_current_span(context)
        span = Recorded(name, parent, kind, attributes or {}, start_time or time.time_ns())
        self.spans.append(span)
        return span

    def start_as_current_span(self, name: str, *args: Any, **more: Any) -> Any:
        more.pop("record_exception", None), more.pop("set_status_on_exception", None), more.pop("end_on_exit", None)
        return trace.use_span(self.start_span(name, *args, **more), end_on_exit=True)

    def shutdown(self) -> None:
        self.closed = True

    def named(self, pattern: str) -> list[Recorded]:
        return [span for span in self.spans if re.fullmatch(pattern, span.name)]


def pipeline(answer: str) -> RagPipeline:
    return RagPipeline(
        generator=(model := QueueGenerator(answer)),
        counter=model,
        prompt=load_prompt("extractive"),
        retriever=ListRetriever(FOUND),
    )


def test_an_answer_is_a_tree_of_spans_with_the_conventions_attributes() -> None:
    recorder = Recorder()
    with serving(pipeline("At six."), traces=Traces(recorder)) as client:
        answered = ask(client, max_tokens=20, temperature=0, seed=MAX_SEED)
        assert answered.status_code == 200
        until(lambda: all(span.end_time for span in recorder.spans))
    (request,) = recorder.named("POST /v1/chat/completions")
    (whole,) = recorder.named("invoke_workflow smallhold")
    (retrieval,) = recorder.named("retrieval")
    (chat,) = recorder.named("chat small-1b")
    assert whole.parent_id == request.get_span_context().span_id
    assert {retrieval.parent_id, chat.parent_id} == {whole.get_span_context().span_id}
    usage = answered.json()["usage"]
    assert chat.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "smallhold",
        "gen_ai.request.model": "small-1b",
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.seed": 2**63 - 1,
        "gen_ai.response.model": "small-1b",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
    }
    assert whole.attributes["gen_ai.workflow.name"] == "smallhold"
    assert [span.kind for span in (whole, retrieval, chat)] == [SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.CLIENT]
    assert retrieval.attributes["gen_ai.operation.name"] == "retrieval"
    assert retrieval.attributes["smallhold.retrieved"] == 1
    assert whole.attributes["smallhold.verdict"] == "answered"
    assert whole.begin <= retrieval.begin <= retrieval.end_time <= chat.end_time <= whole.end_time
    assert recorder.closed


def test_a_client_that_traces_is_the_parent() -> None:
    recorder = Recorder()
    with serving(pipeline("At six."), traces=Traces(recorder)) as client:
        header = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
        client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "When?"}]}, headers=header)
    (request,) = recorder.named("POST /v1/chat/completions")
    assert request.parent_id == int("cd" * 8, 16)
    assert {span.get_span_context().trace_id for span in recorder.spans} == {int("ab" * 16, 16)}


def test_nothing_that_was_asked_read_or_said_is_in_any_span(tmp_path: Any) -> None:
    recorder, keys = Recorder(), tmp_path / "keys.json"
    key = create_key(keys, "me").text
    steps = (Delta(), Delta("At six."), Delta(answer=ANSWER), ValueError(SECRET), PromptTooLong(f"too long: {SECRET}"))
    for last in steps[2:]:
        script = Script(Delta(), Delta("At six."), last)
        with serving(script, traces=Traces(recorder), keys=keys, require_key=True) as client:
            client.headers["Authorization"] = f"Bearer {key}"
            ask(client)
            ask(client, stream=True).read()
            client.get("/v1/documents/text", params={"id": "secret-name.md"})
    told = repr([(span.name, span.attributes, span.told) for span in recorder.spans])
    assert len(recorder.named("GET /v1/documents/text")) == 3
    for text in ("ferry leave", "At six", "north ferry", key, "too long", "secret-name"):
        assert text not in told
    assert len(recorder.named("invoke_workflow smallhold")) == 6


def test_errors_and_clients_that_leave_are_told_by_their_kind() -> None:
    recorder = Recorder()
    with serving(Script(PromptTooLong("too long")), traces=Traces(recorder)) as client:
        assert error(ask(client), 400)["code"] == "context_length_exceeded"
    (whole,) = recorder.named("invoke_workflow smallhold")
    assert (whole.status, whole.attributes["error.type"]) == (StatusCode.ERROR, "context_length_exceeded")

    recorder, script = Recorder(), Script(*[Delta("x")] * 50, hold=True)
    with serving(script, traces=Traces(recorder)) as client:
        script.go.release(3)
        body = {"messages": [{"role": "user", "content": "When?"}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            next(reply.iter_lines())
        until(lambda: bool(script.go.release() or script.closed_streams))
    (whole,) = recorder.named("invoke_workflow smallhold")
    assert whole.attributes["error.type"] == "cancelled"
    assert whole.end_time


def test_two_models_that_were_asked_are_two_spans() -> None:
    recorder = Recorder()

    class Two(Script):
        def stream(self, question: str, history: Any, options: Any) -> Iterator[Delta]:
            clock = Clock()
            for _ in range(2):
                with clock.stage("generate"):
                    yield Delta()
            asked = (Asked("small-1b", Usage(5, 0, 1), 1.0, 0.2), Asked("large-9b", Usage(6, 2, 3), 1.0, 0.9))
            yield Delta(answer=type(ANSWER)("At six.", asked=asked, usage=Usage(11, 2, 4)))

    with serving(Two(), traces=Traces(recorder)) as client:
        assert events(ask(client, stream=True))
    used = [(span.name, span.attributes["gen_ai.usage.input_tokens"]) for span in recorder.named("chat .*")]
    assert used == [("chat small-1b", 5), ("chat large-9b", 6)]


def test_probes_are_not_traced_and_without_traces_nothing_is_watched() -> None:
    recorder = Recorder()
    with serving(Script(), traces=Traces(recorder)) as client:
        for path in ("/health", "/ready", "/metrics"):
            client.get(path)
    assert recorder.spans == []

    seen: list[object] = []

    class Looking(Script):
        def stream(self, question: str, history: Any, options: Any) -> Iterator[Delta]:
            seen.append(watched.get())
            return super().stream(question, history, options)

    with serving(Looking()) as client:
        assert ask(client).status_code == 200
    assert seen == [None]


def test_the_sdk_gets_the_same_spans() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with serving(pipeline("At six."), traces=Traces(provider)) as client:
        assert ask(client).status_code == 200
        # The request's own span ends last, some time after the client has its answer.
        until(lambda: "POST /v1/chat/completions" in {span.name for span in exporter.get_finished_spans()})
        spans = {span.name: span for span in exporter.get_finished_spans()}
    whole = spans["invoke_workflow smallhold"]
    assert whole.parent.span_id == spans["POST /v1/chat/completions"].context.span_id
    assert spans["chat small-1b"].parent.span_id == whole.context.span_id
    assert spans["retrieval"].attributes["gen_ai.operation.name"] == "retrieval"
    assert spans["chat small-1b"].attributes["gen_ai.usage.output_tokens"] == 2


def test_a_collector_that_does_not_answer_holds_up_no_end() -> None:
    class Unheard(Recorder):
        def shutdown(self) -> None:
            gone.wait(60)
            super().shutdown()

    gone, recorder = threading.Event(), Unheard()
    began = time.monotonic()
    Traces(recorder).close()
    assert time.monotonic() - began < 20
    gone.set()
    until(lambda: recorder.closed)


def test_without_the_sdk_the_setting_is_an_error_that_names_the_extra() -> None:
    assert open_traces("") is None
    try:
        import opentelemetry.sdk  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError) as refused:
            open_traces("http://127.0.0.1:4318")
        assert "smallhold[otel]" in refused.value.hint


def test_a_server_without_traces_loads_no_sdk() -> None:
    code = "import sys, rag.serve; print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_history_is_no_attribute() -> None:
    recorder = Recorder()
    with serving(pipeline("At six."), traces=Traces(recorder)) as client:
        messages = [Message("user", "Who built the mill?"), Message("assistant", "Ada."), Message("user", "When?")]
        body = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert "mill" not in repr([(span.name, span.attributes, span.told) for span in recorder.spans])
