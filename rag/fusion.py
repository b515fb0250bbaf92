"""What `smallhold store tune` found for an index: `fusion.toml` in its directory, how much the dense score weighs.

It counts as long as the index has the embedder that it was measured with, through syncs, merges and rebuilds, and
where the setting `retrieval.dense_weight` is not given. Damaged, or of another embedder, it is left alone with a note
in the log.
"""

import json
import logging
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from rag.config import Settings
from rag.errors import SmallholdError
from rag.manifest import GENERATIONS, read_current, read_manifest
from rag.toml import read_toml

logger = logging.getLogger(__name__)

FUSION = "fusion.toml"


class Fusion(BaseModel):
    """The contents of `fusion.toml`. `embedder` is the fingerprint of the index's; the rest is for people to read.

    `ndcg` and `ndcg_before` are the mean nDCG@10 of `questions` questions, each asked with the weight that the others
    choose, and with the weight of before; `gain_low` and `gain_high` bound their difference, paired, with 95%.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dense_weight: float = Field(ge=0, le=1)
    embedder: str = Field(max_length=200)
    questions: int = Field(ge=1)
    sets: tuple[str, ...] = Field((), max_length=1000)
    ndcg: float = Field(ge=0, le=1)
    ndcg_before: float = Field(ge=0, le=1)
    gain_low: float = Field(ge=-1, le=1)
    gain_high: float = Field(ge=-1, le=1)


def read_fusion(directory: Path) -> Fusion | None:
    """Return what was tuned for an index; None where there is nothing, or, with a note, nothing that counts."""
    path = directory / FUSION
    if not path.is_file():
        return None
    try:
        fusion = Fusion.model_validate(read_toml(path))
        embedder = read_manifest(directory / GENERATIONS / read_current(directory)).embedder.fingerprint
    except (OSError, ValueError, SmallholdError) as error:
        logger.warning("%s is ignored: %s", path, error)
        return None
    if fusion.embedder != embedder:
        logger.warning("%s is ignored: the index has another embedder than it was measured with", path)
        return None
    return fusion


def write_fusion(directory: Path, fusion: Fusion) -> None:
    """Put a weight into effect, by one rename. Raises `OSError`."""
    lines = [
        "# Measured by `smallhold store tune`; `smallhold store tune --reset` removes it.",
        *(f"{key} = {json.dumps(value)}" for key, value in fusion.model_dump(mode="json").items()),
    ]
    beside = directory / f".{FUSION}"
    with beside.open("w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(directory / FUSION)


def drop_fusion(directory: Path) -> bool:
    """Go back to the setting's default; whether that changed anything. Raises `OSError`."""
    had = (directory / FUSION).exists()
    (directory / FUSION).unlink(missing_ok=True)
    return had


def with_fusion(settings: Settings, directory: Path | None = None) -> Settings:
    """Return the settings with what was tuned for their index, or for another directory; a weight that is given stays.

    From here on the weight is a setting like another: a promise made with one is not kept with another.
    """
    if "dense_weight" in settings.retrieval.model_fields_set:
        return settings
    fusion = read_fusion(directory or settings.index.dir)
    if fusion is None:
        return settings
    retrieval = settings.retrieval.model_copy(update={"dense_weight": fusion.dense_weight})
    return settings.model_copy(update={"retrieval": retrieval})
