"""Text files that users hand over, in whatever encoding their editor wrote them: text, YAML, JSON, and XML's own rule.

A byte order mark decides, then the zero bytes that UTF-16 and UTF-32 leave in mostly Latin text, else it is UTF-8.
"""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from yolov9k.common.bounded_yaml import load_yaml
from yolov9k.common.errors import UserError, one_line, shown
from yolov9k.common.files import read_bytes

_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE = 4096  # bytes, a multiple of 4, that are enough to see a pattern of zeros in
# Files that declare the smaller set mostly use the larger one, which reads both alike (WHATWG Encoding Standard).
_LARGER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
# Labels of the Encoding Standard that no rule leads to a name of Python's.
_LABELS = {
    "windows-31j": "cp932", "cn-big5": "big5", "csksc56011987": "cp949", "ksc_5601": "cp949", "iso-ir-149": "cp949",
    "cseuckr": "cp949", "gb_2312": "gb18030", "gb_2312-80": "gb18030", "csgb2312": "gb18030", "koi": "koi8-r", "koi8": "koi8-r",
    "unicode-1-1-utf-8": "utf-8", "unicode11utf8": "utf-8", "unicode20utf8": "utf-8", "iso-8859-8-i": "iso-8859-8",
    "iso-8859-8-e": "iso-8859-8", "logical": "iso-8859-8", "visual": "iso-8859-8", "cseucpkdfmtjapanese": "euc-jp",
    "mac-ukrainian": "mac-cyrillic",
}  # fmt: skip
# Python's own encodings that no editor writes; some of them take quadratic time, some give no Unicode.
_NOT_FOR_XML = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})  # categories of characters
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols that are drawn as nothing
_XML_DECLARATION = re.compile(rb"""\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*["']([\w.:-]{1,40})["']""")


def decode(data: bytes, errors: str = "strict") -> str:
    """The text of a file's bytes, without its byte order mark; line ends stay. Raises UnicodeDecodeError."""
    return data.decode(_encoding_of(data) or "utf-8", errors)


def decode_xml(data: bytes) -> str:
    """The text of an XML file: by mark or zeros, else as it declares itself, else UTF-8.

    A declared UTF-16 or UTF-32 without their zeros is UTF-8: .NET writes such files. Raises LookupError for an encoding
    that Python does not know and UnicodeError for bytes that are not of the one declared.
    """
    encoding = _encoding_of(data)
    if encoding is None:
        declared = _XML_DECLARATION.match(data)
        encoding = _codec(declared[1].decode("ascii") if declared else "utf-8")
        if encoding in _NOT_FOR_XML:
            raise LookupError(f"{encoding} is no encoding of XML")
        encoding = "utf-8" if encoding.startswith(("utf-16", "utf-32")) else _LARGER.get(encoding, encoding)
    return data.decode(encoding)


def _codec(label: str) -> str:
    """Python's name of an encoding by any label of the Encoding Standard (WHATWG). Raises LookupError."""
    name = re.sub(r"^(x-)+", "", label.strip().lower())
    for spelling in (_LABELS.get(name, name), re.sub(r"^(windows|dos|ibm|ms)[-_]?(?=\d+$)", "cp", name)):
        with suppress(LookupError):
            return codecs.lookup(spelling).name
    raise LookupError(f"unknown encoding: {label}")


def read_text(path: str | Path, errors: str = "strict") -> str:
    """The text of a file, lines ended by a newline alone. Raises UserError that names the file and the line.

    errors: as bytes.decode has it; "replace" raises nothing for bytes that are no text.
    """
    data = _read(Path(path))
    try:
        return normalize_newlines(decode(data, errors))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{_line(error)}: not text ({_reason(error)}); save it as UTF-8") from None


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file, bounded as `load_yaml` says. Raises UserError that names file and line."""
    data = _read(Path(path))
    try:
        return load_yaml(normalize_newlines(decode(data)), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{_line(error)}: not a YAML file ({_reason(error)}); save it as UTF-8 text") from None


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises UserError that names file and line, or the key that stands twice in an object."""
    data = _read(Path(path))
    try:
        return json.loads(decode(data), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        what = f"{error.msg}, column {error.colno}"
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({what}); mend the file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{_line(error)}: not valid JSON ({_reason(error)}); save it as UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({one_line(str(error))}); mend the file") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a key stands twice: another tool may take the other value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {shown(counts.most_common(1)[0][0])} stands twice in {shown(content)}")
    return content


def normalize_newlines(text: str) -> str:
    """Ends of lines from Windows and from old Macs made a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the file") from None


def _encoding_of(data: bytes) -> str | None:
    """What a mark or zeros say; None where they say nothing."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    sample = data[:_SAMPLE]
    if b"\0" not in sample:
        return None
    lanes = [sum(byte == 0 for byte in sample[lane::4]) * 4 / len(sample) for lane in range(4)]
    for zeros, encoding in (("0111", "utf-32-le"), ("1110", "utf-32-be"), ("0101", "utf-16-le"), ("1010", "utf-16-be")):
        if len(data) % (4 if "32" in encoding else 2) == 0 and all(
            share > 0.5 if zero == "1" else share < 0.1 for share, zero in zip(lanes, zeros, strict=True)
        ):
            return encoding
    return None


def _line(error: UnicodeDecodeError) -> int:
    return error.object[: error.start].count(b"\n") + 1


def _reason(error: UnicodeDecodeError) -> str:
    return f"byte {error.start} does not belong to {error.encoding.removesuffix('-sig').upper()}: {error.reason}"


def has_unseen(text: str) -> bool:
    """Whether a name is empty or holds what nobody sees: blanks at its ends, control and formatting characters.

    Joiners within a word are of its spelling in several scripts, and of emoji.
    """
    inner = text[1:-1].replace("\u200c", "").replace("\u200d", "")
    shown = f"{text[:1]}{inner}{text[1:][-1:]}"
    return (
        not text
        or text != text.strip()
        or any(
            letter in _BLANK_LETTERS or unicodedata.category(letter) in _UNSEEN or (letter.isspace() and letter != " ")
            for letter in shown
        )
    )
