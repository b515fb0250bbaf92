"""Text of a Word document that is set in a way of its own, put back into the line that it belongs to."""

from xml.etree.ElementTree import Element

from indexer.styles import W


def join_runs(root: Element) -> None:
    """Put drop capitals, which are paragraphs, before the rest of their word, and annotated characters in the line.

    Mammoth leaves out characters whose pronunciation stands above them (ruby).
    """
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == W + "ruby":
                _take_out(parent, child)
            elif child.tag == W + "p" and _is_drop_capital(child):
                _join_with_next(parent, child)


def _take_out(run: Element, ruby: Element) -> None:
    at = list(run).index(ruby)
    run[at : at + 1] = [text for base in ruby.iter(W + "rubyBase") for text in base.iter(W + "t")]


def _is_drop_capital(paragraph: Element) -> bool:
    frame = paragraph.find(f"{W}pPr/{W}framePr")
    return frame is not None and frame.get(W + "dropCap") in ("drop", "margin")


def _join_with_next(parent: Element, paragraph: Element) -> None:
    at = list(parent).index(paragraph) + 1
    following = parent[at] if at < len(parent) else None
    if following is None or following.tag != W + "p":
        return
    own = [child for child in paragraph if child.tag != W + "pPr"]
    start = 0 if following.find(W + "pPr") is None else 1
    following[start:start] = own
    parent.remove(paragraph)
