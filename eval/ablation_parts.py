"""The parts of the system as rows of `configs/ablation.toml`, and the systems that have one of them switched."""

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eval.system_row import SystemRow, system_in_force
from rag.config import Settings
from rag.errors import ConfigError, InvalidRequest
from rag.toml import read_toml

FULL = "full"

# Returns the registry's model that another one was adapted from, "" where it was adapted from none.
BaseOf = Callable[[str], str]

_SHIPPED = "configs/ablation.toml"

# What a set without answers can tell of.
_OF_RETRIEVAL = frozenset({"retrieval", "chunk", "embedder"})


class Part(BaseModel):
    """A part and what switches it: off, where it is on as shipped, or on.

    `settings` overrides the configuration, `base` puts the model that the one in force was adapted from in its place.
    With `against` it is tried without the part of that name, and compared with what is without that one too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    about: str = Field(min_length=1, max_length=300)
    turned: Literal["off", "on"]
    settings: dict[str, dict[str, Any]] = {}
    base: bool = False
    against: str = ""

    @property
    def system(self) -> str:
        """The name of the system that has it switched."""
        return f"{'without' if self.turned == 'off' else 'with'}:{self.name}"


class Trial(NamedTuple):
    """A part, the system that has it switched, and the one that this is compared with."""

    part: Part
    row: SystemRow
    against: str


class Plan(NamedTuple):
    """The systems to run, the full one first, the trials that compare them, and why parts are left out."""

    rows: tuple[SystemRow, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]

    def without(self, faults: Mapping[str, str]) -> "Plan":
        """Return the plan without some systems and what would be compared with them; `faults` says why, by name."""
        kept = [trial for trial in self.trials if trial.row.name not in faults and trial.against not in faults]
        notes = [
            f"{trial.part.name} is left out: {faults.get(trial.row.name) or faults[trial.against]}"
            for trial in self.trials
            if trial not in kept
        ]
        _check_any(kept, notes)
        rows = tuple(row for row in self.rows if row.name not in faults)
        return Plan(rows, tuple(kept), (*self.notes, *notes))


def _check_any(trials: Sequence[Trial], notes: Sequence[str]) -> None:
    if not trials:
        raise InvalidRequest(f"nothing is left to compare: {'; '.join(notes)}", hint="Name other parts with --part.")


def load_parts(file: Path | None = None) -> list[Part]:
    """Return the parts of a file in its order, by default those shipped. Raises `ConfigError` naming file and row."""
    source, where = (resources.files("configs") / "ablation.toml", _SHIPPED) if file is None else (file, str(file))
    try:
        table = read_toml(source)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{where} cannot be used: {error}") from error
    entries = table.get("part")
    if set(table) != {"part"} or not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: a list of [[part]] tables and nothing else is wanted")
    parts: list[Part] = []
    for number, entry in enumerate(entries, start=1):
        part = _part(entry, f"{where}: [[part]] number {number}")
        before = [other.name for other in parts]
        if part.name in before:
            raise ConfigError(f"{where}: there are two parts {part.name!r}")
        if part.against and part.against not in before:
            raise ConfigError(f"{where}: {part.name} is `against` {part.against!r}, which is no part before it")
        parts.append(part)
    return parts


def _part(entry: Any, where: str) -> Part:
    """Return a row whose settings are known to fit: a mistake is told now, not after the hours of the first system."""
    try:
        part = Part.model_validate(entry)
        if not part.settings and not part.base:
            raise ConfigError(f"{where}: neither `settings` nor `base` says what switches {part.name}")
        SystemRow(name=part.system, generator="any", retrieval=True, settings=part.settings)
    except ValidationError as error:
        faults = [": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in error.errors()]
        raise ConfigError(f"{where}: {'; '.join(faults)}") from error
    return part


def choose_parts(names: Sequence[str], parts: Sequence[Part]) -> list[Part]:
    """Return the named parts, all where none is named. Raises `InvalidRequest` naming those that there are."""
    known = {part.name: part for part in parts}
    for name in names:
        if name not in known:
            raise InvalidRequest(f"there is no part {name!r}", hint=f"There are {', '.join(known)}.")
    return [known[name] for name in dict.fromkeys(names)] or list(parts)


def plan(
    chosen: Sequence[Part], parts: Sequence[Part], settings: Settings, base_of: BaseOf, *, retrieval_only: bool = False
) -> Plan:
    """Return the systems that tell what the `chosen` of all `parts` give under the settings in force.

    Raises `InvalidRequest` where none of them can be switched.
    """
    full = system_in_force(FULL, settings)
    known = {part.name: part for part in parts}
    rows, trials, notes = {FULL: full}, list[Trial](), list[str]()
    for part in chosen:
        if retrieval_only and (part.base or not set(part.settings) <= _OF_RETRIEVAL):
            notes.append(f"{part.name} is left out: the set has no answers, and its retrieval does not depend on it")
            continue
        start = full
        if part.against:
            other = _switched(full, known[part.against], settings, base_of)
            if isinstance(other, SystemRow):
                rows[other.name] = start = other
        row = _switched(start, part, settings, base_of)
        if isinstance(row, str):
            notes.append(f"{part.name} is left out: {row}")
            continue
        rows[row.name] = row
        trials.append(Trial(part, row, start.name))
    _check_any(trials, notes)
    return Plan(tuple(rows.values()), tuple(trials), tuple(notes))


def _switched(start: SystemRow, part: Part, settings: Settings, base_of: BaseOf) -> SystemRow | str:
    """Return a system with a part switched, or why there is none."""
    generator = start.generator
    overrides = _merged(start.settings, part.settings)
    if part.base:
        base = base_of(generator) if isinstance(generator, str) else ""
        if not base:
            return "the model in force was adapted from none"
        generator = base
        # Prompt and estimate are the adapted model's where the settings name them; the base has its own.
        overrides = _merged(overrides, {"generator": {"prompt": ""}, "abstention": {"file": None, "threshold": None}})
    row = SystemRow(name=part.system, generator=generator, retrieval=True, settings=overrides)
    if row.identity(settings) == start.identity(settings):
        return f"it is {part.turned} already"
    return row


def _merged(one: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {section: {**one.get(section, {}), **other.get(section, {})} for section in {**one, **other}}
