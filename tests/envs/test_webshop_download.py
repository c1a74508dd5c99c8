"""Fetching the official files, from a real server that misbehaves in every way it can."""

from __future__ import annotations

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

from eeflib.envs.webshop.download import download, main
from eeflib.envs.webshop.official_transfer import Patience
from eeflib.errors import DataError, PrerequisiteError

PRODUCTS, ATTRIBUTES, HUMAN = (
    "items_shuffle_1000.json",
    "items_ins_v2_1000.json",
    "items_human_ins.json",
)
QUICK = Patience(retries=3, wait=0.01, timeout=5)
QUOTA = (
    "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    "<p>Too many users have viewed or downloaded this file recently.</p></body></html>"
)
WARNING = """<html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="{action}" method="get">
<input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="a&amp;b"><input type="hidden" name="confirm" value="t"></form>
</body></html>"""


def rows(seed: str, n: int = 6_000) -> bytes:
    """About 600 kB that look like a products file."""
    made = [{"asin": f"B{i:09d}", "name": f"{seed} {i * 7919 % 65521} <b>" * 3} for i in range(n)]
    return json.dumps(made).encode()


class Shop:
    """What the server has, how it behaves, and what it was asked."""

    def __init__(self) -> None:
        self.files = {
            PRODUCTS: rows("sofa"),
            ATTRIBUTES: b'{"B000000000": {"attributes": ["soft"]}}',
            HUMAN: b'\n{"B000000000": []}\n',
        }
        self.ranges = True
        self.etag: str | None = '"one"'
        self.honest = True
        """Heeds If-Range, and names the ETag it has now."""
        self.drops: list[int] = []
        """Bytes after which the next answers break off."""
        self.stall: int | None = None
        """Bytes after which answers go silent."""
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        """Answers to give before anything else."""
        self.lengths = True
        self.pages: dict[str, tuple[int, str]] = {}
        self.asked: list[tuple[str, str]] = []
        """(path, Range) of each request."""
        self.sent = 0
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
            have.sent += min(end, len(body))
            self.close_connection = True

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            have.asked.append((self.path, wanted))
            name = self.path.strip("/")
            if have.answers:
                return self.answer(*have.answers.pop(0))
            if name in have.pages:
                status, page = have.pages[name]
                return self.answer(status, {"Content-Type": "text/html"}, page.encode())
            if name.split("?")[0] not in have.files:
                return self.answer(404, {}, b"nothing")
            body = have.files[name.split("?")[0]]
            headers = {"ETag": have.etag} if have.etag and have.honest else {}
            if not wanted or not have.ranges:
                return self.answer(200, headers, body)
            condition = self.headers.get("If-Range")
            if have.honest and condition is not None and condition != have.etag:
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


def get(shop: Shop, folder: Path, *which: str, patience: Patience = QUICK, **more: Any) -> Any:
    return download(
        folder, which or ("small",), shop.url, patience=patience, progress=False, **more
    )


