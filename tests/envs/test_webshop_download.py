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
from collections.abc import Callable, Iterator
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
WARNING = (
    "<html><head><title>Google Drive - Virus scan warning</title></head><body>"
    '<form id="download-form" action="https://drive.usercontent.google.com/really" method="get">'
    '<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="a&amp;b">'
    '<input type="hidden" name="confirm" value="t"></form></body></html>'
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
        self.etag: str | None = '"one"'
        self.drops: list[int] = []
        """Bytes after which the next answers break off."""
        self.stall: int | None = None
        """Bytes after which answers go silent."""
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        """Answers to give before anything else."""
        self.lengths = True
        self.pages: dict[str, tuple[int, str]] = {}
        self.after_drop: Callable[[int], bytes] | None = None
        """Gives the content that the first file has after an answer broke off."""
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
            if have.lengths and "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            end = have.drops.pop(0) if have.drops and status in (200, 206) else len(body)
            if have.stall is not None:
                self.wfile.write(body[: have.stall])
                self.wfile.flush()
                time.sleep(30)
            self.wfile.write(body[:end])
            if end < len(body) and have.after_drop:
                have.files[PRODUCTS] = have.after_drop(end)
            self.close_connection = True

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            have.asked.append((self.path, wanted))
            name = self.path.strip("/").split("?")[0]
            if have.answers:
                return self.answer(*have.answers.pop(0))
            if name in have.pages:
                status, page = have.pages[name]
                return self.answer(status, {"Content-Type": "text/html"}, page.encode())
            if name not in have.files:
                return self.answer(404, {}, b"nothing")
            body = have.files[name]
            headers = {"ETag": have.etag} if have.etag else {}
            if name == "really":
                headers |= {"Content-Type": "x/y", "Content-Disposition": "attachment"}
            if not wanted or not have.ranges:
                return self.answer(200, headers, body)
            condition = self.headers.get("If-Range")
            if condition is not None and condition != have.etag:
                return self.answer(200, headers, body)
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if start >= len(body):
                return self.answer(416, {"Content-Range": f"bytes */{len(body)}"}, b"")
            place = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.answer(206, {**headers, "Content-Range": place}, body[start:])

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


def give(shop: Shop, folder: Path) -> None:
    """All files but the human instructions are there."""
    for name in (PRODUCTS, ATTRIBUTES):
        (folder / name).write_bytes(shop.files[name])


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


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
def test_goes_on_where_the_connection_broke(
    shop: Shop, tmp_path: Path, etag: str | None, quick: None
) -> None:
    shop.etag, shop.drops = etag, [1_200_000, 1_500_000, 600_000]
    path = get(shop, tmp_path)
    assert path.read_bytes() == shop.files[PRODUCTS]
    starts = [int(r[6:-1]) / 2**19 for _, r in shop.asked[1:4]]
    assert starts == [2, 4, 5]
    assert not parts(tmp_path)


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


def test_a_file_that_changes_during_the_transfer_is_not_spliced(
    shop: Shop, tmp_path: Path, quick: None
) -> None:
    shop.drops = [1_300_000]
    new = shop.files[PRODUCTS].replace(b"sofa", b"desk")

    def changed(have: int) -> bytes:
        shop.etag = '"two"'
        return new

    shop.after_drop = changed
    with pytest.raises(PrerequisiteError, match="byte range"):
        get(shop, tmp_path)
    assert not (tmp_path / PRODUCTS).exists()


def test_a_busy_server_is_told(shop: Shop, tmp_path: Path) -> None:
    shop.answers = [(503, {}, b"")]
    with pytest.raises(PrerequisiteError, match="503"):
        get(shop, tmp_path)
    assert get(shop, tmp_path).read_bytes() == shop.files[PRODUCTS]


def test_a_silent_server_times_out(
    shop: Shop, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.stall = 10
    monkeypatch.setattr(official, "TIMEOUT", 0.2)
    with pytest.raises(PrerequisiteError, match="timed out"):
        get(shop, tmp_path)


@pytest.fixture
def drive(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The server answers in place of Google Drive."""
    import requests

    real = requests.Session.get

    def redirected(self: requests.Session, url: str, **options: Any) -> Any:
        path = url.split(".google.com")[1]
        return real(self, f"{shop.url}{path}", **options)

    monkeypatch.setattr(requests.Session, "get", redirected)
    return shop


def test_the_virus_scan_page_of_google_drive_is_stepped_over(
    drive: Shop, tmp_path: Path, quick: None
) -> None:
    """It stands before large files; the button carries hidden fields."""
    drive.pages["uc"] = (200, WARNING)
    drive.files["really"] = drive.files[HUMAN]
    give(drive, tmp_path)
    download(tmp_path, progress=False)
    assert (tmp_path / HUMAN).read_bytes() == drive.files[HUMAN]
    assert drive.asked[0][0].startswith("/uc?id=14Kb5SPBk")
    assert drive.asked[1][0] == "/really?id=a%26b&confirm=t"


@pytest.mark.parametrize(
    ("page", "message"),
    [(QUOTA, "Too many users"), ("<html><title>Sign in</title></html>", "permission")],
)
def test_a_quota_page_of_google_drive_is_told(
    drive: Shop, tmp_path: Path, page: str, message: str
) -> None:
    drive.pages["uc"] = (200, page)
    with pytest.raises(PrerequisiteError, match=rf"(?s){message}.*By hand"):
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


def test_a_cut_that_nothing_announced_is_seen(shop: Shop, tmp_path: Path) -> None:
    shop.lengths, shop.drops = False, [100_000]
    with pytest.raises(DataError, match=r"ends with .*cut off"):
        get(shop, tmp_path)
    assert not (tmp_path / PRODUCTS).exists()


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
    give(shop, tmp_path)
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


def test_the_command(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ["--from", shop.url]
    assert main([str(tmp_path), *good, "--set", "full"]) == 2
    assert "items_shuffle.json" in capsys.readouterr().err
    assert main([str(tmp_path), *good]) == 0
    assert "small set): 1,500 products, 1 human goals" in capsys.readouterr().out


def test_without_the_libraries_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(PrerequisiteError, match=r"needs gdown: pip install 'eeflib\[webshop\]'"):
        download(tmp_path, progress=False)
