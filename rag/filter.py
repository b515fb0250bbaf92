"""Filters: what of the documents a request asks for, as JSON, by what is known of them.

    {"path": {"glob": "hr/**"}, "type": "pdf", "tags": {"any": ["budget", "audit"], "none": ["draft"]},
     "date": {"from": "2024-01-01", "to": "2024-12-31"}, "title": {"contains": "minutes"},
     "any": [{...}, {...}], "not": {...}}

All that is named must hold. A filter that is not understood is refused and never ignored, as is one of too many parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rag.errors import InvalidRequest
from rag.glob import LONGEST, compile_glob, composed

MOST_PARTS = 32  # filters in one, those within others counted
MOST_VALUES = 64  # in one list
LONGEST_JSON = 20_000

EXAMPLE: dict[str, Any] = {"path": {"glob": "hr/**"}, "type": ["pdf", "docx"], "date": {"from": "2024-01-01"}}


class Facts(NamedTuple):
    """What is known of a document. `types` are its format and its file's suffix, `day` is None where there is none.

    The path is `rag.glob.composed`; types, tags and title are `folded`.
    """

    path: str
    title: str
    types: frozenset[str]
    tags: frozenset[str]
    day: date | None


Predicate = Callable[[Facts], bool]


def folded(text: str) -> str:
    """Return a text as it is compared: upper and lower case are the same, and so are two spellings of an accent."""
    return composed(text.casefold())


def _glob(pattern: str) -> str:
    try:
        compile_glob(pattern)
    except ValueError as error:
        raise PydanticCustomError("glob", "{reason}", {"reason": str(error)}) from error
    return pattern


def _day(value: object) -> object:
    """Take a date as JSON has it, YYYY-MM-DD, and nothing that could be meant as another one."""
    if isinstance(value, date):
        return value
    try:
        if isinstance(value, str) and len(value) == 10:
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise PydanticCustomError("day", "a date is written as YYYY-MM-DD")


def _one_or_many(value: object) -> str:
    return "<many>" if isinstance(value, list | tuple) else "<one>"


Glob = Annotated[str, Field(min_length=1, max_length=LONGEST), AfterValidator(_glob)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
Words = Annotated[tuple[Word, ...], Field(min_length=1, max_length=MOST_VALUES)]
Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PathIs(_Part):
    """The document's id, which is its path below the indexed folder, matches a pattern, or one of several."""

    glob: Annotated[
        Annotated[Glob, Tag("<one>")]
        | Annotated[tuple[Glob, ...], Field(min_length=1, max_length=MOST_VALUES), Tag("<many>")],
        Discriminator(_one_or_many),
    ] = Field(
        description="`*` any characters but `/`, `**` any folders, `?` one character. Without `/` it is the name of a "
        "file or folder at any depth; `hr/` is all beneath."
    )

    def predicate(self) -> Predicate:
        """Return the test."""
        patterns = [compile_glob(glob) for glob in ((self.glob,) if isinstance(self.glob, str) else self.glob)]
        return lambda facts: any(pattern.match(facts.path) for pattern in patterns)


class TagsAre(_Part):
    """The document's tags. Upper and lower case are the same."""

    any: Words | None = Field(None, description="It has one of these.")
    all: Words | None = Field(None, description="It has all of these.")
    none: Words | None = Field(None, description="It has none of these.")

    def predicate(self) -> Predicate:
        """Return the test."""
        one, every, no = (_folded(words) for words in (self.any, self.all, self.none))
        return lambda facts: (
            (not one or not one.isdisjoint(facts.tags)) and every <= facts.tags and no.isdisjoint(facts.tags)
        )


class DateIs(_Part):
    """The document's date lies between two, both included; one without a date does not."""

    from_: Day | None = Field(None, alias="from", description="The first day, YYYY-MM-DD.")
    to: Day | None = Field(None, description="The last day, YYYY-MM-DD.")

    @model_validator(mode="after")
    def _in_order(self) -> "DateIs":
        if self.from_ and self.to and self.from_ > self.to:
            raise PydanticCustomError("order", "`from` lies after `to`")
        return self

    def predicate(self) -> Predicate:
        """Return the test."""
        first, last = self.from_ or date.min, self.to or date.max
        return lambda facts: facts.day is not None and first <= facts.day <= last


class TitleIs(_Part):
    """The document's title. Upper and lower case are the same."""

    contains: Word = Field(description="It holds these characters.")

    def predicate(self) -> Predicate:
        """Return the test."""
        wanted = folded(self.contains)
        return lambda facts: wanted in facts.title


class Filter(_Part):
    """Which documents count: those for which all that is named holds."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    path: PathIs | None = None
    type: (
        Annotated[
            Annotated[Word, Tag("<one>")] | Annotated[Words, Tag("<many>")],
            Discriminator(_one_or_many),
        ]
        | None
    ) = Field(None, description="The format, such as `pdf` or `markdown`, or the file's suffix; one or several.")
    tags: TagsAre | None = None
    date: DateIs | None = None
    title: TitleIs | None = None
    any: Annotated[tuple["Filter", ...], Field(min_length=1, max_length=MOST_PARTS)] | None = Field(
        None, description="One of these filters holds."
    )
    not_: "Filter | None" = Field(None, alias="not", description="This filter does not hold.")

    @model_validator(mode="after")
    def _bounded(self) -> "Filter":
        if sum(1 for _ in self._parts()) > MOST_PARTS:
            raise PydanticCustomError("parts", f"the filter has more than {MOST_PARTS} parts")
        return self

    def _parts(self) -> Iterator["Filter"]:
        yield self
        for part in (*(self.any or ()), *((self.not_,) if self.not_ else ())):
            yield from part._parts()

    def predicate(self) -> Predicate:
        """Return the test, made once for many documents."""
        tests = [part.predicate() for part in (self.path, self.tags, self.date, self.title) if part]
        if self.type is not None:
            given = (self.type,) if isinstance(self.type, str) else self.type
            types = _folded(tuple(word.removeprefix(".") for word in given))
            tests.append(lambda facts: not types.isdisjoint(facts.types))
        if self.any is not None:
            options = [part.predicate() for part in self.any]
            tests.append(lambda facts: any(option(facts) for option in options))
        if self.not_ is not None:
            refused = self.not_.predicate()
            tests.append(lambda facts: not refused(facts))
        return lambda facts: all(test(facts) for test in tests)


def _folded(words: tuple[str, ...] | None) -> frozenset[str]:
    return frozenset(folded(word) for word in words or ())


@dataclass(frozen=True, slots=True)
class View:
    """What of an index a question may be answered from: what its filter asks for, of what its labels may see.

    `labels` are those that the asker holds, None for all of them (whoever has the index's files). Hashable.
    """

    filter: Filter | None = None
    labels: frozenset[str] | None = None


EVERYTHING = View()


def parse_filter(text: str) -> Filter:
    """Read a filter as JSON. Raises `InvalidRequest` naming the part that is wrong."""
    hint = (
        'Such as {"path": {"glob": "hr/**"}, "type": "pdf", "date": {"from": "2024-01-01"}}; docs/filters.md has all.'
    )
    if len(text) > LONGEST_JSON:
        raise InvalidRequest(f"the filter is longer than {LONGEST_JSON:,} characters", hint=hint)
    try:
        return Filter.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("<"))
        raise InvalidRequest(
            f"the filter is not understood: {place + ': ' if place else ''}{first['msg']}", hint=hint
        ) from None
