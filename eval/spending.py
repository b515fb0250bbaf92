"""Limits on what answers may cost: a question is asked where it stays within them as far as can be told."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.qaset import Question
from eval.rows import Row
from eval.system_row import Endpoint, SystemRow
from rag.config import Settings
from rag.cost import question_cost
from rag.datatypes import Usage

# Room for instructions and worked examples in the estimate of a prompt, without passages and with them; the shipped
# ones take some 20 and 300 tokens.
_ASKING_TOKENS = 64
_READING_TOKENS = 512

# Questions asked at the same time may each cost more than any before: near a limit they are asked one by one.
_RESERVE = 2


class LimitReached(Exception):
    """The next question might pass a limit; the message says which."""


@dataclass
class _Account:
    """US dollars of one system: spent so far, and what the next question may cost by prices and settings (`first`).

    `billed` is whether an endpoint answers, or the large model of a cascade is one's.
    """

    spent: float = 0.0
    first: float = 0.0
    billed: bool = False
    dearest: float | None = None
    unknown: bool = False

    @property
    def next(self) -> float:
        return max(self.first, self.dearest or 0.0)


class Spending:
    """What the answers of a run have cost, against a `limit` for all of them and the budgets of endpoints.

    The next question of a system may cost as much as its token prices and the token budgets in the settings allow, and
    as much as its dearest so far. An answer that came out of a cache or a file costs nothing now; one that failed
    counts like the dearest. `reached` tells whether some limit has stopped a system.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.reached = False
        self._limit = limit
        self._accounts: dict[str, _Account] = {}

    def begin(self, row: SystemRow, settings: Settings, questions: Sequence[Question]) -> None:
        """Take in a system that is to be asked some questions."""
        billed = bool(row.endpoints(settings))
        self._accounts[row.name] = _Account(first=_most(row, settings, questions), billed=billed)

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
        reason = self._reason(row, 0)
        if reason:
            self.reached = True
            raise LimitReached(reason)

    def allows(self, row: SystemRow, under_way: int) -> bool:
        """Whether the next question stays within the limits, beside `under_way` others that are not answered yet."""
        return not self._reason(row, under_way)

    def _reason(self, row: SystemRow, under_way: int) -> str:
        """Say which limit the next question might pass; empty where none."""
        reason = ""
        if isinstance(row.generator, Endpoint):
            reason = self._passed(row, "budget", row.generator.budget, self._accounts[row.name].spent, under_way)
        if not reason and not row.recorded:
            everything = sum(account.spent for account in self._accounts.values())
            reason = self._passed(row, "limit", self._limit, everything, under_way)
        return reason

    def _passed(self, row: SystemRow, word: str, limit: float | None, spent: float, under_way: int) -> str:
        if limit is None:
            return ""
        account = self._accounts[row.name]
        if account.billed and not row.prices.by_token:
            return f"{row.name} states no prices per million tokens, so that no {word} can be kept"
        if account.billed and account.unknown:
            return f"the endpoint of {row.name} tells no tokens, so that no {word} can be kept"
        if spent + account.next * ((1 + under_way) * _RESERVE if under_way else 1) > limit:
            return (
                f"the {word} of ${limit:.6g} would be passed: ${spent:.6g} spent, and the next question may cost "
                f"${account.next:.6g}"
            )
        return ""


def _most(row: SystemRow, settings: Settings, questions: Sequence[Question]) -> float:
    """Estimate what a question costs at most: every passage is read by itself, and every answer takes its limit.

    Where answers are thought over, each further request reads all passages again.
    """
    own = row.apply(settings)
    further = own.deliberation.requests - 1
    requests = own.evidence.passages if row.retrieval and own.evidence.mode == "each" else 1
    asked = max((math.ceil(len(question.question.encode()) / 3) for question in questions), default=0)
    earlier = own.evidence.history_tokens if any(question.history for question in questions) else 0
    fixed = (_READING_TOKENS if row.retrieval else _ASKING_TOKENS) + asked + earlier
    usage = Usage(
        prompt=(requests + further) * fixed + (1 + further) * (own.evidence.tokens if row.retrieval else 0),
        completion=(requests + further) * (own.generator.max_tokens + own.deliberation.reason_tokens),
    )
    return question_cost(row.prices, seconds=0.0, usage=usage, generated=True) or 0.0