def test_fetches_once_and_then_only_checks(shop: Shop, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    found = get(shop, folder, "small", "human")
    assert {name: path.read_bytes() for name, path in found.items()} == shop.files
    sums = json.loads((folder / "checksums.json").read_text())
    assert sums[PRODUCTS]["sha256"] == hashlib.sha256(shop.files[PRODUCTS]).hexdigest()
    assert not list(folder.glob("*.part*"))
    asked = len(shop.asked)
    assert get(shop, folder, "small", "human") == found
    assert len(shop.asked) == asked == 3


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
def test_goes_on_where_the_connection_broke(shop: Shop, tmp_path: Path, etag: str | None) -> None:
    shop.etag, shop.drops = etag, [200_000, 150_000, 100_000]
    path = get(shop, tmp_path)[PRODUCTS]
    assert path.read_bytes() == shop.files[PRODUCTS]
    assert shop.sent < len(shop.files[PRODUCTS]) + 20_000
    starts = [int(r[6:-1]) for _, r in shop.asked[1:4]]
    assert starts == sorted(starts)
    assert starts[0] > 190_000


def test_a_killed_process_is_resumed_by_the_next(shop: Shop, tmp_path: Path) -> None:
    shop.stall = 300_000
    command = [sys.executable, "-m", "eeflib.envs.webshop.download", str(tmp_path), "--no-human"]
    process = subprocess.Popen(
        [*command, "--from", shop.url, "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    part = tmp_path / f"{PRODUCTS}.part"
    deadline = time.monotonic() + 15
    while not (part.exists() and part.stat().st_size > 250_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    have, shop.stall = part.stat().st_size, None
    done = subprocess.run(
        [*command, "--from", f"{shop.url}/", "--quiet"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(shop.files[PRODUCTS]).hexdigest() in done.stdout
    assert (tmp_path / PRODUCTS).read_bytes() == shop.files[PRODUCTS]
    assert (f"/{PRODUCTS}", f"bytes={have - 4096}-") in shop.asked


def test_a_server_without_ranges_sends_all_again(shop: Shop, tmp_path: Path) -> None:
    shop.ranges, shop.drops = False, [400_000]
    assert get(shop, tmp_path)[PRODUCTS].read_bytes() == shop.files[PRODUCTS]


def test_a_server_that_always_breaks_off_early_is_given_up(shop: Shop, tmp_path: Path) -> None:
    shop.ranges, shop.drops = False, [200_000] * 50
    with pytest.raises(PrerequisiteError, match=r"ended after 200,000 of [\d,]+ bytes"):
        get(shop, tmp_path)
    assert len(shop.asked) == 5  # one that brought something, four that did not


@pytest.mark.parametrize("honest", [True, False])
@pytest.mark.parametrize("longer", [True, False])
def test_a_part_is_not_continued_with_another_file(
    shop: Shop, tmp_path: Path, honest: bool, longer: bool
) -> None:
    shop.honest, shop.drops = honest, [300_000, 0]
    with pytest.raises(PrerequisiteError, match="300,000 bytes are kept"):
        get(shop, tmp_path, patience=Patience(retries=0, wait=0))
    new = shop.files[PRODUCTS].replace(b"sofa", b"desk")
    shop.files[PRODUCTS] = new[:-1] + b', {"asin": "B1"}]' if longer else new
    shop.etag = '"two"'
    assert get(shop, tmp_path)[PRODUCTS].read_bytes() == shop.files[PRODUCTS]


def test_a_file_that_became_shorter_than_the_part(shop: Shop, tmp_path: Path) -> None:
    shop.honest, shop.drops = False, [300_000, 0]
    with pytest.raises(PrerequisiteError):
        get(shop, tmp_path, patience=Patience(retries=0, wait=0))
    shop.files[PRODUCTS] = rows("lamp", 40)
    assert get(shop, tmp_path)[PRODUCTS].read_bytes() == shop.files[PRODUCTS]


def test_busy_servers_are_waited_for(shop: Shop, tmp_path: Path) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    shop.answers = [(429, {"Retry-After": "0"}, b""), (503, {"Retry-After": date}, b"")]
    assert get(shop, tmp_path)[PRODUCTS].read_bytes() == shop.files[PRODUCTS]
    shop.answers = [(503, {}, b"")] * 9
    with pytest.raises(PrerequisiteError, match=r"503 .*tried 4 times"):
        get(shop, tmp_path, "human")


def test_retry_after_is_heeded(shop: Shop, tmp_path: Path) -> None:
    shop.answers = [(429, {"Retry-After": "1"}, b"")]
    began = time.monotonic()
    get(shop, tmp_path, "human")
    assert time.monotonic() - began >= 1


def test_a_silent_server_times_out(shop: Shop, tmp_path: Path) -> None:
    shop.stall = 10
    with pytest.raises(PrerequisiteError, match="timed out"):
        get(shop, tmp_path, patience=Patience(retries=1, wait=0, timeout=0.2))


def test_the_virus_scan_page_is_stepped_over(shop: Shop, tmp_path: Path) -> None:
    """Google Drive puts it before large files; the button carries hidden fields."""
    shop.pages[PRODUCTS] = (200, WARNING.format(action="/really"))
    shop.files["really"] = shop.files[PRODUCTS]
    shop.drops = [10_000, 300_000]  # the page, then the file
    assert get(shop, tmp_path)[PRODUCTS].read_bytes() == shop.files["really"]
    assert shop.asked[1][0] == "/really?id=a%26b&confirm=t"
    assert shop.asked[3] == ("/really?id=a%26b&confirm=t", "bytes=295904-")


@pytest.mark.parametrize(
    ("status", "page", "message"),
    [
        (200, QUOTA, "quota of this file is used up"),
        (403, QUOTA, "quota of this file is used up"),
        (200, "<html><title>Sign in &amp; go</title></html>", "web page.*'Sign in & go'"),
        (200, WARNING.format(action="http://evil.example/x"), "leads to 'http://evil.example"),
        (200, WARNING.format(action="file:///etc/passwd?"), "leads to 'file:"),
        (200, WARNING.format(action=""), "web page in place of the file"),
        (404, "<html>gone</html>", "404"),
    ],
)
def test_a_page_in_place_of_the_file(
    shop: Shop, tmp_path: Path, status: int, page: str, message: str
) -> None:
    shop.pages[PRODUCTS] = (status, page)
    with pytest.raises(PrerequisiteError, match=message):
        get(shop, tmp_path)
    assert not (tmp_path / PRODUCTS).exists()
    assert not (tmp_path / f"{PRODUCTS}.part").exists()


def test_a_page_that_leads_to_itself(shop: Shop, tmp_path: Path) -> None:
    page = WARNING.format(action=f"/{HUMAN}")
    shop.pages = {HUMAN: (200, page), f"{HUMAN}?id=a%26b&confirm=t": (200, page)}
    with pytest.raises(PrerequisiteError, match="one web page after the other"):
        get(shop, tmp_path, "human")


def test_json_of_another_kind_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.files[PRODUCTS] = b'{"error": "no"}'
    with pytest.raises(PrerequisiteError, match=r"starts with b'\{\"error"):
        get(shop, tmp_path)


def test_a_cut_that_nothing_announced_is_seen(shop: Shop, tmp_path: Path) -> None:
    shop.lengths, shop.drops = False, [100_000]
    with pytest.raises(DataError, match=r"ends with .*cut off"):
        get(shop, tmp_path)
    assert not (tmp_path / PRODUCTS).exists()


def test_damage_after_the_download_is_seen(shop: Shop, tmp_path: Path) -> None:
    path = get(shop, tmp_path)[PRODUCTS]
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){PRODUCTS}.*SHA-256.*damaged or has changed"):
        get(shop, tmp_path)


def test_a_sum_of_ones_own(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 00ff"):
        get(shop, tmp_path, expected={PRODUCTS: "00FF"})
    assert not (tmp_path / PRODUCTS).exists()
    sent = shop.sent
    right = hashlib.sha256(shop.files[PRODUCTS]).hexdigest().upper()
    path = get(shop, tmp_path, expected={PRODUCTS: right})[PRODUCTS]
    assert path.read_bytes() == shop.files[PRODUCTS]
    assert shop.sent - sent < 10_000  # it was there already
    with pytest.raises(DataError, match=r"items_shuffle\.json"):
        get(shop, tmp_path, expected={"items_shuffle.json": right})


def test_files_put_there_by_hand(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / HUMAN).write_bytes(b'{"B1": [')
    with pytest.raises(DataError, match="cut off"):
        get(shop, tmp_path, "human")
    (tmp_path / HUMAN).write_bytes(b'{"B1": []}')
    get(shop, tmp_path, "human")
    assert shop.asked == []
    assert "found in the folder" in (tmp_path / "checksums.json").read_text()
    (tmp_path / "checksums.json").write_text("[")
    with pytest.raises(DataError, match="delete it to record new sums"):
        get(shop, tmp_path, "human")


def test_offline_says_what_to_do_by_hand(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PrerequisiteError) as caught:
        download(
            tmp_path, ("small", "human"), f"http://127.0.0.1:{port}",
            patience=Patience(retries=2, wait=0.01), progress=False,
        )  # fmt: skip
    message = str(caught.value)
    assert "no connection" in message
    assert str(tmp_path) in message
    for name in (PRODUCTS, ATTRIBUTES, HUMAN):
        assert re.search(rf"{name}  https://drive\.google\.com/uc\?\S*id=\w+", message)


def test_a_full_disk_keeps_what_has_arrived(shop: Shop, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written .*Make room"):
            get(shop, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / f"{PRODUCTS}.part").stat().st_size == 300_000
    assert get(shop, tmp_path)[PRODUCTS].read_bytes() == shop.files[PRODUCTS]
    assert (f"/{PRODUCTS}", "bytes=295904-") in shop.asked


def test_a_file_larger_than_the_disk_is_not_begun(shop: Shop, tmp_path: Path) -> None:
    shop.answers = [(200, {"Content-Length": str(10**16)}, b"[1, 2, 3" * 200)]
    with pytest.raises(DataError, match="too full: 10,000,000,000,000,000 bytes"):
        get(shop, tmp_path)


def test_one_download_at_a_time(shop: Shop, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".download.lock"),
        pytest.raises(DataError, match="another process is downloading"),
    ):
        get(shop, tmp_path)


def test_what_cannot_be_asked_for(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="large"):
        get(shop, tmp_path, "large")
    with pytest.raises(DataError, match="only http and https"):
        download(tmp_path, ("human",), "file:///etc")


def test_the_command(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ["--from", shop.url, "--quiet"]
    assert main([str(tmp_path), *good]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        str(tmp_path / name) for name in (PRODUCTS, ATTRIBUTES, HUMAN)
    ]
    assert main([str(tmp_path), *good, "--sha256", f"{HUMAN}=12"]) == 2
    assert "expected 12" in capsys.readouterr().err
    assert main([str(tmp_path), *good, "--sha256", "12"]) == 2
    assert main([str(tmp_path), *good, "--set", "full"]) == 2
    assert "items_shuffle.json" in capsys.readouterr().err
