"""Which charset a text is in that does not say so, of those for scripts other than Latin.

Which of a dozen charsets Latin letters with accents are in can hardly be told, and a wrong guess reads as a text. Other
scripts can: their words hold no Latin letters, and their letters are as frequent as in one of their languages, or come
in pairs of bytes of which few are possible.
"""

import re

# Of single bytes, and of several to a character: the widest of each family (https://encoding.spec.whatwg.org).
_SINGLE = ("cp1251", "koi8_u", "cp866", "iso8859_5", "cp1253", "cp1255", "cp1256", "cp874")
_MULTIPLE = ("cp932", "euc_jp", "gb18030", "big5hkscs", "cp949")
_SAMPLE = 100_000  # bytes of lines that are not ASCII alone
# Letters of other scripts, but for the Japanese half-width ones, which is what any bytes are in Shift-JIS.
_LETTER = re.compile(r"[^\W\d_a-zA-Z\uff61-\uff9f]")
_IN_LATIN_WORD = re.compile(rf"(?<=[a-zA-Z]){_LETTER.pattern}|{_LETTER.pattern}(?=[a-zA-Z])")
# On pieces of texts in 11 languages none was misread with these; with fewer, Bulgarian was Russian and Chinese Thai.
_FEWEST_SINGLE, _FEWEST_MULTIPLE = 80, 30
_LANGUAGE = 0.3  # how near the letters' frequencies must come to those of a language, 1 at most
_IN_LATIN = 0.2  # the share of letters that may stand in words with Latin ones


def told_charset(content: bytes) -> str:
    """Return the name of the charset that a text is in beyond doubt, "" where there is none."""
    from charset_normalizer import from_bytes

    found = from_bytes(_sample(content), cp_isolation=[*_SINGLE, *_MULTIPLE]).best()
    if found is None:
        return ""
    single = found.encoding in _SINGLE
    letters, in_latin = (len(pattern.findall(str(found))) for pattern in (_LETTER, _IN_LATIN_WORD))
    enough = letters >= (_FEWEST_SINGLE if single else _FEWEST_MULTIPLE) and in_latin <= _IN_LATIN * letters
    return found.encoding if enough and (not single or found.coherence >= _LANGUAGE) else ""


def _sample(content: bytes) -> bytes:
    """The lines that tell something; none of these charsets has a line end within a character."""
    lines: list[bytes] = []
    size = 0
    for line in content.split(b"\n"):
        if not line.isascii():
            if lines and size + len(line) > _SAMPLE:
                break
            lines.append(line)
            size += len(line)
    return b"\n".join(lines)
