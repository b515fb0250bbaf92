"""Where settings come from: the file that is named or at hand, and the environment; what is wrong with them."""

import os
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from rag.errors import ConfigError

PREFIX = "SMALLHOLD_"
# Read by the set-up, the model store and `smallhold top`, not settings of a run.
OTHER_VARIABLES = frozenset({"SMALLHOLD_CONFIG", "SMALLHOLD_CACHE", "SMALLHOLD_TORCH_INDEX", "SMALLHOLD_API_KEY"})


def settings_file(named: Path | None) -> Path | None:
    """Return the file to read: the one named, else `$SMALLHOLD_CONFIG`, else `smallhold.toml` where that exists.

    Raises `ConfigError` where a file that was named does not exist.
    """
    named = named or (Path(os.environ["SMALLHOLD_CONFIG"]) if os.environ.get("SMALLHOLD_CONFIG") else None)
    if named is None:
        default = Path("smallhold.toml")
        return default if default.is_file() else None
    if not named.is_file():
        raise ConfigError(f"there is no configuration file {named}", hint="Name an existing TOML file, or none.")
    return named


def refuse_unknown_variables(sections: Collection[str]) -> None:
    """Raise `ConfigError` for a variable of the environment that is spelt as a setting and is none."""
    for name in os.environ:
        section = name.removeprefix(PREFIX).split("__")[0].lower()
        if name.startswith(PREFIX) and name not in OTHER_VARIABLES and section not in sections:
            known = ", ".join(sorted(sections))
            raise ConfigError(
                f"the environment variable {name} is no setting",
                hint=f"Unset it, or write SMALLHOLD_SECTION__KEY with one of the sections {known}.",
            )


def bad_setting(error: ValidationError, file: Path | None) -> ConfigError:
    """Return what to tell of settings that are not as they may be, with the places to look in."""
    lines = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
    places = f"{file}, " if file else ""
    return ConfigError(
        "bad setting " + "; ".join(lines),
        hint=f"Look in {places}the SMALLHOLD_* environment variables and the flags; docs/operations.md lists every "
        "setting.",
    )
