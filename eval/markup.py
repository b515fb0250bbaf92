"""Elements of HTML and SVG as text, safe by construction: whatever is not markup already is escaped."""

from collections.abc import Iterable

from markupsafe import Markup, escape

Child = Markup | str | int | None
Attribute = str | int | float | bool | None

# Elements that are closed at once: void ones of HTML, and those of SVG that we only ever leave empty.
_EMPTY = frozenset({"br", "circle", "col", "line", "meta", "path", "polyline", "rect", "wbr"})


def tag(name: str, *children: Child, **attributes: Attribute) -> Markup:
    """Return one element. Children that are no markup are escaped, None is left out.

    In names of attributes `_` stands for `-`, a trailing one is dropped (`class_`); None and False leave the attribute
    out, True gives an empty one, numbers get two decimals at most.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _EMPTY:
        return Markup(f"<{name}{written}/>")  # noqa: S704 (its parts are escaped)
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")  # noqa: S704


def joined(parts: Iterable[Child], separator: str = "") -> Markup:
    """Put parts one behind the other, escaped where they are no markup."""
    return Markup(separator).join(escape(part) for part in parts if part is not None)  # noqa: S704


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    return f' {name.rstrip("_").replace("_", "-")}="{_attribute_text(value)}"'


def _attribute_text(value: Attribute) -> str:
    if value is True:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(escape(value))
