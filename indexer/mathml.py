"""Formulas of web pages and books (MathML) as text on one line: their TeX, else in the notation people type."""

import re
from collections.abc import Sequence

from bs4 import Tag

from indexer.equations import grouped

_TEX = "application/x-tex"
_STYLE = re.compile(r"\{\\(?:displaystyle|textstyle) (.*)\}", re.DOTALL)
_UNSEEN = re.compile(r"[\s\u2061-\u2064]+")  # spaces, and signs that multiply and apply without being printed
_NEVER_SHOWN = ("annotation", "annotation-xml", "mphantom")
_SIGNS = {"msup": ("^",), "mover": ("^",), "msub": ("_",), "munder": ("_",), "msubsup": ("_", "^"),
          "munderover": ("_", "^")}  # fmt: skip


def formula_as_text(math: Tag) -> str:
    """Return a `math` element as text; "" where it shows nothing."""
    annotation = math.find("annotation", encoding=_TEX)
    tex = annotation.get_text() if annotation else str(math.get("alttext") or "")
    tex = " ".join(tex.split())
    styled = _STYLE.fullmatch(tex)
    try:
        return (styled.group(1).strip() if styled else tex) or _linear(math)
    except RecursionError:
        return " ".join(math.get_text().split())


def _linear(element: Tag) -> str:
    if element.name in _NEVER_SHOWN:
        return ""
    parts = [_linear(child) for child in element.find_all(True, recursive=False)]
    if not parts:
        return _UNSEEN.sub("", element.get_text())
    if element.name == "mfrac" and len(parts) > 1:
        return f"{grouped(parts[0])}/{grouped(parts[1])}"
    if element.name in _SIGNS and len(parts) > 1:
        return parts[0] + _scripts(_SIGNS[element.name], parts[1:])
    if element.name == "msqrt":
        return f"√{grouped(''.join(parts))}"
    if element.name == "mroot" and len(parts) > 1:
        return f"{grouped(parts[0])}^(1/{parts[1]})"
    return {"mtable": "; ", "mtr": ", "}.get(element.name, "").join(filter(None, parts))


def _scripts(signs: Sequence[str], parts: Sequence[str]) -> str:
    return "".join(f"{sign}{grouped(part)}" for sign, part in zip(signs, parts, strict=False) if part)
