"""What one request may change about answering."""

from dataclasses import dataclass

from rag.datatypes import Mode
from rag.filter import EVERYTHING, View


@dataclass(frozen=True, slots=True)
class AskOptions:
    """What one request may change. None takes the pipeline's own setting.

    `words` asks for a composed answer of at most so many words, 0 for a short one, whatever the question.
    `risk` asks for a promise: at most this share of the answers given is wrong. It goes with none of the others, since
    a promise is one about answers as they were tested, and with no filter either. `view` is what of the index may be
    read, by the filter of the request and the labels of whoever asks. `owner` tells askers apart: what
    the model has read of the words of one serves no other.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    abstain: bool | None = None
    passages: int | None = None
    mode: Mode | None = None
    words: int | None = None
    risk: float | None = None
    view: View = EVERYTHING
    owner: str = ""


AS_SET = AskOptions()
