"""Every error that smallhold raises on purpose. Foreign exceptions are translated where their library is wrapped.

    SmallholdError                500  exit 3
    +-- InvalidRequest            400  exit 2   the caller asked for something impossible
    |   +-- ConfigError           400  exit 2   a setting is unknown or out of range
    |   +-- PromptTooLong         400  exit 2   question and answer do not fit the model's context
    |   +-- UnknownModel          404  exit 2   no model, or no evaluation system, of that name
    |   +-- UnknownDocument       404  exit 2   the index holds no document of that id
    |   +-- UnknownAnswer         404  exit 2   whoever rates it was given no answer of that id of late
    |   +-- FeedbackOff           404  exit 2   this server takes no feedback
    |   +-- Unauthorized          401  exit 2   no API key came, or one that is not valid
    |   +-- SourceEmptied         400  exit 2   what had documents has none any more: is its disk mounted?
    |   +-- LimitExceeded         400  exit 2   a request is larger than this server takes
    |   +-- DataError             400  exit 2   a QA set or other input file is malformed
    |       +-- UnreadableDocument  400  exit 2   a document cannot be read; the index run reports it and goes on
    |           +-- UnsupportedFormat                no loader for files of that kind
    +-- Unavailable               503  exit 3   something the run needs is missing
    |   +-- IndexMissing          503  exit 3
    |   +-- IndexDamaged          503  exit 3   a checksum or a structure does not hold
    |   +-- IndexIncompatible     503  exit 3   built with another embedder or format version
    |   +-- IndexLocked           503  exit 3   another process is writing it
    |   +-- ModelMissing          503  exit 3   no source of the weights is at hand
    |   +-- ModelDamaged          503  exit 3   the weights are not those of the registry
    |   +-- ModelLoadFailed       503  exit 3   the probe could not load or run them
    |   +-- ModelDied             503  exit 3   the process that ran the model is gone; it is started again
    |   +-- EndpointFailed        503  exit 3   a remote model did not answer
    |   +-- KeysMissing           503  exit 3   a server that others can reach has no API key
    |   +-- KeysDamaged           503  exit 3   the file of the API keys cannot be read, or what they spent not kept
    |   +-- FeedbackDamaged       503  exit 3   the file of the feedback cannot be read or written
    +-- Overloaded                429  exit 3   the queue is full: try again
    |   +-- BudgetSpent           429  exit 3   a key's tokens of the day are spent: try again tomorrow
    +-- DeadlinePassed            504  exit 3   an answer took longer than its caller allows

`hint` says what to do next; it is printed on a line of its own.
"""

from typing import ClassVar


class SmallholdError(Exception):
    """The root of the tree. `http_status`, `exit_code` and `code` (OpenAI's error `code`) belong to the class.

    `param` is the field of a request that is to blame, None where none is.
    """

    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 3
    code: ClassVar[str] = "internal_error"
    param: str | None = None

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class InvalidRequest(SmallholdError):
    """The caller asked for something that cannot be done, however often it is repeated."""

    http_status = 400
    exit_code = 2
    code = "invalid_request"


class ConfigError(InvalidRequest):
    """A configuration file, environment variable or flag is unknown or out of range."""

    code = "invalid_configuration"


class PromptTooLong(InvalidRequest):
    """Prompt and answer do not fit the model's context; nothing was cut."""

    code = "context_length_exceeded"
    param = "messages"


class UnknownModel(InvalidRequest):
    """No model or system of that name."""

    http_status = 404
    code = "model_not_found"
    param = "model"


class UnknownDocument(InvalidRequest):
    """The index holds no document of that id."""

    http_status = 404
    code = "document_not_found"


class UnknownAnswer(InvalidRequest):
    """No answer of that id was given to whoever rates it, or too many have been given since."""

    http_status = 404
    code = "answer_not_found"


class FeedbackOff(InvalidRequest):
    """This server takes no feedback."""

    http_status = 404
    code = "feedback_off"


class Unauthorized(InvalidRequest):
    """A request came without an API key, or with one that is unknown or revoked."""

    http_status = 401
    code = "invalid_api_key"


class SourceEmptied(InvalidRequest):
    """A folder or a list had documents in the index and has none any more, as an unmounted disk looks."""

    code = "source_emptied"


class LimitExceeded(InvalidRequest):
    """A request is larger than a limit of this server; `param` is the field that is."""

    code = "limit_exceeded"

    def __init__(self, message: str, *, hint: str = "", param: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class DataError(InvalidRequest):
    """An input file is not in its format; the message names file and line."""

    code = "invalid_data"


class UnreadableDocument(DataError):
    """A document cannot be read: damaged, encrypted, without text, too large. The message is the reason alone.

    `passing` is whether the reason lies outside of the document and may go away by itself, such as a full disk.
    """

    code = "unreadable_document"

    def __init__(self, message: str, *, hint: str = "", passing: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing


class UnsupportedFormat(UnreadableDocument):
    """There is no loader for files of that kind."""

    code = "unsupported_format"


class Unavailable(SmallholdError):
    """Something that the run needs is missing or broken; the hint says how to mend it."""

    http_status = 503
    code = "unavailable"


class IndexMissing(Unavailable):
    """There is no index in the directory."""

    code = "index_missing"


class IndexDamaged(Unavailable):
    """A file of the index is missing or differs from its checksum."""

    code = "index_damaged"


class IndexIncompatible(Unavailable):
    """The index was built with another embedder or in another format version."""

    code = "index_incompatible"


class IndexLocked(Unavailable):
    """Another process is writing the index."""

    code = "index_locked"


class ModelMissing(Unavailable):
    """No source of a model's weights is at hand."""

    code = "model_missing"


class ModelDamaged(Unavailable):
    """Weights differ from their pinned SHA-256 and were refused."""

    code = "model_damaged"


class ModelLoadFailed(Unavailable):
    """Weights could not be loaded or run; the child process that tried is gone, this one is not."""

    code = "model_load_failed"


class ModelDied(Unavailable):
    """The process that ran the model for a server has ended. `coming` says whether it is being started again."""

    code = "model_died"

    def __init__(self, message: str, *, hint: str = "", coming: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.coming = coming


class EndpointFailed(Unavailable):
    """A remote model endpoint refused, timed out or answered nonsense."""

    code = "endpoint_failed"


class KeysMissing(Unavailable):
    """A server that others than this machine can reach has no API key to let anybody in."""

    code = "keys_missing"


class KeysDamaged(Unavailable):
    """The file of the API keys cannot be read, or what its keys have spent cannot be kept."""

    code = "keys_damaged"


class FeedbackDamaged(Unavailable):
    """The file of the feedback cannot be read or written."""

    code = "feedback_damaged"


class Overloaded(SmallholdError):
    """Too much is being asked at once; in `retry_after` seconds there may be room."""

    http_status = 429
    code = "overloaded"

    def __init__(self, message: str, *, hint: str = "", retry_after: int = 2) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class BudgetSpent(Overloaded):
    """An API key has spent its tokens of the day."""

    code = "insufficient_quota"


class DeadlinePassed(SmallholdError):
    """The answer was not complete within the time that its caller allows."""

    http_status = 504
    code = "deadline_exceeded"
