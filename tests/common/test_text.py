"""Text is read whatever editor wrote it, and what cannot be read is one line that names the file and the place."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov9k.common.errors import UserError
from yolov9k.common.text import decode, decode_xml, read_json, read_text, read_yaml

MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
LIST = "images/a.jpg\r\nC:\\images\\zoë.jpg\rimages/猫.jpg\n"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.sampled_from(sorted(MARKED)))
def test_a_byte_order_mark_decides(text: str, encoding: str) -> None:
    assert decode(MARKED[encoding] + text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", MARKED)
def test_zeros_tell_wide_encodings_without_a_mark(encoding: str) -> None:
    assert decode(LIST.encode(encoding)) == LIST
    assert decode(b"0 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.2 0.4\n".decode().encode(encoding))[:3] == "0 0"


@given(st.text())
def test_utf_8_that_holds_a_zero_byte_stays_what_it_is(text: str) -> None:
    data = f"a line of plain text\n\0{text}".encode("utf-8", "replace")
    assert decode(data) == data.decode()


@pytest.mark.parametrize("encoding", [*MARKED, "utf-8-sig"])
def test_files_of_any_encoding_and_line_ends(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(LIST.encode(encoding))
    assert read_text(path).splitlines() == ["images/a.jpg", "C:\\images\\zoë.jpg", "images/猫.jpg"]
    path.write_bytes("names: [zoë, 猫]\r\nnc: 2\r\n".encode(encoding))
    assert read_yaml(path) == {"names": ["zoë", "猫"], "nc": 2}
    path.write_bytes(json.dumps({"name": "猫", "values": [1, 2.5]}).encode(encoding))
    assert read_json(path) == {"name": "猫", "values": [1, 2.5]}


def fault(read: Any, path: Path, content: bytes | None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("read", "content", "words"),
    [
        (read_text, b"fine\nna\xefve\n", ":2: not text (byte 7 does not belong to UTF-8"),
        (read_text, b"\xff\xfea\0b", ":1: not text (byte 4 does not belong to UTF-16"),
        (read_text, None, ": cannot be read (No such file or directory); check the file"),
        (read_yaml, b"a: [1\nb: 2\n", ":2: not a YAML file (while parsing a flow sequence, did not find expected"),
        (read_yaml, b"a: 1\nb: \xe9\n", ":2: not a YAML file (byte 8"),
        (read_yaml, b"a: \x07\n", ": not a YAML file (unacceptable character"),
        (read_yaml, b"a: 2024-13-99\n", ":1: not a YAML file ('2024-13-99' is no timestamp: month must be in 1..12"),
        (read_yaml, b"{[a]: 1}\n", ":1: not a YAML file (while constructing a mapping, found unhashable key"),
        (read_yaml, b"[" * 9999, ":1: not a YAML file ("),
        (read_json, b'{\n"a": ,}', ":2: not valid JSON (Expecting value, column 6); mend the file"),
        (read_json, b'{\n"a": "\xe9"}', ":2: not valid JSON (byte 8"),
        (read_json, b"[" * 999_999, ": not valid JSON ("),
        (read_json, None, ": cannot be read (No such file"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, read: Any, content: bytes | None, words: str) -> None:
    assert fault(read, tmp_path / "it", content).startswith(words)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for read in (read_text, read_yaml, read_json):
        assert "cannot be read (Is a directory)" in fault(read, tmp_path, None)


def test_replacing_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"na\xefve\r\n\xff")
    assert read_text(tmp_path / "x", "replace") == "na\ufffdve\n\ufffd"


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("GB2312", "gb2312"),
        ("gb2312", "gbk"),  # with characters that GB2312 lacks
        ("GB18030", "gb18030"),
        ("Big5", "big5"),
        ("Shift_JIS", "shift_jis"),
        ("EUC-KR", "euc_kr"),
        ("ISO-8859-1", "latin-1"),
        ("utf8", "utf-8"),
        ("UTF-16", "utf-16"),
        ("utf-16", "utf-8"),
        ("UTF-8", "utf-16"),
        ("UTF-8", "utf-8-sig"),
    ],
)
def test_xml_declares_its_encoding(declared: str, encoding: str) -> None:
    sample = {"gbk": "鎔", "big5": "貓", "latin-1": "zoë", "euc_kr": "고양이"}.get(encoding, "日本")
    text = f'<?xml version="1.0" encoding="{declared}"?>\n<name>{sample}</name>'
    assert decode_xml(text.encode(encoding)) == text


def test_xml_that_cannot_be_decoded() -> None:
    with pytest.raises(LookupError):
        decode_xml(b'<?xml version="1.0" encoding="klingon"?><a/>')
    with pytest.raises(UnicodeError):
        decode_xml(b"<a>\xe9</a>")
    assert decode_xml(b"<a>plain</a>") == "<a>plain</a>"
