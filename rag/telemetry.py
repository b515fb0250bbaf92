"""Figures of a running server for Prometheus. Each application has a registry of its own; nothing is global."""

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag.cost import Cost
from rag.datatypes import Answer, PrefixCounters, Verdict
from rag.lanes import Lane
from rag.loader import IndexStatus
from rag.logs import route_of

# A lookup takes milliseconds, an answer on two cores seconds, one behind a full queue minutes.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180)


class Telemetry:
    """The metrics and what feeds them. Labels take few values: routes, not paths; stages, not questions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "smallhold_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "smallhold_request_seconds",
            "Seconds from a request to the end of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._in_flight = Gauge("smallhold_requests_in_flight", "Requests being answered.", registry=self.registry)
        self._stages = Histogram(
            "smallhold_stage_seconds", "Seconds by stage.", ["stage"], buckets=_SECONDS, registry=self.registry
        )
        self._first_text = Histogram(
            "smallhold_first_text_seconds",
            "Seconds from a question to the first text of its answer, streamed or not.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "smallhold_tokens",
            "Tokens: prompt (cached ones included), cached, completion.",
            ["kind"],
            registry=self.registry,
        )
        self._answers = Counter(
            "smallhold_answers",
            "Questions answered, and those the documents did not answer.",
            ["verdict"],
            registry=self.registry,
        )
        # So that they are there, as 0, before the first one: else its increase is not seen, and no share is one of 0.
        for verdict in Verdict:
            self._answers.labels(verdict.value)
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(kind)
        self._asked = Counter(
            "smallhold_asked",
            "Questions put to each model, where a larger one helps out; `failed`: it could not be asked.",
            ["model", "failed"],
            registry=self.registry,
        )
        self._dollars = Counter(
            "smallhold_cost_dollars", "US dollars that answers cost, where prices are stated.", registry=self.registry
        )
        self._baseline_dollars = Counter(
            "smallhold_cost_baseline_dollars",
            "US dollars that their tokens had cost at the baseline's prices.",
            registry=self.registry,
        )
        # A gauge, since an answer that costs more than it had cost there takes something away again.
        self._saved = Gauge(
            "smallhold_cost_saved_dollars",
            "The second less the first, of answers of which both are known.",
            registry=self.registry,
        )
        self._abandoned = Counter(
            "smallhold_abandoned", "Requests whose client went away before the end.", registry=self.registry
        )
        self._overloads = Counter(
            "smallhold_overloads", "Requests refused because too many waited.", ["lane"], registry=self.registry
        )
        self._depth = Gauge("smallhold_queue_depth", "Requests waiting.", ["lane"], registry=self.registry)
        self._running = Gauge("smallhold_running", "Requests being worked on.", ["lane"], registry=self.registry)
        self._ready = Gauge("smallhold_ready", "1 when questions can be answered.", registry=self.registry)

    def watch_lane(self, lane: Lane) -> None:
        """Read the lane's figures whenever the metrics are asked for."""
        self._depth.labels(lane.name).set_function(lambda: lane.depth)
        self._running.labels(lane.name).set_function(lambda: lane.running)
        self._overloads.labels(lane.name)  # so that it is there, as 0, before the first one

    def watch_ready(self, ready: Callable[[], bool]) -> None:
        """Read whether the server is ready whenever the metrics are asked for."""
        self._ready.set_function(ready)

    def watch_process(self, restarts: Callable[[], int], taken: Callable[[], int | None]) -> None:
        """Read how often the model's process was started again, and the bytes of memory that it takes, whenever the
        metrics are asked for; None shows nothing.
        """
        self.registry.register(_Process(restarts, taken))

    def watch_prefixes(self, prefixes: Callable[[], PrefixCounters | None]) -> None:
        """Read how the model uses what it has read before whenever the metrics are asked for; None shows nothing."""
        self.registry.register(_Prefixes(prefixes))

    def request_began(self) -> None:
        """Count a request in."""
        self._in_flight.inc()

    def request_ended(self, route: str, status: int, seconds: float) -> None:
        """Count a request out."""
        self._in_flight.dec()
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def answered(self, answer: Answer, waited: float, first_text: float | None, cost: Cost | None = None) -> None:
        """Take an answer's figures. `first_text` is None where no text came, as with an abstention."""
        self._answers.labels(answer.verdict.value).inc()
        self.stages({"queue": waited, **answer.timings})
        self._tokens.labels("prompt").inc(answer.usage.prompt)
        self._tokens.labels("cached").inc(answer.usage.cached)
        self._tokens.labels("completion").inc(answer.usage.completion)
        for asked in answer.asked:
            self._asked.labels(asked.model, str(bool(asked.error)).lower()).inc()
        if first_text is not None:
            self._first_text.observe(first_text)
        if cost is not None:
            self._paid(cost)

    def _paid(self, cost: Cost) -> None:
        if cost.dollars is not None:
            self._dollars.inc(cost.dollars)
        if cost.baseline_dollars is not None:
            self._baseline_dollars.inc(cost.baseline_dollars)
        if cost.dollars is not None and cost.baseline_dollars is not None:
            self._saved.inc(cost.baseline_dollars - cost.dollars)

    def stages(self, timings: Mapping[str, float]) -> None:
        """Take the seconds of some stages."""
        for stage, seconds in timings.items():
            self._stages.labels(stage).observe(seconds)

    def abandoned(self) -> None:
        """Count a client that went away."""
        self._abandoned.inc()

    def overloaded(self, lane: str) -> None:
        """Count a refusal."""
        self._overloads.labels(lane).inc()

    def exposition(self, index: IndexStatus) -> bytes:
        """Every figure in Prometheus's text format; those of the index are given, since keys see different ones."""
        of_the_index = CollectorRegistry()
        of_the_index.register(_Index(index))
        return generate_latest(self.registry) + generate_latest(of_the_index)


