"""What is divided by what, and what is wanted of it.

Times and rates are medians over all samples; "the best peer" is the one with the least median time or the greatest
median rate. A ratio of which a part was not measured is None, never a guess.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.engine.journal import BARE, LLAMA_CPP_PYTHON, LLAMA_SERVER, MACHINE, OURS, PEERS, Journal

Compute = Callable[[Journal], float | None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio, how it comes about, and what is wanted: at most (`"<="`) or at least (`">="`) `bound`, if anything."""

    name: str
    about: str
    side: str
    bound: float | None
    compute: Compute

    def reached(self, value: float | None) -> bool | None:
        """Whether the bound is kept; None where there is no value, or nothing is wanted of it."""
        if value is None or self.bound is None:
            return None
        return value <= self.bound if self.side == "<=" else value >= self.bound


def quotient(above: float | None, below: float | None) -> float | None:
    """Return above / below; None where either is missing, or below is 0."""
    return above / below if above is not None and below else None


def to_quickest(figure: str, systems: Sequence[str] = PEERS) -> Compute:
    """Our time over the best peer's: below 1 we are quicker."""

    def compute(journal: Journal) -> float | None:
        theirs = [found for name in systems if (found := journal.median(figure, name)) is not None]
        return quotient(journal.median(figure, OURS), min(theirs, default=None))

    return compute


def to_highest(figure: str, systems: Sequence[str] = PEERS) -> Compute:
    """Our rate over the best peer's: above 1 we do more."""

    def compute(journal: Journal) -> float | None:
        theirs = [found for name in systems if (found := journal.median(figure, name)) is not None]
        return quotient(journal.median(figure, OURS), max(theirs, default=None))

    return compute


def answers_warm(journal: Journal) -> float | None:
    """Our answers a minute over passages read before, over the best peer's, who have nothing read beforehand."""
    theirs = [found for name in PEERS if (found := journal.median("answers_per_minute", name)) is not None]
    return quotient(journal.median("answers_per_minute_warm", OURS), max(theirs, default=None))


def f1_lead(journal: Journal) -> float | None:
    """Our F1 less the best peer's, over the same questions."""
    ours = journal.mean("f1", OURS)
    theirs = [found for name in PEERS if (found := journal.mean("f1", name)) is not None]
    return ours - max(theirs) if ours is not None and theirs else None


def decode_share(journal: Journal, system: str = OURS) -> float | None:
    """Bytes of weights that a system's writing reads in a second, over what the memory gives in a second.

    Bytes of weights per token are all tensors of the file but the table of input embeddings, which is looked up (it
    counts where it is the output layer as well). Keys and values are left out: under 1% at these depths.
    """
    rate, weights = journal.median("decode_tokens_per_second", system), journal.median("bytes_per_token", MACHINE)
    moved = rate * weights if rate is not None and weights is not None else None
    return quotient(moved, best(journal, "bandwidth_"))


def prefill_share(journal: Journal, system: str = OURS) -> float | None:
    """2 x weights in matrices x prompt tokens a second, over the greatest measured rate of a matrix product.

    The output layer is left out, since of a prompt only the last token passes it, and so is attention (some 3%).
    """
    rate, weights = journal.median("prefill_tokens_per_second", system), journal.median("prompt_matrices", MACHINE)
    done = 2 * rate * weights if rate is not None and weights is not None else None
    return quotient(done, best(journal, "gemm_"))


def python_share(journal: Journal) -> float | None:
    """1 - (a bare loop of llama_decode) / (our engine), seconds per written token, one stream, the same depth."""
    part = quotient(journal.median("seconds_per_token", BARE), journal.median("seconds_per_token", OURS))
    return None if part is None else 1 - part


def best(journal: Journal, prefix: str) -> float | None:
    """Return the highest median among the machine's figures whose name begins so: the strictest limit."""
    found = [journal.median(figure, MACHINE) for figure in journal.figures() if figure.startswith(prefix)]
    return max((value for value in found if value is not None), default=None)


RATIOS = (
    Ratio("ttft_seen", "time to first token, passage read before: ours / best peer's", "<=", 0.2,
          to_quickest("ttft_seen")),
    Ratio("ttft_cold", "time to first token, same tokens, never seen: ours / best peer's", "<=", 1.0,
          to_quickest("ttft_cold")),
    Ratio("answers_per_minute", "answers a minute, one client: ours / best peer's", ">=", 3.0,
          to_highest("answers_per_minute")),
    Ratio("tokens_per_second_8", "tokens a second, eight clients: ours / llama-server's", ">=", 1.0,
          to_highest("tokens_per_second_8", (LLAMA_SERVER,))),
    Ratio("decode_share_of_limit", "tokens a second x bytes per token / memory bandwidth", ">=", 0.70, decode_share),
    Ratio("prefill_share_of_limit", "2 x matrix weights x tokens a second / matrix product peak", ">=", 0.40,
          prefill_share),
    Ratio("python_share", "1 - bare llama_decode / ours, a written token", "<=", 0.03, python_share),
)  # fmt: skip

# Conditions of the same list that have no name of their own there.
FURTHER = (
    Ratio("f1_lead", "F1: ours - best peer's", ">=", 0.0, f1_lead),
    Ratio("answers_per_minute_warm", "the same, ours with passages read beforehand (smallhold warm)", ">=", 3.0,
          answers_warm),
    Ratio("tokens_per_second_8_python", "tokens a second, eight clients: ours / llama-cpp-python's", ">=", 2.0,
          to_highest("tokens_per_second_8", (LLAMA_CPP_PYTHON,))),
    Ratio("ttft_p95_8", "95th percentile to first token, eight clients: ours / best peer's", "<=", 1.0,
          to_quickest("ttft_p95_8")),
    Ratio("bare_decode_share_of_limit", "llama.cpp's own ceiling: decode share of the bare loop", ">=", None,
          lambda journal: decode_share(journal, BARE)),
    Ratio("bare_prefill_share_of_limit", "llama.cpp's own ceiling: prefill share of the bare loop", ">=", None,
          lambda journal: prefill_share(journal, BARE)),
)  # fmt: skip
