"""Mail to Markdown: the heads that say who wrote when to whom about what, the text, and the names of what is attached.

`.eml` is read by the standard library (RFC 5322 and MIME), `.msg` of Outlook by olefile (MS-OXMSG).
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from indexer.load_html import decode_html, html_to_markdown
from indexer.load_text import decode, decode_as, decode_nearly
from indexer.outline import plain_title
from indexer.parsed import Parsed, printable, readable_stem
from rag.errors import UnreadableDocument

_HEADS = ("From", "To", "Cc", "Date", "Subject")
_DEEPEST = 5  # a mail in a mail in a mail
_PARTS = 1000
_BETWEEN = "\n\n---\n\n"  # mails
_NESTED = 50  # parts in parts
# Property tags of MS-OXPROPS, the last four digits the type: 001F is UTF-16 text, 001E text in the mail's code page.
_SUBJECT, _SENDER, _SENDER_ADDRESS, _SENDER_SMTP = "0037", "0C1A", "0C1F", "5D01"
_TO, _CC, _BODY, _HTML, _RTF = "0E04", "0E03", "1000", "10130102", "10090102"
_FILE_NAMES = ("3707", "3704", "3001")  # long file name, short one, display name
_PROPERTIES = "__properties_version1.0"
_MAIL = "__substg1.0_3701000D"  # of an attachment that is a mail: its folder
_SUBMITTED, _DELIVERED = (0x0039, 0x0E06)
_CODE_PAGES = (0x3FFD, 0x3FDE)
_REPLACED = "\ufffd"
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


def parse_eml(content: bytes, name: str) -> Parsed:
    """Return a mail, with those in it. Raises `UnreadableDocument` where it has none of a mail's heads."""
    mail = message_from_bytes(content, policy=policy.default)
    assert isinstance(mail, EmailMessage)
    if not any(_head(mail, head) for head in (*_HEADS, "Received", "Message-ID")):
        raise UnreadableDocument("not a mail: it has no heads such as From and Date")
    text = printable(_mail(mail, 0))
    return Parsed(text, plain_title(_head(mail, "Subject")) or readable_stem(name), {"format": "eml"} | _dated(mail))


def parse_msg(content: bytes, name: str) -> Parsed:
    """Return a mail as Outlook saves it. Raises `UnreadableDocument` where it is none, or its text is only RTF."""
    import olefile

    try:
        with olefile.OleFileIO(io.BytesIO(content), raise_defects=olefile.DEFECT_FATAL) as file:
            found = {path[-1].upper(): path for path in file.listdir() if len(path) == 1}
            if not any(stream.startswith("__SUBSTG1.0_") for stream in found):
                raise UnreadableDocument("not an Outlook mail: another kind of file is in it")
            heads, text = _outlook(file, (), 0)
    except UnreadableDocument:
        raise
    except Exception as error:  # olefile's own errors, and what its parser lets through on damaged files
        raise UnreadableDocument("not an Outlook mail, or damaged") from error
    title = plain_title(printable(heads.get("Subject", ""))) or readable_stem(name)
    known = {"format": "msg"} | ({"date": heads["Date"][:10]} if heads["Date"] else {})
    return Parsed(printable(text), title, known)


@dataclass(slots=True)
class _Found:
    """What there is in a mail: its own texts in order, the names of what is attached, mails in it."""

    texts: list[str] = field(default_factory=list)
    attached: list[str] = field(default_factory=list)
    inner: list[EmailMessage] = field(default_factory=list)
    parts: int = 0


def _mail(mail: EmailMessage, depth: int) -> str:
    found = _Found()
    _gather(mail, found, 0)
    heads = {head: _head(mail, head) for head in _HEADS} | {"Attached": ", ".join(found.attached)}
    inner = [_mail(one, depth + 1) for one in found.inner] if depth < _DEEPEST else []
    return _BETWEEN.join([_joined(heads, "\n\n".join(found.texts)), *inner])


def _gather(part: EmailMessage, found: _Found, depth: int) -> None:
    """Add what is in a part: of alternatives the first text that says something, of all else everything (RFC 2046)."""
    found.parts += 1
    if found.parts > _PARTS or depth > _NESTED:
        return
    kind = part.get_content_type()
    if part.is_multipart():
        inside = [one for one in part.get_payload() if isinstance(one, EmailMessage)]
        if kind == "message/rfc822":
            found.inner += inside
            return
        texts, alternatives = found.texts, []
        for one in inside:
            found.texts = [] if kind == "multipart/alternative" else texts
            _gather(one, found, depth + 1)
            alternatives.append(found.texts)
        if kind == "multipart/alternative":
            texts += next(filter(None, alternatives), [])
        found.texts = texts
    elif kind in ("text/plain", "text/html") and not part.is_attachment() and not (found.texts and part.get_filename()):
        if text := _text(part).strip():
            found.texts.append(text)
    elif (filename := part.get_filename()) and not ("Content-ID" in part and part.get_content_maintype() == "image"):
        found.attached.append(filename)


