"""A generator behind any OpenAI-compatible endpoint: the one module that knows httpx as the client of a model.

What may pass (429, 5xx, no connection) is tried again until the endpoint has accepted the request; a stream that
breaks later fails, for its text is out already. Endpoints differ in what they accept: a parameter that one refuses is
left out from then on. Whatever is waited for, an empty piece comes several times a second, at which a reader may leave.
"""

import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import httpx

from rag.datatypes import Message, Piece, Sampling, Usage
from rag.errors import ConfigError, EndpointFailed, InvalidRequest, PromptTooLong
from rag.pacing import Pace, pause
from rag.remote_exchange import STEP, Exchange, Exchanges, Head
from rag.remote_stream import BadAnswer, StreamedAnswer, error_message

# Bounds on what an endpoint may send; answers here are a few kilobytes.
MAX_ANSWER_BYTES = 50_000_000
MAX_ERROR_BYTES = 64_000
MAX_ERROR_SECONDS = 10.0  # a body that drips would hold a lane of the server for good

# Beyond the common core. An endpoint that answers 400 naming some of these is asked again without them; one that names
# none is asked without those that change no answer.
_DROPPABLE = ("stream_options", "logprobs", "seed", "top_p", "temperature")
_WITHOUT_EFFECT = ("stream_options", "logprobs", "seed")

_MAY_PASS = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)


