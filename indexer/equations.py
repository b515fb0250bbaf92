"""Equations of a Word document (Office Math Markup) as text on one line, in the notation people type.

The quadratic formula becomes `x=(-b±√(b^2-4ac))/(2a)`: enough to find it and to read it, though not to typeset it.
"""

from xml.etree import ElementTree

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_SCRIPTS = ("sSup", "sSub", "sSubSup", "sPre", "limLow", "limUpp")


def equations_as_text(xml: bytes) -> bytes:
    """Return a part of a DOCX, well formed and without a document type, each of its equations made a run of text."""
    root = ElementTree.fromstring(xml)  # noqa: S314  (the caller has refused document types, hence entities)
    for parent in list(root.iter()):
        for position, child in enumerate(parent):
            if _tag(child) in ("oMath", "oMathPara"):
                parent[position] = _run(_linear(child))
    return ElementTree.tostring(root)


def _tag(element: ElementTree.Element) -> str:
    """The local name of an element of the math namespace (transitional or strict), "" for any other."""
    namespace, _, name = element.tag.rpartition("}")
    return name if namespace.endswith("/math") else ""


def _run(text: str) -> ElementTree.Element:
    run = ElementTree.Element(_WORD + "r")
    ElementTree.SubElement(run, _WORD + "t").text = f" {text} "
    return run


def _linear(element: ElementTree.Element) -> str:
    tag = _tag(element)
    parts = {_tag(child): _linear(child) for child in element}
    if tag == "t":
        return element.text or ""
    if tag == "f":
        return f"{grouped(parts.get('num', ''))}/{grouped(parts.get('den', ''))}"
    if tag in _SCRIPTS:
        return parts.get("e", "") + _limits(parts, tag)
    if tag == "rad":
        return f"√{grouped(parts.get('e', ''))}"
    if tag == "func":
        return f"{parts.get('fName', '')} {parts.get('e', '')}"
    if tag == "nary":
        return f"{_sign(element, 'chr', '∫')}{_limits(parts, tag)} {parts.get('e', '')}"
    if tag == "d":
        inner = ", ".join(_linear(child) for child in element if _tag(child) == "e")
        return _sign(element, "begChr", "(") + inner + _sign(element, "endChr", ")")
    separator = {"m": "; ", "eqArr": "; ", "mr": ", ", "oMathPara": "; "}.get(tag, "")
    return separator.join(text for text in map(_linear, element) if text)


def _limits(parts: dict[str, str], tag: str) -> str:
    lower = parts.get("lim" if tag == "limLow" else "sub")
    upper = parts.get("lim" if tag == "limUpp" else "sup")
    return (f"_{grouped(lower)}" if lower else "") + (f"^{grouped(upper)}" if upper else "")


def grouped(text: str) -> str:
    """Return a part of an equation, in brackets where what is beside it would seem to belong to it."""
    return text if len(text) == 1 or text.isalnum() else f"({text})"


def _sign(element: ElementTree.Element, name: str, default: str) -> str:
    """The character that an operator or a bracket is drawn with; Word leaves out the usual one."""
    for properties in element:
        for child in properties:
            if _tag(child) == name:
                return next(iter(child.attrib.values()), default)
    return default
