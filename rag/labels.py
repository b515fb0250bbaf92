"""Access labels: which keys may see which documents.

Rules say it, in a file that is given to the index once and kept in its manifest: `path` patterns, each with the labels
of the documents that it matches. The last rule that matches a document counts, as in CODEOWNERS, so that a narrower one
below a wider one can never widen what is seen by being added to it. A document that no rule matches has the labels that
it names itself (`labels` of its metadata). Rules come from whoever runs the index and documents from anybody, so that a
document can shut itself away, and never open itself.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rag.errors import InvalidRequest
from rag.glob import compile_glob, composed
from rag.toml import read_toml

MOST_RULES = 1000
EVERY = "*"  # in the place of a key's labels: all there are

_LABEL = re.compile(r"[^\W_][\w .@:+/-]{0,63}")


def is_label(name: str) -> bool:
    """Whether a text can be a label: up to 64 letters, digits, spaces and . _ @ : + / -, a letter or digit first."""
    return _LABEL.fullmatch(name) is not None


def _label(name: str) -> str:
    if not is_label(name):
        raise ValueError(f"{name!r} is no label")
    return name


def _glob(pattern: str) -> str:
    compile_glob(pattern)
    return pattern


class LabelRule(BaseModel):
    """The labels of the documents whose ids match `path` (`rag.glob`); with none everybody may see them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Annotated[str, AfterValidator(_glob)]
    labels: tuple[Annotated[str, AfterValidator(_label)], ...] = Field(max_length=64)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rule: tuple[LabelRule, ...] = Field((), max_length=MOST_RULES)


def load_rules(path: Path) -> tuple[LabelRule, ...]:
    """Return the rules of a TOML file, none for an empty one. Raises `InvalidRequest` naming what is wrong."""
    hint = 'Write [[rule]] tables, each with path = "hr/**" and labels = ["hr"]; the last one that matches counts.'
    try:
        return _File.model_validate(read_toml(path)).rule
    except OSError as error:
        raise InvalidRequest(f"the label rules in {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"the label rules in {path} cannot be read: {place}: {first['msg']}", hint=hint) from error
    except ValueError as error:
        raise InvalidRequest(f"the label rules in {path} cannot be read: {error}", hint=hint) from error


class Labeller:
    """Rules, ready to be asked about many documents."""

    def __init__(self, rules: Sequence[LabelRule]) -> None:
        self._rules = [(compile_glob(rule.path), frozenset(rule.labels), rule.path) for rule in reversed(rules)]
        self._unused = {rule.path for rule in rules}

    def labels(self, document_id: str, own: str = "") -> frozenset[str]:
        """Return a document's labels; `own` are those that it names itself, one a line."""
        spelt = composed(document_id)
        for pattern, labels, path in self._rules:
            if pattern.match(spelt):
                self._unused.discard(path)
                return labels
        return frozenset(filter(None, map(str.strip, own.splitlines())))

    @property
    def unused(self) -> list[str]:
        """The patterns that have decided on no document so far, in alphabetical order."""
        return sorted(self._unused)


def may_see(held: frozenset[str] | None, labels: frozenset[str]) -> bool:
    """Whether whoever holds these labels may see a document with those: one without any, or that shares one.

    None holds every label.
    """
    return held is None or not labels or not held.isdisjoint(labels)
