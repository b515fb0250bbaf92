"""Who is let in: a request's API key, checked before anything else is done for it.

Where others than this machine can reach the server, every path needs a key but those few that are named open, so that
a route that is added later needs one by itself. On loopback none is needed unless the settings demand it; one of ours
that is sent all the same is checked, so that its budget counts there as well. Anything else in `Authorization` is
ignored there: OpenAI's clients cannot be made to send nothing.
"""

from collections.abc import Collection

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from rag import problems
from rag.config import ServerSettings
from rag.errors import KeysMissing, SmallholdError, Unauthorized
from rag.filter import Filter, View
from rag.guard import is_loopback
from rag.keys import PREFIX, Key, Keyring, load_keys
from rag.labels import EVERY

# For the OpenAPI document alone: `Access` looks at the header, before any route is chosen.
BEARER = Security(
    HTTPBearer(
        scheme_name="api_key",
        description="A key of `smallhold keys create`. Needed unless the server listens on loopback alone.",
        auto_error=False,
    )
)


def demands_key(settings: ServerSettings) -> bool:
    """Whether a request must have a key."""
    return settings.require_key or not is_loopback(settings.host)


def check_keys(settings: ServerSettings) -> None:
    """Refuse to serve where keys are demanded and there is none. Raises `KeysMissing`, `KeysDamaged`."""
    if not demands_key(settings) or any(key.revoked is None for key in load_keys(settings.keys)):
        return
    why = "server.require_key is set" if is_loopback(settings.host) else f"others can reach {settings.host}"
    raise KeysMissing(
        f"{why}, and there is no API key in {settings.keys.absolute()}",
        hint="Make one with `smallhold keys create --label NAME`, or listen on 127.0.0.1 without server.require_key.",
    )


def key_of(request: Request) -> Key | None:
    """The key of a request, None where it needed none and had none."""
    key: Key | None = request.scope["state"]["key"]
    return key


def view_of(request: Request, wanted: Filter | None = None) -> View:
    """What of the index a request may be answered from: what it asks for, of what its key may see.

    Without a key those are the documents without labels: on loopback, too, whoever else uses this machine can ask.
    """
    key = key_of(request)
    allowed = key.allow if key is not None else ()
    return View(wanted, None if EVERY in allowed else frozenset(allowed))


def is_known(request: Request) -> bool:
    """Whether a request to an open path would be let in elsewhere, too."""
    return request.scope["state"]["refusal"] is None


class Access:
    """ASGI middleware. `open_paths` are answered without a key, character by character; nothing else is."""

    def __init__(self, app: ASGIApp, keyring: Keyring, *, demanded: bool, open_paths: Collection[str]) -> None:
        self._app = app
        self._keyring = keyring
        self._demanded = demanded
        self._open = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its key in `scope["state"]`, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a websocket: there are none here, and none is to slip past
        key, refusal = None, None
        try:
            key = self._identify(Headers(scope=scope))
        except SmallholdError as error:
            refusal = error
        if refusal is not None and scope["path"] not in self._open:
            await problems.refusal(refusal)(scope, receive, send)
            return
        scope.setdefault("state", {}).update(key=key, refusal=refusal)
        await self._app(scope, receive, send)

    def _identify(self, headers: Headers) -> Key | None:
        sent = headers.getlist("authorization")
        scheme, _, text = sent[0].strip().partition(" ") if len(sent) == 1 else ("", "", "")
        text = text.strip() if scheme.lower() == "bearer" else ""
        if not self._demanded and not text.startswith(PREFIX):
            return None
        if not text:
            raise Unauthorized(
                "an API key is needed here",
                hint="Send the header Authorization: Bearer KEY. `smallhold keys create` makes keys.",
            )
        return self._keyring.identify(text)
