"""Fetching the official files, from a real server that misbehaves in every way it can."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from eeflib.envs.webshop import official
from eeflib.envs.webshop.official import SOURCES, download, main
from eeflib.errors import DataError, PrerequisiteError

PRODUCTS, ATTRIBUTES, HUMAN = (source.name for source in SOURCES["small"])
QUOTA = (
    "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    '<p class="uc-error-subcaption">Too many users have viewed or downloaded this file</p></html>'
)
WISH = {"instruction": "buy it", "instruction_attributes": ["soft"], "instruction_options": []}


def rows(seed: str, n: int = 1_500) -> bytes:
    """About 5 MB, of which gdown keeps pieces of 512 KiB, that look like a products file."""
    made = [{"asin": f"B{i:09d}", "name": f"{seed} {i * 7919 % 65521} <b>" * 160} for i in range(n)]
    return json.dumps(made).encode()


class Shop:
    """What the server has, how it behaves, and what it was asked."""

    def __init__(self) -> None:
        self.files = {
            PRODUCTS: rows("sofa"),
            ATTRIBUTES: b'{"B000000000": {"attributes": ["soft"]}}',
            HUMAN: json.dumps({"B000000000": [WISH]}).encode(),
        }
        self.ranges = True
        self.drops: list[int] = []
        """Bytes after which the next answers break off."""
        self.stall: int | None = None
        """Bytes after which answers go silent."""
        self.asked: list[tuple[str, str]] = []
        """(path, Range) of each request."""
        self.url = ""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("no_proxy", "*")
    have = Shop()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            kind = "text/html" if body.startswith(b"<") else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if have.stall is not None:
                self.wfile.write(body[: have.stall])
                self.wfile.flush()
                time.sleep(30)
            self.wfile.write(body[: have.drops.pop(0) if have.drops else len(body)])
            self.close_connection = True

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            have.asked.append((self.path, wanted))
            body = have.files.get(self.path.strip("/").split("?")[0])
            if body is None:
                return self.answer(404, {}, b"nothing")
            if not wanted or not have.ranges:
                return self.answer(200, {"ETag": '"one"'}, body)
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            place = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.answer(206, {"ETag": '"one"', "Content-Range": place}, body[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    have.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield have
    server.shutdown()
    server.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting before another attempt, and few of them."""
    monkeypatch.setattr(official, "RETRIES", 3)
    monkeypatch.setattr(sys.modules["gdown.download"], "_wait_or_cancel", lambda **_: None)


def get(shop: Shop, folder: Path, **more: Any) -> Path:
    """The products' file, with the others."""
    download(folder, base_url=shop.url, progress=False, **more)
    return folder / PRODUCTS


def parts(folder: Path) -> list[Path]:
    return list(folder.glob("*.part"))