def _joined(heads: dict[str, str], text: str) -> str:
    lines = [f"{head}: {value}" for head, value in heads.items() if value]
    return "\n".join(lines) + "\n\n" + text.strip()


def _head(mail: EmailMessage, head: str) -> str:
    try:
        said = str(mail.get(head, ""))
        if _REPLACED in said:  # bytes that no head may have
            found = next(value for name, value in mail.raw_items() if name.lower() == head.lower())
            raw = found.encode("ascii", "surrogateescape")
            said = decode_as(raw, mail.get_content_charset() or "utf-8") or raw.decode("cp1252", "replace")
        return " ".join(said.split())
    except Exception:  # the standard library's parser of heads fails in many ways on those that spammers write
        return ""


def _dated(mail: EmailMessage) -> dict[str, str]:
    """The day on which a mail was sent, as its sender's clock had it, for the metadata."""
    try:
        return {"date": mail["Date"].datetime.date().isoformat()}
    except Exception:  # none, or none that can be read
        return {}


def _text(part: EmailMessage) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    text = _decoded(content, part.get_content_charset())
    return html_to_markdown(text, "", "eml").text if part.get_content_type() == "text/html" else text


def _decoded(content: bytes, charset: str | None) -> str:
    if (text := decode_as(content, charset or "ascii")) is not None:
        return text
    try:
        return decode(content)
    except UnreadableDocument:
        text = decode_nearly(content, charset or "utf-8")
        return content.decode("utf-8", "replace") if text is None else text


def _outlook(file: Any, place: tuple[str, ...], depth: int) -> tuple[dict[str, str], str]:
    """The heads of the mail at a place in the file, and its text with these and the mails in it."""
    code_page, date = _properties(file, place)

    def text(tag: str, folder: str = "") -> str:
        for kind, encoding in (("001F", "utf-16-le"), ("001E", code_page)):
            if file.exists(path := [*place, *filter(None, [folder]), f"__substg1.0_{tag}{kind}"]):
                content: bytes = file.openstream(path).read()
                return content.decode(encoding, "replace").rstrip("\0")
        return ""

    sender, address = text(_SENDER), text(_SENDER_SMTP) or text(_SENDER_ADDRESS)
    folders = {path[len(place)] for path in file.listdir() if path[: len(place)] == [*place] and len(path) > len(place)}
    attached, inner = [], []
    for folder in sorted(folder for folder in folders if folder.startswith("__attach"))[:_PARTS]:
        if file.exists(mail := [*place, folder, _MAIL]):
            inner += [_outlook(file, tuple(mail), depth + 1)[1]] if depth < _DEEPEST else []
        else:
            attached.append(next(filter(None, (text(tag, folder) for tag in _FILE_NAMES)), ""))
    heads = {
        "From": f"{sender} <{address}>" if sender and "@" in address and address != sender else sender or address,
        "To": text(_TO),
        "Cc": text(_CC),
        "Date": date,
        "Subject": text(_SUBJECT),
        "Attached": ", ".join(filter(None, attached)),
    }
    body = text(_BODY)
    if not body.strip() and file.exists(html := [*place, f"__substg1.0_{_HTML}"]):
        body = html_to_markdown(decode_html(file.openstream(html).read()), "", "msg").text
    if not (body.strip() or inner or depth) and file.exists(f"__substg1.0_{_RTF}"):
        raise UnreadableDocument("an Outlook mail whose text is only in RTF; save it as EML or TXT")
    return heads, _BETWEEN.join([_joined(heads, body), *inner])


def _properties(file: Any, place: tuple[str, ...]) -> tuple[str, str]:
    """The code page of the mail's 8-bit text and when it was sent, from its table of fixed-size properties."""
    table: bytes = file.openstream([*place, _PROPERTIES]).read() if file.exists([*place, _PROPERTIES]) else b""
    values = dict(_entries(table[24 if place else 32 :]))
    code_page = next((values[tag] for tag in _CODE_PAGES if tag in values), 1252) & 0xFFFFFFFF
    ticks = values.get(_SUBMITTED) or values.get(_DELIVERED) or 0
    encoding = {65001: "utf-8", 28591: "latin-1", 20127: "ascii"}.get(code_page, f"cp{code_page}")
    try:
        "".encode(encoding)
        date = (_EPOCH + timedelta(microseconds=ticks // 10)).isoformat(" ", "minutes") if ticks else ""
    except LookupError:
        return "cp1252", ""
    except OverflowError:
        return encoding, ""
    return encoding, date


def _entries(table: bytes) -> Iterator[tuple[int, int]]:
    """Number and value of each property: entries of 16 bytes, type and number, flags, value."""
    for at in range(0, len(table) - 15, 16):
        yield int.from_bytes(table[at + 2 : at + 4], "little"), int.from_bytes(table[at + 8 : at + 16], "little")
