"""Limits on what answers may cost: a question is asked where it stays within them as far as can be told."""

from dataclasses import dataclass

from eval.rows import Row
from eval.systems import Endpoint, SystemRow
from rag.config import Settings
from rag.cost import question_cost
from rag.datatypes import Usage

# Room for instructions, worked examples and the question in the estimate of a first prompt; the shipped ones take some
# 300 tokens.
_PROMPT_TOKENS = 512


class LimitReached(Exception):
    """The next question might pass a limit; the message says which."""


@dataclass
class _Account:
    """US dollars of one system: spent so far, and what the next question may cost."""

    spent: float = 0.0
    first: float = 0.0
    dearest: float | None = None
    unknown: bool = False

    @property
    def next(self) -> float:
        return self.first if self.dearest is None else self.dearest


class Spending:
    """What the answers of a run have cost, against a `limit` for all of them and the budgets of endpoints.

    The next question of a system may cost as much as its dearest so far, and the first as much as its token prices and
    the token budgets in the settings allow. An answer that came out of a cache or a file costs nothing now; one that
    failed counts like the dearest. `reached` tells whether some limit has stopped a system.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.reached = False
        self._limit = limit
        self._accounts: dict[str, _Account] = {}

    def begin(self, row: SystemRow, settings: Settings) -> None:
        """Take a system in."""
        self._accounts[row.name] = _Account(first=_first_estimate(row, settings))

    def add(self, answered: Row) -> None:
        """Take note of an answer, of now or of an earlier run."""
        account = self._accounts[answered.system]
        if answered.recorded:
            return
        if answered.failed:
            account.spent += account.next
        elif answered.cost is None:
            account.unknown = True
        elif answered.cost > 0:  # an abstention before the model was asked tells nothing of the next question
            account.spent += 0.0 if answered.timings.get("replayed") else answered.cost
            account.dearest = max(account.dearest or 0.0, answered.cost)

    def check(self, row: SystemRow) -> None:
        """Raise `LimitReached` where the next question of a system might pass its budget or the limit."""
        account = self._accounts[row.name]
        everything = sum(other.spent for other in self._accounts.values())
        if isinstance(row.generator, Endpoint):
            self._check(row, "budget", row.generator.budget, account.spent)
        if not row.recorded:
            self._check(row, "limit", self._limit, everything)

    def _check(self, row: SystemRow, word: str, limit: float | None, spent: float) -> None:
        if limit is None:
            return
        account = self._accounts[row.name]
        if isinstance(row.generator, Endpoint) and not row.prices.by_token:
            self._stop(f"{row.name} states no prices per million tokens, so that no {word} can be kept")
        if isinstance(row.generator, Endpoint) and account.unknown:
            self._stop(f"the endpoint of {row.name} tells no tokens, so that no {word} can be kept")
        if spent + account.next > limit:
            self._stop(
                f"the {word} of ${limit:.6g} would be passed: ${spent:.6g} spent, and the next question may cost "
                f"${account.next:.6g}"
            )

    def _stop(self, message: str) -> None:
        self.reached = True
        raise LimitReached(message)


def _first_estimate(row: SystemRow, settings: Settings) -> float:
    own = row.apply(settings)
    read = own.evidence.tokens if row.retrieval else 0
    usage = Usage(prompt=_PROMPT_TOKENS + read + own.evidence.history_tokens, completion=own.generator.max_tokens)
    return question_cost(row.prices, seconds=0.0, usage=usage, generated=True) or 0.0
