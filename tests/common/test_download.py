"""A download comes to its end whatever the server does, or to one line, and is the same file ever after."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from pathlib import Path

import pytest

from tests.command_line import run
from tests.http_cases import Site, serving
from yolov9k.common import download
from yolov9k.common.download import fetch
from yolov9k.common.errors import RUN, UserError
from yolov9k.models.releases import NAMES, RELEASES, find_published

BODY = b"PK\x03\x04" + random.Random(0).randbytes(700_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache" / "yolov9k" / "downloads.json"


def get(site: Site, folder: Path) -> str:
    with serving(site) as address:
        return fetch(f"{address}/a.pt", folder / "a.pt", pause=0, progress=False)


def refusal(site: Site, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        get(site, folder)
    assert caught.value.status == RUN
    assert "\n" not in str(caught.value)
    assert not (folder / "a.pt").exists()
    return str(caught.value)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"} - {"cache"}


@pytest.mark.parametrize(
    ("site", "ranges"),
    [
        (Site(BODY), [None]),
        (Site(BODY, cuts=[300_000]), [None, "bytes=300000-"]),
        (Site(BODY, cuts=[100_000, 0, 0, 0, 50_000, 7]), [None, *["bytes=100000-"] * 4, "bytes=150000-", "bytes=150007-"]),
        (Site(BODY, cuts=[300_000], ranges=False), [None, "bytes=300000-"]),
        (Site(BODY, cuts=[300_000], tag=None), [None, None]),
        (Site(BODY, cuts=[300_000], tag='W/"weak"'), [None, None]),
        (Site(BODY, statuses=[503, 500]), [None] * 3),
        (Site(BODY, cuts=[0, 0, 0, 0]), [None, *[None] * 4]),
        (Site(BODY, redirect="/elsewhere", cuts=[300_000]), [None, None, "bytes=300000-", "bytes=300000-"]),
    ],
    ids=["whole", "cut", "cut often", "no ranges", "no tag", "weak tag", "busy", "empty", "redirected"],
)
def test_the_file_is_whole(site: Site, ranges: list[str | None], tmp_path: Path) -> None:
    assert get(site, tmp_path) == DIGEST
    assert (tmp_path / "a.pt").read_bytes() == BODY
    assert [wanted for _, wanted in site.requests] == ranges
    assert files(tmp_path) == {"a.pt"}


def test_another_process_goes_on_where_one_ended(tmp_path: Path) -> None:
    with serving(Site(BODY, cuts=[200_000, *[0] * 5])) as address:
        url, path = f"{address}/a.pt", tmp_path / "a.pt"
        with pytest.raises(UserError, match=r"0 MiB of it are here, the same command goes on; check the connection$"):
            fetch(url, path, pause=0, progress=False)
        assert files(tmp_path) == {".a.pt.part", ".a.pt.part.json"}
        assert fetch(url, path, pause=0, progress=False) == DIGEST


@pytest.mark.parametrize("damage", ["other tag", "longer", "no facts", "damaged facts", "another address"])
def test_a_part_of_another_file_is_begun_anew(damage: str, tmp_path: Path) -> None:
    part, facts = tmp_path / ".a.pt.part", tmp_path / ".a.pt.part.json"
    site = Site(BODY)
    with serving(site) as address:
        url = f"{address}/a.pt"
        part.write_bytes(b"PK\x03\x04" + bytes(len(BODY) if damage == "longer" else 99))
        said = {"url": url, "size": len(BODY), "tag": '"one"'}
        said |= {"other tag": {"tag": '"two"'}, "another address": {"url": "http://x/a.pt"}}.get(damage, {})
        if damage != "no facts":
            facts.write_text("{" if damage == "damaged facts" else json.dumps(said))
        assert fetch(url, tmp_path / "a.pt", pause=0, progress=False) == DIGEST


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (Site(BODY, statuses=[404] * 9), "the server says 404 Not Found; check the name"),
        (Site(BODY, statuses=[503] * 9), "cannot be fetched (503 Service Unavailable); check the connection"),
        (Site(BODY, silent=True), "the server does not say how large the file is; fetch it by hand"),
        (Site(BODY, stated=2**40), "the server says 1099511627776 bytes, expected 1 to 1073741824"),
        (Site(BODY, stated=len(BODY) + 9), "cannot be fetched"),
        (Site(b"<html>", kind="text/html; charset=utf-8"), "the server sends a page in place of a file"),
        (Site(b"version https://git-lfs"), "what came is no checkpoint (it begins with b'vers')"),
        (Site(b""), "cannot be fetched (416"),
    ],
    ids=["404", "503", "no size", "huge", "short", "page", "pointer", "empty"],
)
def test_what_cannot_be_fetched_is_one_line(site: Site, message: str, tmp_path: Path) -> None:
    assert message in refusal(site, tmp_path)
    assert files(tmp_path) <= {".a.pt.part", ".a.pt.part.json"}


def test_a_longer_body_than_was_said_is_cut_at_its_size(tmp_path: Path) -> None:
    assert get(Site(BODY + b"more", stated=len(BODY)), tmp_path) == DIGEST


def test_nobody_answers(tmp_path: Path) -> None:
    with serving(Site(BODY)) as address:
        pass
    with pytest.raises(UserError, match=r"cannot be fetched \(.*refused.*\); check the connection"):
        fetch(f"{address}/a.pt", tmp_path / "a.pt", pause=0, progress=False)
    for url in ("ftp://x/a.pt", "file:///etc/passwd", "a.pt"):
        with pytest.raises(UserError, match="expected an address that begins with https://"):
            fetch(url, tmp_path / "a.pt")


def test_https_is_not_left(tmp_path: Path) -> None:
    request = download.urllib.request.Request("https://x/a.pt")
    with pytest.raises(UserError, match=r"^https://x/a.pt: redirected to http://y/a.pt, which is not https"):
        download._Redirects().redirect_request(request, None, 302, "", {}, "http://y/a.pt")


def test_the_hash_is_pinned_on_first_use(tmp_path: Path, own_cache: Path) -> None:
    path, other = tmp_path / "a.pt", BODY[:-1] + b"!"
    site = Site(BODY)
    with serving(site) as address:
        url = f"{address}/a.pt"
        assert fetch(url, path, progress=False) == DIGEST
        assert json.loads(own_cache.read_text()) == {url: {"sha256": DIGEST, "size": len(BODY)}}
        assert fetch(url, path, progress=False) == DIGEST  # it is there
        assert len(site.requests) == 1
        path.unlink()
        site.body, site.tag = other, '"two"'
        for _ in range(2):
            with pytest.raises(UserError, match=f"it was {DIGEST} when it was first fetched; remove "):
                fetch(url, path, progress=False)
            assert files(tmp_path) == set()
        path.write_bytes(other)  # brought here by hand
        with pytest.raises(UserError, match="it was "):
            fetch(url, path, progress=False)
        own_cache.write_text("[1]")
        assert fetch(url, path, progress=False) == hashlib.sha256(other).hexdigest()


def test_without_a_home_nothing_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert get(Site(BODY), tmp_path) == DIGEST
    assert "is not remembered (" in capsys.readouterr().err


def test_two_that_fetch_the_same_file_fetch_it_once(tmp_path: Path) -> None:
    site, found = Site(BODY), list[str]()
    with serving(site) as address:
        threads = [
            threading.Thread(target=lambda: found.append(fetch(f"{address}/a.pt", tmp_path / "a.pt", progress=False)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [DIGEST] * 3
    assert len(site.requests) == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(BODY)
    with serving(site) as address:
        assert run("download", "yolov9-t", f"--mirror={address}/", "--to", tmp_path / "w") == 0
        assert run("download", "gelan-c.pt", "--mirror", address, "--to", tmp_path / "w") == 0
    assert [path for path, _ in site.requests] == ["/files/yolov9-t-converted.pt", "/files/gelan-c.pt"]
    out = capsys.readouterr().out
    assert f"{tmp_path}/w/gelan-c.pt: {len(BODY):,} bytes, SHA-256 {DIGEST}" in out
    assert "license of the repository: GPL-3.0" in out
    assert run("download") == 0
    listed = capsys.readouterr().out
    assert [name for name in NAMES if name not in listed] == []
    assert run("download", "yolov9c") == 2
    assert "yolov9c: no published weights have this name; did you mean 'yolov9-c'?" in capsys.readouterr().err
    site.statuses = [404]
    with serving(site) as address:
        assert run("download", "v9-c", "--mirror", address, "--to", tmp_path / "w") == RUN
    assert "404 Not Found" in capsys.readouterr().err
    assert os.listdir(tmp_path / "w") != []


def test_every_name_is_in_one_release() -> None:
    assert len(set(NAMES)) == len(NAMES) == sum(len(release.files) for release in RELEASES)
    for name in NAMES:
        found = find_published(name)
        assert (found.file, found.folder.startswith("https://github.com/")) == (f"{name}.pt", True)
    for name in ("yolov9-t", "yolov9-c", "gelan-e"):
        assert find_published(name).file in (f"{name}.pt", f"{name}-converted.pt")
    with pytest.raises(UserError, match=r"^zzz: no published weights have this name; there are yolov9-t-converted, yolov9-s, "):
        find_published("zzz")
