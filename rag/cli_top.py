"""`smallhold top`: a running server at a glance, from its `/ready` and `/metrics`."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import httpx
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rag import console
from rag.errors import ConfigError, DataError, SmallholdError, Unauthorized, Unavailable
from rag.figures import Reading, Span, read_figures, stages
from rag.guard import is_loopback

WINDOW_SECONDS = 60.0  # what rates and quantiles are taken over, so that a few requests a minute still show
MAX_BYTES = 8_000_000
_SECONDS = httpx.Timeout(5.0)
_UNKNOWN = "-"


class Look(NamedTuple):
    """What a server says at one moment: its figures, and what `/ready` answers."""

    figures: Reading
    ready: dict[str, Any]


class Watched:
    """A server that is looked at."""

    def __init__(self, url: str, key: str | None) -> None:
        try:
            address = httpx.URL(url if "://" in url else f"http://{url}")
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.scheme not in {"http", "https"} or not address.host or (address.port or 0) > 65_535:
            raise ConfigError(f"{url!r} is no address of a server", hint="For instance --url http://127.0.0.1:8080.")
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigError(
                "the API key has characters that no key has", hint="Was it copied whole, and nothing else?"
            )
        self.url = f"{address.scheme}://{address.netloc.decode()}{address.path.rstrip('/')}"  # a proxy's, for one
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A proxy that the environment names knows nothing of this machine's own addresses.
        self._client = httpx.Client(
            base_url=self.url, headers=headers, timeout=_SECONDS, trust_env=not is_loopback(address.host)
        )

    def look(self) -> Look:
        """Ask it. Raises `Unavailable` where nothing answers, `Unauthorized`, and `DataError` for another server."""
        metrics, ready = self._get("/metrics"), self._get("/ready")
        if metrics.status_code in (401, 403):
            raise Unauthorized(
                f"{self.url} shows its figures to those with an API key alone",
                hint="Give one with --key or in SMALLHOLD_API_KEY; `smallhold keys create` makes one.",
            )
        if metrics.status_code != 200:
            raise DataError(f"{self.url}/metrics answers {metrics.status_code}", hint="Is it a `smallhold serve`?")
        return Look(read_figures(metrics.text, time.time()), _object(ready))

    def close(self) -> None:
        """Release the connection."""
        self._client.close()

    def _get(self, path: str) -> httpx.Response:
        try:
            with self._client.stream("GET", path) as reply:
                body = b""
                for chunk in reply.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise DataError(f"{self.url}{path} sends more than {MAX_BYTES:,} bytes")
                return httpx.Response(reply.status_code, content=body)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"no server answers at {self.url} ({type(error).__name__})",
                hint="Start one with `smallhold serve`, or give the address of another with --url.",
            ) from error


def show_once(url: str, key: str | None) -> None:
    """Print what a server did since it was started, as plain lines."""
    watched = Watched(url, key)
    try:
        look = watched.look()
    finally:
        watched.close()
    for name, said in rows(watched.url, look, Span(look.figures.started(), look.figures)):
        console.out.print(f"{name:<12}{said}", markup=False)


def show_live(url: str, key: str | None, interval: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show what a server does until Ctrl-C. One that does not answer from the beginning is an error, later it is said.

    Rates and quantiles are those of the last minute, at first those since the server was started.
    """
    watched = Watched(url, key)
    looks: deque[Reading] = deque()
    look = watched.look()
    try:
        with Live(_screen(watched.url, look, looks), console=console.out, auto_refresh=False, screen=False) as live:
            while True:
                sleep(interval)
                try:
                    look = watched.look()
                except SmallholdError as error:
                    looks.clear()
                    live.update(Text(error.message, style="red"), refresh=True)
                    continue
                live.update(_screen(watched.url, look, looks), refresh=True)
    except KeyboardInterrupt:
        pass
    finally:
        watched.close()


def _screen(url: str, look: Look, looks: "deque[Reading]") -> Group:
    """Take note of a look, and return what is shown."""
    now = look.figures
    while len(looks) > 1 and now.at - looks[1].at >= WINDOW_SECONDS:
        looks.popleft()
    span = Span(looks[0] if looks else now.started(), now)
    looks.append(now)
    table = Table.grid(padding=(0, 2))
    for name, said in rows(url, look, span):
        table.add_row(f"[bold]{name}[/]", escape(said))
    return Group(table, Text("Ctrl-C ends this", style="dim"))


def rows(url: str, look: Look, span: Span) -> list[tuple[str, str]]:
    """Return what is shown, as names and lines."""
    now, ready = look.figures, look.ready
    return [
        ("server", _server(url, ready, now)),
        ("over", f"the last {_duration(span.seconds)}"),
        ("requests", _requests(span)),
        ("refused", _refused(span)),
        ("answers", _answers(span)),
        ("tokens", _tokens(span)),
        ("first text", _quantiles(span, "smallhold_first_text_seconds")),
        ("stages", ", ".join(f"{stage} {_seconds(mean)}" for stage, mean in stages(span)) or _UNKNOWN),
        ("index", _index(ready, now)),
        ("memory", _memory(now)),
        ("cost", _cost(now)),
    ]