class _Process(Collector):
    """The model's process. The counter is kept elsewhere: the library's own can only be counted up here."""

    def __init__(self, restarts: Callable[[], int], taken: Callable[[], int | None]) -> None:
        self._restarts = restarts
        self._taken = taken

    def collect(self) -> Iterator[Metric]:
        """Yield the figures as they are now."""
        what = "Times the process that runs the model was started again."
        yield CounterMetricFamily("smallhold_model_restarts", what, value=self._restarts())
        if (taken := self._taken()) is not None:
            held = "Memory of that process, weights included; process_resident_memory_bytes is the server's own."
            yield GaugeMetricFamily("smallhold_model_resident_bytes", held, value=taken)


class _Index(Collector):
    """The generation of the index that is served, and what became of those that were published."""

    def __init__(self, status: IndexStatus) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield the figures; without an index those that count alone."""
        status = self._status
        if status.facts is not None:
            named = "Number of the index generation that answers come from."
            yield GaugeMetricFamily("smallhold_index_generation", named, value=int(status.facts.generation))
            yield GaugeMetricFamily(
                "smallhold_index_documents",
                "Documents in it that this key may see.",
                value=status.facts.documents,
            )
            yield GaugeMetricFamily("smallhold_index_chunks", "Passages in these.", value=status.facts.chunks)
        stale = "1 where a newer generation was published that cannot be served."
        yield GaugeMetricFamily("smallhold_index_stale", stale, value=status.fault is not None)
        published = CounterMetricFamily(
            "smallhold_index_published", "Generations taken after the first, and refusals of one.", labels=["outcome"]
        )
        published.add_metric(["taken"], status.taken)
        published.add_metric(["refused"], status.refused)
        yield published


class _Prefixes(Collector):
    """The model's own counters. They begin anew with its process, as Prometheus expects of a counter."""

    def __init__(self, prefixes: Callable[[], PrefixCounters | None]) -> None:
        self._prefixes = prefixes

    def collect(self) -> Iterator[Metric]:
        """Yield the counters as they are now."""
        counters = self._prefixes()
        if counters is None:
            return
        missed = "Prompts that were read from the first token, since no beginning of theirs was kept."
        yield CounterMetricFamily("smallhold_prefix_misses", missed, value=counters.misses)
        hits = CounterMetricFamily(
            "smallhold_prefix_hits", "Prompts whose beginning had been read and was kept there.", labels=["tier"]
        )
        tokens = CounterMetricFamily(
            "smallhold_prefix_tokens", "Prompt tokens that were not read again for it.", labels=["tier"]
        )
        states = GaugeMetricFamily("smallhold_prefix_states", "Read beginnings that are kept there.", labels=["tier"])
        size = GaugeMetricFamily(
            "smallhold_prefix_bytes", "Bytes that they take; on disk those of all models.", labels=["tier"]
        )
        for name, tier in (("context", counters.context), ("memory", counters.memory), ("disk", counters.disk)):
            hits.add_metric([name], tier.hits)
            tokens.add_metric([name], tier.tokens)
            states.add_metric([name], tier.states)
            size.add_metric([name], tier.bytes)
        yield from (hits, tokens, states, size)


class Measured:
    """ASGI middleware that counts and times requests by route and status."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note its route, status and seconds."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # stays where the client left before a response began
        began = time.perf_counter()

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._telemetry.request_began()
        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            self._telemetry.request_ended(route_of(scope), status, time.perf_counter() - began)