class EndpointGenerator:
    """A language model at `endpoint` (its base URL, such as `https://host/v1`). Usable from several threads.

    The key is read from the environment variable `api_key_env` for each request and kept nowhere; where the variable
    is unset none is sent. `timeout` is the longest silence and `deadline` the longest answer, in seconds; `retries`
    counts further attempts. With `requests_per_minute` above 0 requests begin that far apart, repeated ones too.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        api_key_env: str = "",
        timeout: float = 120.0,
        deadline: float = 600.0,
        retries: int = 4,
        requests_per_minute: float = 0.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        url = _parse_url(endpoint)
        self._url = url.copy_with(path=url.path.rstrip("/") + "/chat/completions")
        self._model = model
        self._key = _Key(api_key_env)
        self._deadline = deadline
        self._retries = retries
        self._sleep = sleep
        self._pace = Pace(requests_per_minute, clock)
        self._exchanges = Exchanges(httpx.Timeout(timeout, connect=min(timeout, 10.0)))
        self._refused: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"EndpointGenerator({self._where!r}, {self._model!r})"

    def close(self) -> None:
        """Close the connections. Whoever still waits for an answer gets `EndpointFailed`. Idempotent."""
        self._exchanges.close()

    @property
    def waited(self) -> float:
        """Seconds that the requests of this thread have so far waited for a turn under `requests_per_minute`."""
        return self._pace.waited

    def count(self, text: str) -> int:
        """Estimate the tokens of `text`: a third of its bytes, more than tokenizers make of prose in Latin script.

        An endpoint has no tokenizer to ask, and a budget that is kept by too high a count is kept.
        """
        return math.ceil(len(text.encode("utf-8", "replace")) / 3)

    def stream(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, None]:
        """Yield the answer as it comes, and empty pieces while nothing does; the last has `finish_reason` and `usage`.

        That `usage` is all zero where the endpoint tells none. When the endpoint has accepted the request, a piece
        without text estimates the prompt's tokens: it bills them also where the reader breaks off before the end, and
        then tells no usage. Close the iterator to cancel. Raises `EndpointFailed`, and `PromptTooLong` where the
        endpoint says so.
        """
        exchange, head = yield from self._open(messages, sampling)
        with closing(exchange):
            yield Piece("", usage=Usage(prompt=sum(self.count(message.content) for message in messages)))
            answer = StreamedAnswer()
            whole = "json" in head.headers.get("Content-Type", "")
            body = self._bounded(exchange)
            try:
                yield from answer.read_whole(body) if whole else answer.read_stream(body)
                end = answer.last_piece()
            except httpx.HTTPError as error:
                raise EndpointFailed(f"{self._where} broke off its answer: {_describe(error)}") from error
            except BadAnswer as error:
                raise EndpointFailed(f"{self._where} {self._key.redact(str(error))}") from error
            yield end

    def _open(self, messages: Sequence[Message], sampling: Sampling) -> Generator[Piece, None, tuple[Exchange, Head]]:
        """Send the request until it is accepted. Raises what the last attempt failed with."""
        failed = 0
        while True:
            failure, retry_after, left_out = None, "", self._refused
            yield from self._rest(self._pace.turn(), self._pace.slept)
            request = self._request(messages, sampling, left_out)
            with ExitStack() as opened:
                exchange = opened.enter_context(
                    closing(self._exchanges.begin(request, self._key, most=MAX_ANSWER_BYTES))
                )
                try:
                    while (head := exchange.head()) is None:
                        yield Piece("")
                except _MAY_PASS as error:
                    failure = EndpointFailed(f"{self._where} cannot be reached: {_describe(error)}")
                    failure.__cause__ = error
                except httpx.HTTPError as error:
                    raise EndpointFailed(f"{self._where} cannot be asked: {_describe(error)}") from error
                else:
                    if head.status == 200:
                        opened.pop_all()
                        return exchange, head
                    failure = yield from self._refusal(exchange, head, left_out)
                    retry_after = head.headers.get("Retry-After", "")
            if failure is None:
                continue
            if failed == self._retries:
                raise failure
            yield from self._rest(pause(failed, retry_after))
            failed += 1

    def _rest(self, seconds: float, note: Callable[[float], None] = lambda _: None) -> Iterator[Piece]:
        """Let time pass, and note what has passed."""
        while seconds > 0:
            step = min(seconds, STEP)
            self._sleep(step)
            note(step)
            seconds -= step
            yield Piece("")

    def _request(self, messages: Sequence[Message], sampling: Sampling, left_out: frozenset[str]) -> httpx.Request:
        if sampling.grammar:
            raise InvalidRequest("a grammar cannot be sent to an endpoint", hint="Use a local model.")
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": _encodable(message.content)} for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        # Newer models of OpenAI know only the second name, most other servers only the first.
        body["max_completion_tokens" if "max_tokens" in left_out else "max_tokens"] = sampling.max_tokens
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        accepted = {key: value for key, value in body.items() if key not in left_out}
        return self._exchanges.request(self._url, accepted)

    def _refusal(
        self, exchange: Exchange, head: Head, left_out: frozenset[str]
    ) -> Generator[Piece, None, EndpointFailed | None]:
        """Judge a status other than 200: return what may pass, None for "ask again without that", raise the rest.

        The request that was refused had left out `left_out`.
        """
        status, text = head.status, (yield from self._error_text(exchange))
        if status in (400, 413, 422) and _exceeds_context(text):
            raise PromptTooLong(f"the prompt does not fit {self._model}: {text}")
        if status in (400, 422) and self._leave_out(text, left_out):
            return None
        failure = EndpointFailed(
            f"{self._where} answered {status}: {text}", hint=self._key.hint if status in (401, 403) else ""
        )
        if status in (408, 425, 429) or status >= 500:
            return failure
        raise failure

    def _leave_out(self, error: str, left_out: frozenset[str]) -> bool:
        """Note the parameters that a 400 is about; False where there is nothing left to leave out.

        What counts is what this very request had in it: another thread may have noted the same meanwhile.
        """
        named = {"max_tokens"} if "max_completion_tokens" in error else {name for name in _DROPPABLE if name in error}
        new = (named or set(_WITHOUT_EFFECT)) - left_out
        self._refused |= new
        return bool(new)

    def _bounded(self, exchange: Exchange) -> Iterator[bytes | None]:
        """Yield the body as it comes, None while nothing does."""
        began, size = time.monotonic(), 0
        while (chunk := exchange.chunk()) != b"":
            size += len(chunk or b"")
            if size > MAX_ANSWER_BYTES:
                raise BadAnswer(f"sent more than {MAX_ANSWER_BYTES:,} bytes")
            if time.monotonic() - began > self._deadline:
                raise BadAnswer(f"came to no end within {self._deadline:g} seconds")
            yield chunk

    def _error_text(self, exchange: Exchange) -> Generator[Piece, None, str]:
        """Return what an error response says, in one line, without the key."""
        body, began = b"", time.monotonic()
        try:
            while (chunk := exchange.chunk()) != b"":
                body += chunk or b""
                if len(body) > MAX_ERROR_BYTES or time.monotonic() - began > MAX_ERROR_SECONDS:
                    break
                if chunk is None:
                    yield Piece("")
        except httpx.HTTPError:
            pass  # the status is known; a body that breaks off only says less
        return self._key.redact(error_message(body))

    @property
    def _where(self) -> str:
        """The address without its query, which might hold a secret."""
        return str(self._url.copy_with(query=None))


class _Key(httpx.Auth):
    """Puts the key of an environment variable on a request, reading it there and then."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    @property
    def hint(self) -> str:
        """What to do about a refused key."""
        if not self._variable:
            return "Name the environment variable that holds the key in `api_key_env`."
        state = "holds a key that is refused" if self._read() else "is not set"
        return f"The environment variable {self._variable} {state}."

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header where there is a key."""
        if self._read():
            request.headers["Authorization"] = f"Bearer {self._read()}"
        yield request

    def redact(self, text: str) -> str:
        """Return a text without the key in it."""
        return text.replace(self._read(), "***") if self._read() else text

    def _read(self) -> str:
        key = os.environ.get(self._variable, "").strip() if self._variable else ""
        if not key.isascii() or not key.isprintable():
            raise ConfigError(f"the environment variable {self._variable} holds no key: it has odd characters")
        return key


def _parse_url(endpoint: str) -> httpx.URL:
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL as error:
        raise ConfigError(f"the endpoint is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError("the endpoint must be an http or https URL", hint="For instance https://host/v1.")
    if url.userinfo:
        raise ConfigError("the endpoint's URL must not hold a user or password", hint="Use an environment variable.")
    return url


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _exceeds_context(error: str) -> bool:
    return any(words in error.lower() for words in ("context_length_exceeded", "context length", "context window"))


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
