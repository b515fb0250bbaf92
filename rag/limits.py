"""How large a chat request may be on this server. What the model can take is counted in tokens, further in."""

from dataclasses import dataclass

from rag.api import ChatRequest
from rag.config import ServerSettings
from rag.errors import LimitExceeded


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """Most messages, characters of one message, and tokens of an answer. The body has a limit of its own in bytes."""

    messages: int
    characters: int
    tokens: int

    @classmethod
    def of(cls, settings: ServerSettings) -> "ChatLimits":
        """The limits of the settings."""
        return cls(settings.max_messages, settings.max_characters, settings.max_tokens)

    def check(self, request: ChatRequest) -> None:
        """Let a request pass. Raises `LimitExceeded`, which names field and setting."""
        if len(request.messages) > self.messages:
            raise _exceeded("messages", f"there are more than {self.messages}", "max_messages")
        for at, message in enumerate(request.messages):
            if len(message.text) > self.characters:
                raise _exceeded(
                    f"messages[{at}].content", f"it is longer than {self.characters} characters", "max_characters"
                )
        for field in ("max_tokens", "max_completion_tokens"):
            if (getattr(request, field) or 0) > self.tokens:
                raise _exceeded(field, f"it is more than {self.tokens}", "max_tokens")


def _exceeded(field: str, what: str, setting: str) -> LimitExceeded:
    return LimitExceeded(f"{field}: {what}", hint=f"The setting server.{setting} is the limit.", param=field)