def test_fetches_once_and_then_only_checks(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    get(shop, folder)
    assert {name: (folder / name).read_bytes() for name in shop.files} == shop.files
    sums = json.loads((folder / "checksums.json").read_text())
    assert sums[PRODUCTS] == hashlib.sha256(shop.files[PRODUCTS]).hexdigest()
    assert not list(folder.glob("*.new*"))
    get(shop, folder)
    assert len(shop.asked) == 3


def test_a_killed_process_is_resumed_by_the_next(shop: Shop, tmp_path: Path) -> None:
    shop.stall = 1_300_000
    command = [sys.executable, "-m", "eeflib.envs.webshop.official", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--from", shop.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while sum(part.stat().st_size for part in parts(tmp_path)) < 1_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (part,) = parts(tmp_path)
    have, shop.stall = part.stat().st_size, None
    done = subprocess.run([*command, "--from", f"{shop.url}/"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "small set): 1,500 products" in done.stdout
    assert (tmp_path / PRODUCTS).read_bytes() == shop.files[PRODUCTS]
    assert (f"/{PRODUCTS}", f"bytes={have}-") in shop.asked


def test_a_server_that_cannot_go_on_is_told_and_keeps_the_part(
    shop: Shop, tmp_path: Path, quick: None
) -> None:
    shop.ranges, shop.drops = False, [1_400_000]
    with pytest.raises(PrerequisiteError, match=r"(?s)byte range.*delete it to start anew"):
        get(shop, tmp_path)
    (part,) = parts(tmp_path)
    assert part.stat().st_size == 2 * 2**19
    part.unlink()
    assert get(shop, tmp_path).read_bytes() == shop.files[PRODUCTS]


def test_a_silent_server_times_out(
    shop: Shop, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.stall = 10
    monkeypatch.setattr(official, "TIMEOUT", 0.2)
    with pytest.raises(PrerequisiteError, match="timed out"):
        get(shop, tmp_path)


def test_a_quota_page_of_google_drive_is_told(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers in place of Google Drive."""
    import requests

    real = requests.Session.get

    def redirected(self: requests.Session, url: str, **options: Any) -> Any:
        return real(self, shop.url + url.split(".google.com")[1], **options)

    monkeypatch.setattr(requests.Session, "get", redirected)
    shop.files["uc"] = QUOTA.encode()
    with pytest.raises(PrerequisiteError, match=r"(?s)Too many users.*By hand"):
        download(tmp_path, progress=False)
    assert not list(tmp_path.glob("items*"))


@pytest.mark.parametrize(
    "content", [b"<html>gone</html>", b'{"error": "no"}', gzip.compress(rows("sofa"), mtime=0)]
)
def test_another_thing_in_place_of_the_file(shop: Shop, tmp_path: Path, content: bytes) -> None:
    good = shop.files[PRODUCTS]
    shop.files[PRODUCTS] = content
    with pytest.raises(DataError, match=r"starts with .*compressed, a web page"):
        get(shop, tmp_path)
    assert not list(tmp_path.glob("items*"))
    shop.files[PRODUCTS] = good
    get(shop, tmp_path)
    (tmp_path / HUMAN).unlink()
    with pytest.raises(PrerequisiteError, match="404"):
        download(tmp_path, base_url=f"{shop.url}/none", progress=False)


def test_damage_after_the_download_is_seen(shop: Shop, tmp_path: Path) -> None:
    path = get(shop, tmp_path)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){PRODUCTS}.*SHA-256.*damaged or has changed"):
        get(shop, tmp_path)


def test_a_sum_of_ones_own(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 00FF"):
        get(shop, tmp_path, expected={PRODUCTS: "00FF"})
    assert not (tmp_path / PRODUCTS).exists()
    right = hashlib.sha256(shop.files[PRODUCTS]).hexdigest().upper()
    path = get(shop, tmp_path, expected={PRODUCTS: right})
    assert path.read_bytes() == shop.files[PRODUCTS]
    with pytest.raises(DataError, match=r"items_shuffle\.json"):
        get(shop, tmp_path, expected={"items_shuffle.json": right})


def test_files_put_there_by_hand(shop: Shop, tmp_path: Path) -> None:
    for name in (PRODUCTS, ATTRIBUTES):
        (tmp_path / name).write_bytes(shop.files[name])
    (tmp_path / HUMAN).write_bytes(b'{"B1": [')
    with pytest.raises(DataError, match="cut off"):
        get(shop, tmp_path)
    (tmp_path / HUMAN).write_bytes(b'{"B1": []}')
    get(shop, tmp_path)
    assert shop.asked == []
    assert HUMAN in (tmp_path / "checksums.json").read_text()
    (tmp_path / "checksums.json").write_text("[")
    with pytest.raises(DataError, match="delete it to record new sums"):
        get(shop, tmp_path)


def test_offline_says_what_to_do_by_hand(tmp_path: Path, quick: None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PrerequisiteError) as caught:
        download(tmp_path, base_url=f"http://127.0.0.1:{port}", progress=False)
    message = str(caught.value)
    assert "refused" in message
    assert str(tmp_path) in message
    for name in (PRODUCTS, ATTRIBUTES, HUMAN):
        assert re.search(rf"{name}  https://drive\.google\.com/uc\?\S*id=\w+", message)


def test_a_full_disk_keeps_what_has_arrived(shop: Shop, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_300_000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written .*Make room"):
            get(shop, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (part,) = parts(tmp_path)
    have = part.stat().st_size
    assert 10**6 < have <= 1_300_000
    assert get(shop, tmp_path).read_bytes() == shop.files[PRODUCTS]
    assert (f"/{PRODUCTS}", f"bytes={have}-") in shop.asked


def test_one_download_at_a_time(shop: Shop, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".download.lock"),
        pytest.raises(DataError, match="another process is downloading"),
    ):
        get(shop, tmp_path)


def test_what_cannot_be_asked_for(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="large"):
        get(shop, tmp_path, size="large")
    with pytest.raises(DataError, match="only http and https"):
        download(tmp_path, base_url="file:///etc")


def test_a_command_that_fails_says_why(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--from", shop.url, "--set", "full"]) == 2
    assert "items_shuffle.json" in capsys.readouterr().err


def test_without_the_libraries_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(PrerequisiteError, match=r"needs gdown: pip install 'eeflib\[webshop\]'"):
        download(tmp_path, progress=False)
