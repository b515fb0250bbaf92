"""From logits to tokens and from tokens to text: greedy or nucleus sampling, stop strings, probabilities."""

import codecs
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from rag.datatypes import FinishReason, Sampling
from rag.errors import InvalidRequest
from rag.protocols import FloatArray


class Speller(Protocol):
    """What sampling needs of a vocabulary."""

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of `text`."""
        ...

    def bytes_of(self, token: int) -> bytes:
        """Return what a token stands for."""
        ...

    def ends(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        ...


class TokenFilter(Protocol):
    """Allows some tokens only, depending on those before."""

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        ...

    def masked(self, logits_v: FloatArray) -> FloatArray:
        """Return a copy of the logits with minus infinity for every token that may not come next."""
        ...

    def accept(self, token: int) -> None:
        """Take note of the token that was chosen."""
        ...


class Choice(NamedTuple):
    """What one step adds: a token, the text that can be shown now, its natural-log probability.

    `decline` is the probability of declining instead, at the first token of a request that asks for it.
    """

    token: int
    text: str
    logprob: float
    decline: float | None


class Writer:
    """Writes one answer: chooses each token and says when to end. `finish` is None while more is to come.

    Probabilities are those of the unscaled softmax over the whole vocabulary; only where declining was ruled out they
    are those of an answer, given that there is one: the abstention weighs the two apart.
    """

    def __init__(self, speller: Speller, sampling: Sampling, only: TokenFilter | None = None) -> None:
        self._speller = speller
        self._sampling = sampling
        self._only = only
        self._random = np.random.default_rng(sampling.seed)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = StopText(sampling.stop)
        self.written = 0
        self.finish: FinishReason | None = None

    def write(self, logits_v: FloatArray, scratch_v: FloatArray) -> Choice:
        """Choose the next token. `scratch_v` is overwritten; the logits are not.

        Raises `InvalidRequest` where the filter leaves nothing to choose from.
        """
        total = log_total(logits_v, scratch_v)
        allowed_v, decline = self._without_declining(logits_v, scratch_v, total)
        token = self._choose(allowed_v)
        self.written += 1
        text = self._show(token)
        if self.finish is None and self.written >= self._sampling.max_tokens:
            self.finish = "length"
        if decline is not None:
            total = log_total(allowed_v, np.empty_like(allowed_v))
        return Choice(token, text, float(logits_v[token]) - total, decline)

    def rest(self) -> str:
        """Return the text still held back, at the end."""
        return self._text.finish(self._decoder.decode(b"", final=True))

    def _choose(self, logits_v: FloatArray) -> int:
        token = choose_token(logits_v, self._sampling, self._random)
        if self._only is None:
            return token
        if not self._only.allows(token):
            # Drawing anew among what is allowed gives the same distribution as ruling the rest out first.
            allowed_v = self._only.masked(logits_v)
            if not np.isfinite(allowed_v.max()):
                raise InvalidRequest("no token of the model's vocabulary continues the answer as the grammar wants it")
            token = choose_token(allowed_v, self._sampling, self._random)
        if not self._speller.ends(token):
            self._only.accept(token)
        return token

    def _show(self, token: int) -> str:
        if self._speller.ends(token):
            # The end token's probability counts: it says how sure the model is that the answer is complete.
            self.finish = "stop"
            return ""
        text = self._text.add(self._decoder.decode(self._speller.bytes_of(token)))
        if self._text.stopped:
            self.finish = "stop"
        return text

    def _without_declining(
        self, logits_v: FloatArray, scratch_v: FloatArray, total: float
    ) -> tuple[FloatArray, float | None]:
        """Return the first token's logits with the one that begins the phrase ruled out, and how likely that was.

        The first token stands for the phrase: reading on to its end would cost two more steps of writing a passage.
        An answer that begins with the very same token is lost; "unanswerable" begins with "un", without a space before.
        """
        if self.written or not self._sampling.decline:
            return logits_v, None
        token = self._speller.tokens(self._sampling.decline)[0]
        np.copyto(scratch_v, logits_v)
        scratch_v[token] = -np.inf
        return scratch_v, float(np.exp(float(logits_v[token]) - total))


class StopText:
    """Text on its way out, held back while its end might be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [s for s in stops if s]
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """Take new text and return what may be shown; `stopped` becomes true once a stop string is complete."""
        self._held += text
        cuts = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if cuts:
            self.stopped = True
            out, self._held = self._held[: min(cuts)], ""
            return out
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def finish(self, text: str) -> str:
        """Return all that is still held; nothing once stopped."""
        return "" if self.stopped else self.add(text) + self._held


def choose_token(logits_v: FloatArray, sampling: Sampling, random: np.random.Generator) -> int:
    """Choose from logits `(v,)`: the likeliest at temperature 0, else one drawn from the nucleus."""
    return int(logits_v.argmax()) if sampling.temperature == 0 else _sample(logits_v, sampling, random)


def log_total(logits_v: FloatArray, scratch_v: FloatArray) -> float:
    """Return the logarithm of the softmax's denominator; `scratch_v`, of the same shape, is overwritten."""
    peak = logits_v.max()
    np.subtract(logits_v, peak, out=scratch_v)
    np.exp(scratch_v, out=scratch_v)
    return float(peak) + float(np.log(scratch_v.sum()))


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` begin `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _sample(logits_v: FloatArray, sampling: Sampling, random: np.random.Generator) -> int:
    scaled = (logits_v.astype(np.float64) - float(logits_v.max())) / sampling.temperature
    p = np.exp(scaled)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    # Nucleus sampling (Holtzman et al. 2020): the fewest likeliest tokens that reach top_p together.
    keep = order[: int(np.searchsorted(np.cumsum(p[order]), sampling.top_p)) + 1]
    return int(random.choice(keep, p=p[keep] / p[keep].sum()))
