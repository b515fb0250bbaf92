"""Reads the Dockerfile: its stages, each a list of instructions. What it cannot read it refuses, so that nothing of a
Dockerfile is passed over.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from base import SetupError

# Instructions that are carried out, and those that only say how the image is run.
DONE = ("ARG", "COPY", "ENV", "RUN", "USER", "WORKDIR")
SAID = ("CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "VOLUME")
FLAGS = {"RUN": r"--mount=type=cache,target=(\S+)", "COPY": r"--from=(\S+)"}


@dataclass(frozen=True)
class Instruction:
    """One instruction. `option` is the cache's folder of a RUN, the stage of a COPY, "" where there is none."""

    name: str
    text: str
    option: str = ""
    line: int = 0

    @property
    def words(self) -> list[str]:
        """The arguments: of a JSON list its strings, else split as a shell does."""
        text = self.text
        if self.name == "HEALTHCHECK":
            text = text.partition("CMD ")[2]
        if text.startswith("["):
            words: list[str] = json.loads(text)
            return words
        return shlex.split(text)


@dataclass
class Stage:
    """A stage: the image or stage that it begins as, and what is done from there."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def last(self, name: str) -> list[str]:
        """The arguments of the last instruction of that name, which is the one that counts."""
        found = [one.words for one in self.instructions if one.name == name]
        return found[-1] if found else []


def read(path: Path) -> list[Stage]:
    """Return the stages in order. Raises `SetupError`, which names the line, where one cannot be carried out."""
    stages: list[Stage] = []
    for number, line in _logical_lines(path.read_text(encoding="utf-8")):
        name, _, text = line.partition(" ")
        name, text, option = name.upper(), text.strip(), ""
        where = f"{path.name}, line {number}"
        if name == "FROM":
            words = text.split()
            named = words[2] if len(words) == 3 and words[1].upper() == "AS" else ""
            if len(words) not in (1, 3) or (len(words) == 3 and not named):
                raise SetupError(f"{where}: FROM with more than an image and a name cannot be carried out here")
            stages.append(Stage(named, words[0]))
            continue
        if not stages or name not in (*DONE, *SAID):
            raise SetupError(f"{where}: {name} cannot be carried out here")
        if text.startswith("--") and name in DONE:
            flag, _, text = text.partition(" ")
            found = re.fullmatch(FLAGS.get(name, "(?!)"), flag)
            if not found:
                raise SetupError(f"{where}: {name} {flag} cannot be carried out here")
            text, option = text.strip(), found[1]
        stages[-1].instructions.append(Instruction(name, text, option, number))
    if not stages:
        raise SetupError(f"{path} has no FROM")
    return stages


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their continuations, each with the number of its first; comments and empty lines left out."""
    lines: list[tuple[int, str]] = []
    begun, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not begun):
            continue
        start = start if begun else number
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        lines.append((start, begun))
        begun = ""
    return lines
