"""What measurements that hold or do not hold say at their end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from rag.console import err, out


def conclude(report: Mapping[str, Mapping[str, Any]], file: Path, **about: Any) -> int:
    """Write the parts of a report to `file` as JSON, with what is said `about` them, and show them.

    `checks` of a part says what is asked of it, and whether that holds. Returns the exit code: 0 where all do, else 1.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**about, **report}, indent=1) + "\n", encoding="utf-8")
    table = Table("part", "what is asked", "holds")
    for name, found in report.items():
        for what, holds in found["checks"].items():
            table.add_row(name, what, "yes" if holds else "NO")
    out.print(table)
    for name, found in report.items():
        out.print(name, {key: value for key, value in found.items() if key != "checks"})
    err.print(f"written to {file}")
    return 0 if all(holds for found in report.values() for holds in found["checks"].values()) else 1
