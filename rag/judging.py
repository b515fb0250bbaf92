"""Which estimate decides whether the answer to a request is given, and which promise it keeps."""

from collections.abc import Mapping

from rag.abstain import Abstention
from rag.datatypes import RiskTarget
from rag.errors import InvalidRequest
from rag.options import AskOptions


class Judging:
    """What withholds answers that are too unsure: an `estimate` of whether one is right, unless `abstain` is false.

    Below its threshold, or below the one that keeps the share of wrong answers at `risk`. Without an estimate every
    answer is given. A promise is one about answers as they were `tested`: with those passages, mode and length, and
    nothing else asked for.
    """

    def __init__(self, estimate: Abstention | None, *, abstain: bool, risk: float | None, tested: AskOptions) -> None:
        self._estimate = estimate
        self._abstain = abstain
        self._risk = risk
        self._tested = tested

    def judge(self, options: AskOptions) -> Abstention | None:
        """Return what decides on this answer; nothing does where the caller or the pipeline switched it off.

        Raises `InvalidRequest` where the request itself breaks the promise that it asks for.
        """
        if options.risk is not None:
            self._check_promise(options)
        risk = self._risk if options.risk is None else options.risk
        wanted = options.risk is not None or (self._abstain and options.abstain is not False)
        if self._estimate is None or not wanted:
            return None
        return self._estimate if risk is None else self._estimate.at_risk(risk)

    def target(self, options: AskOptions, judge: Abstention | None) -> RiskTarget | None:
        """Return the promise that an answer is decided under; one of the settings ends where a request goes its way."""
        risk = self._risk if options.risk is None else options.risk
        if judge is None or judge.promise is None or risk is None or not self._is_as_tested(options):
            return None
        return RiskTarget(risk, judge.promise.confidence, judge.attainable)

    def confidence(self, signals: Mapping[str, float]) -> float | None:
        """Return how likely an answer with these signals is right; None where nothing estimates that."""
        return None if self._estimate is None else self._estimate.confidence(signals)

    def _check_promise(self, options: AskOptions) -> None:
        if self._estimate is None:
            raise InvalidRequest("a risk cannot be promised: nothing estimates whether these answers are right")
        if options.abstain is False or not self._is_as_tested(options):
            raise InvalidRequest(
                "a risk target holds for answers as they were tested, and withholds some",
                hint="Leave out what says otherwise: abstain false, a temperature, stop, another number of passages "
                "(top_k), another mode, another length, a filter.",
            )

    def _is_as_tested(self, options: AskOptions) -> bool:
        """Whether a request leaves the answers as they are without its options."""
        tested = self._tested
        same_length = options.max_tokens in (None, tested.max_tokens) and options.words is None
        same_passages = options.passages in (None, tested.passages) and options.mode in (None, tested.mode)
        plain = options.temperature == 0 and not options.stop and options.view.filter is None
        return same_length and same_passages and plain