def _server(url: str, ready: dict[str, Any], now: Reading) -> str:
    status = str(ready.get("status", "unknown"))
    model = f", {ready['model']}" if ready.get("model") else ""
    reason = f": {ready['reason']}" if ready.get("reason") else ""
    restarts = now.value("smallhold_model_restarts_total")
    again = f", model started again {restarts:.0f} times" if restarts else ""
    return f"{url}{model}, {status}{reason}, up {_duration(now.at - now.started().at)}{again}"


def _requests(span: Span) -> str:
    asked = _of_clients(span.by("route", "smallhold_requests_total"))
    waiting = _labelled(span.now, "smallhold_queue_depth")
    running = _labelled(span.now, "smallhold_running")
    in_flight = span.now.value("smallhold_requests_in_flight") or 0.0
    # Less the one that asks for these figures.
    return (
        f"{asked / span.seconds:.2f}/s, {max(in_flight - 1, 0):.0f} in flight; worked on: {running}; waiting: {waiting}"
    )


def _of_clients(by_route: dict[str, float]) -> float:
    return sum(count for route, count in by_route.items() if route.startswith("/v1/"))


def _labelled(now: Reading, name: str) -> str:
    return ", ".join(f"{sample.labels['lane']} {sample.value:.0f}" for sample in now.of(name)) or _UNKNOWN


def _refused(span: Span) -> str:
    statuses = span.by("status", "smallhold_requests_total")
    told = [f"{status}: {count:.0f}" for status, count in sorted(statuses.items()) if status >= "400" and count]
    gone = span.increase("smallhold_abandoned_total")
    return "; ".join([", ".join(told) or "none", *([f"{gone:.0f} clients went away"] if gone else [])])


def _answers(span: Span) -> str:
    verdicts = span.by("verdict", "smallhold_answers_total")
    total = sum(verdicts.values())
    withheld = total - verdicts.get("answered", 0.0)
    return f"{total:.0f} ({total / span.seconds:.2f}/s), abstained {_share(withheld, total)}"


def _tokens(span: Span) -> str:
    kinds = span.by("kind", "smallhold_tokens_total")
    prompt, cached = kinds.get("prompt", 0.0), kinds.get("cached", 0.0)
    hits = span.by("tier", "smallhold_prefix_hits_total")
    found, missed = sum(hits.values()), span.increase("smallhold_prefix_misses_total")
    kept = f", beginnings found {_share(found, found + missed)}" if found + missed else ""
    written, read = kinds.get("completion", 0.0) / span.seconds, prompt / span.seconds
    return f"{written:.1f}/s written, {read:.1f}/s of prompts, {_share(cached, prompt)} of these cached{kept}"


def _quantiles(span: Span, name: str) -> str:
    half, most = span.quantile(0.5, name), span.quantile(0.95, name)
    return _UNKNOWN if half is None or most is None else f"p50 {_seconds(half)}, p95 {_seconds(most)}"


def _index(ready: dict[str, Any], now: Reading) -> str:
    generation = now.value("smallhold_index_generation")
    if generation is None:
        return _UNKNOWN
    documents, chunks = (now.value(f"smallhold_index_{name}") or 0.0 for name in ("documents", "chunks"))
    told = ready.get("index")
    refused = told.get("refused") if isinstance(told, dict) else ""
    stale = f"; a newer one is refused: {refused}" if now.value("smallhold_index_stale") else ""
    return f"generation {generation:.0f}, {documents:.0f} documents, {chunks:.0f} passages{stale}"


def _memory(now: Reading) -> str:
    resident, files = now.value("process_resident_memory_bytes"), now.value("process_open_fds")
    shown = _UNKNOWN if resident is None else f"{resident / 1e6:.0f} MB"
    if model := now.value("smallhold_model_resident_bytes"):
        shown += f", the model's process {model / 1e6:.0f} MB"
    return shown if files is None else f"{shown}, {files:.0f} open files"


def _cost(now: Reading) -> str:
    paid, saved = now.value("smallhold_cost_dollars_total"), now.value("smallhold_cost_saved_dollars")
    if not paid and not saved:
        return "no prices are stated (settings cost.*), or nothing was answered"
    return f"${paid or 0:.6f} since the start, ${saved or 0:.6f} less than at the baseline's prices"


def _object(reply: httpx.Response) -> dict[str, Any]:
    try:
        found = reply.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else _UNKNOWN


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def _duration(seconds: float) -> str:
    units: Sequence[tuple[str, int]] = (("d", 86_400), ("h", 3600), ("min", 60))
    whole = round(seconds)
    for name, size in units:
        if whole >= size:
            rest = _rest(whole % size, units)
            return f"{whole // size} {name}{rest}"
    return f"{whole} s"


def _rest(seconds: int, units: Iterable[tuple[str, int]]) -> str:
    """The next smaller unit, where there is some of it."""
    for name, size in units:
        if seconds >= size:
            return f" {seconds // size} {name}"
    return ""
