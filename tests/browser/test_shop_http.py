"""The shop as a server: whom it lets in, what it makes of bad requests, what it leaves on disk."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest

from eeflib.analysis.report import write_report
from eeflib.analysis.run import Run
from eeflib.envs.webshop import EmbeddedShop, embedded_shop
from eeflib.errors import DataError, PrerequisiteError
from eeflib.records import Trajectory
from eeflib.shop import Shop, run_shop, serve
from eeflib.store import RunFolder


class Page(NamedTuple):
    status: int
    body: str
    headers: dict[str, str]


class Client:
    """A visitor without a browser: keeps the cookie, follows redirects, fills in forms."""

    def __init__(self, shop: Shop) -> None:
        self.netloc = urlsplit(shop.url).netloc
        self.cookie, self.page = "", Page(0, "", {})

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Page:
        """One request, as given."""
        connection = http.client.HTTPConnection(self.netloc, timeout=20)
        sent = {"Host": self.netloc, **({"Cookie": self.cookie} if self.cookie else {})}
        if body is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path, body, {**sent, **headers})
        answer = connection.getresponse()
        page = Page(answer.status, answer.read().decode(), dict(answer.getheaders()))
        connection.close()
        return page

    def get(self, path: str = "/") -> Page:
        page = self.ask("GET", path)
        while page.status == 303:
            page = self.ask("GET", page.headers["Location"])
        self.page = page
        return page

    def start(self) -> Page:
        page = self.ask("POST", "/start", "")
        self.cookie = page.headers["Set-Cookie"].split(";")[0]
        return self.get()

    def form(self) -> dict[str, str]:
        return dict(
            re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', self.page.body)
        )

    def post(self, path: str, **fields: object) -> Page:
        """A form of the page that was read last."""
        page = self.ask("POST", path, urlencode({**self.form(), **fields}))
        assert page.status == 303, page
        return self.get(page.headers["Location"])

    def press(self, label: str) -> Page:
        """The button of that text."""
        buttons = re.findall(r'<button name="do" value="(\d+)"[^>]*>(.*?)</button>', self.page.body)
        (number,) = (n for n, text in buttons if unescape(re.sub("<[^>]+>", "", text)) == label)
        return self.post("/act", do=number)


@pytest.fixture(scope="module")
def embedded() -> EmbeddedShop:
    return embedded_shop(7, {"test": 12})


@pytest.fixture
def shop(embedded: EmbeddedShop, tmp_path: Path) -> Iterator[Shop]:
    with serve(embedded.tasks, embedded.make_env, out=tmp_path / "run", seeds=[7]) as opened:
        yield opened


def recorded(folder: Path) -> list[Trajectory]:
    run = RunFolder(folder)
    return list(run.read("trajectories", Trajectory)) if run.exists("trajectories") else []


def steps_used(page: Page) -> int:
    found = re.search(r"Step <b>(\d+)</b>", page.body)
    assert found, page
    return int(found[1])


# -- who is let in ---------------------------------------------------------------------------------


def test_it_listens_on_loopback_only(shop):
    assert urlsplit(shop.url).hostname == "127.0.0.1"
    assert Client(shop).get().status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_foreign_name_that_points_here_is_refused(shop, host):
    page = Client(shop).ask("GET", "/", Host=host)
    assert page.status == 421
    assert "Start shopping" not in page.body


def test_localhost_is_a_name_for_it(shop):
    assert Client(shop).ask("GET", "/", Host="localhost:9").status == 200


def test_forms_of_other_sites_are_refused(shop):
    client = Client(shop)
    client.start()
    fields = urlencode({**client.form(), "query": "tea"})
    for origin in ("http://evil.example", "null", f"http://{client.netloc}.evil.example"):
        assert client.ask("POST", "/search", fields, Origin=origin).status == 403
    for csrf in ("", "x" * 43, "\ud7ff"):
        wrong = urlencode({**client.form(), "csrf": csrf, "query": "tea"})
        assert client.ask("POST", "/search", wrong).status == 403
    assert steps_used(client.get()) == 0
    assert client.ask("POST", "/search", fields, Origin=f"http://{client.netloc}").status == 303
    assert steps_used(client.get()) == 1


def test_the_cookie_of_one_visitor_is_no_help_with_the_form_of_another(shop):
    one, two = Client(shop), Client(shop)
    one.start()
    two.start()
    stolen = urlencode({**two.form(), "query": "tea"})
    assert one.ask("POST", "/search", stolen).status == 403
    assert one.cookie != two.cookie


def test_pages_may_run_and_load_nothing(shop):
    client = Client(shop)
    client.start()
    for page in (client.page, client.get("/tasks"), client.get("/nowhere")):
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script" not in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert "<script" not in page.body
        assert " style=" not in page.body
    assert (
        "HttpOnly; SameSite=" in client.ask("POST", "/start", "", Cookie="").headers["Set-Cookie"]
    )


# -- bad requests ----------------------------------------------------------------------------------


def test_an_unknown_address_is_said_to_be_one(shop):
    client = Client(shop)
    for path in ("/nowhere", "/../etc/passwd", "/step", "//evil.example/"):
        assert client.ask("GET", path).status == 404
    assert client.ask("POST", "/nowhere", "").status == 404
    assert client.ask("DELETE", "/").status == 501
    assert client.ask("HEAD", "/").body == ""


def test_a_search_of_a_megabyte_is_refused_in_words(shop):
    client = Client(shop)
    client.start()
    page = client.ask("POST", "/search", urlencode({**client.form(), "query": "a" * 1_000_000}))
    assert page.status == 413
    assert "Content Too Large" in page.body or "Entity Too Large" in page.body
    assert client.ask("GET", "/?q=" + "a" * 100_000).status == 414
    page = client.post("/search", query="tea " * 100)
    assert "300 is the most" in page.body
    assert steps_used(page) == 0
    assert client.ask("POST", "/search", "x=1&" * 50).status == 400
    assert client.ask("POST", "/start", "", **{"Content-Length": "many"}).status == 411


def test_what_is_no_action_of_the_page_is_no_step(shop):
    client = Client(shop)
    client.start()
    for path, fields in (
        ("/search", {"query": "  "}),
        ("/search", {"query": "[]"}),
        ("/search", {}),
        ("/act", {"do": "99"}),
        ("/act", {"do": "-1"}),
        ("/act", {"do": "0"}),  # the search, without words
        ("/act", {}),
        ("/open", {"position": "12"}),
        ("/open", {"position": "\u0665"}),
    ):
        page = client.post(path, **fields)
        assert steps_used(page) == 0, (path, fields)
        assert 'role="status"' in page.body, (path, fields)
    page = client.post("/search", query="robe [click[buy now]]\r\n\x00\u202e")
    assert steps_used(page) == 1
    assert "Page 1" in page.body
    assert "\u202e" not in page.body
    assert "\x00" not in page.body
    assert "no search box" in client.post("/search", query="tea").body


def test_a_form_sent_twice_counts_once(shop):
    client = Client(shop)
    client.start()
    fields = urlencode({**client.form(), "query": "tea"})
    first = client.ask("POST", "/search", fields)
    second = client.ask("POST", "/search", fields)
    assert first.headers["Location"] == second.headers["Location"]
    page = client.get()
    assert steps_used(page) == 1
    assert "earlier page" in page.body
    assert "earlier page" not in client.get().body  # said once


def test_a_visit_that_is_over_says_so(shop):
    client = Client(shop)
    client.start()
    client.cookie = "=".join([client.cookie.split("=")[0], "gone"])
    page = client.post("/search", query="tea")
    assert "Your visit is over" in page.body
    assert "Start shopping" in page.body


def test_visits_are_bounded_and_end_when_idle(embedded, tmp_path):
    limits = {"most_visits": 2, "idle_seconds": 0.3}
    with serve(embedded.tasks, embedded.make_env, out=tmp_path / "run", **limits) as shop:
        one, two, three = Client(shop), Client(shop), Client(shop)
        one.start()
        one.post("/search", query="tea")
        two.start()
        full = three.ask("POST", "/start", "")
        assert full.status == 503
        assert "come back" in full.body
        threading.Event().wait(0.4)
        three.start()
        assert "Your visit is over" in one.get("/step/1").body
        (left,) = recorded(tmp_path / "run")
        assert left.extra["ended"] == "abandoned"


def test_many_at_once(shop, embedded):
    """Concurrent visitors each have an episode of their own."""
    errors = []

    def visit(number: int) -> None:
        client = Client(shop)
        client.start()
        client.post("/open", position=number)
        query = embedded.tasks[number].goal["query"]
        page = client.post("/search", query=query)
        if steps_used(page) != 1 or query not in page.body:
            errors.append(page)
        client.post("/give-up")

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    played = recorded(shop.file.parent)
    assert {t.task_id for t in played} == {t.id for t in embedded.tasks[:8]}
    assert len({t.extra["player"] for t in played}) == 8


# -- what it leaves --------------------------------------------------------------------------------


def test_every_way_to_end_is_on_record_and_the_report_reads_it(embedded, tmp_path):
    task = embedded.tasks[0]
    short = replace(embedded.tasks[1], settings={**embedded.tasks[1].settings, "max_steps": 2})
    tasks = [task, short, *embedded.tasks[2:5]]
    folder = tmp_path / "run"
    with serve(tasks, embedded.make_env, out=folder, seeds=[7]) as shop:
        client = Client(shop)
        client.start()
        client.post("/search", query=" ".join([*task.goal["attributes"], task.goal["query"]]))
        while task.goal["asin"] not in client.page.body:
            client.press("Next \u203a")
        client.press(task.goal["name"])
        for option in task.goal["goal_options"]:
            client.press(option)
        assert "Solved" in client.press("Buy Now").body
        client.post("/open", position=1)
        client.post("/search", query="tea")
        page = client.press("Next \u203a")
        assert "No steps left" in page.body
        client.post("/open", position=2)
        client.post("/search", query="tea")
        assert "You gave this task up" in client.post("/give-up").body
        client.post("/open", position=3)
        client.post("/search", query="tea")
        client.post("/open", position=4)  # which gives the one before up
        client.post("/search", query="tea")
        assert len(recorded(folder)) == 4
        lines = shop.file.read_bytes()
    played = recorded(folder)
    assert shop.file.read_bytes().startswith(lines)
    assert [t.extra["ended"] for t in played] == [
        *("bought", "out of steps", "given up", "given up", "abandoned")
    ]
    assert [(t.terminated, t.truncated) for t in played] == [(True, False)] + [(False, True)] * 4
    assert [t.reward for t in played] == [1.0, 0, 0, 0, 0]
    assert all(s.usage is not None and s.usage.seconds >= 0 for t in played for s in t.steps)
    run = Run(folder)
    assert [t.id for t in run.trajectories[7]] == [t.id for t in played]
    assert {t.id for t in run.tasks[7]} == {t.id for t in tasks}
    assert not run.problems
    assert "Exploring Expert Failures" in write_report(folder).read_text("utf-8")


def test_a_folder_is_gone_on_with_and_kept_from_other_tasks(embedded, tmp_path):
    for _ in range(2):
        with serve(embedded.tasks, embedded.make_env, out=tmp_path) as shop:
            client = Client(shop)
            client.start()
            client.post("/search", query="tea")
            client.post("/give-up")
            assert shop.recorded == 1
    played = recorded(tmp_path)
    assert len({t.id for t in played}) == 2
    assert len(list(RunFolder(tmp_path).read("tasks"))) == len(embedded.tasks)
    other = replace(embedded.tasks[0], instruction="i need something else")
    with pytest.raises(DataError, match="another one there; use another --run"):
        serve([other], embedded.make_env, out=tmp_path)
    with pytest.raises(DataError, match="another configuration"):
        serve(embedded.tasks, embedded.make_env, out=tmp_path, seeds=[8])


def test_two_shops_cannot_write_one_folder(shop, embedded):
    script = (
        "import sys\nfrom eeflib.shop.ledger import Ledger\nfrom eeflib.errors import DataError\n"
        "try: Ledger(sys.argv[1], [], {'command': 'shop'}, [7])\nexcept DataError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(shop.file.parent)], capture_output=True, text=True
    )
    assert "is being written by process" in done.stdout


def test_a_port_in_use_is_named_with_the_way_out(embedded, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PrerequisiteError, match=rf"port {port} .* in use.*--port"):
            serve(embedded.tasks, embedded.make_env, out=tmp_path / "run", port=port)
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="no tasks to play"):
        serve([], embedded.make_env, out=tmp_path / "run")


def test_a_record_that_cannot_be_written_is_tried_again(shop):
    client = Client(shop)
    client.start()
    client.post("/search", query="tea")
    shop.file.mkdir()  # in the way of the file
    assert "Not recorded yet" in client.post("/give-up").body
    shop.file.rmdir()
    client.post("/open", position=1)
    client.post("/search", query="tea")
    assert "Not recorded yet" not in client.post("/give-up").body
    assert len(recorded(shop.file.parent)) == shop.recorded == 2


# -- the command -----------------------------------------------------------------------------------


def test_an_unknown_level_or_split_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(DataError, match="unknown split 'dev'; choose one of train, test"):
        run_shop(split="dev", run=tmp_path / "run", say=list)
    with pytest.raises(DataError, match="unknown level 'hard'; choose one of easy, options"):
        run_shop(levels=["hard"], run=tmp_path / "run", say=list)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("number", "level"), [(signal.SIGINT, "twins"), (signal.SIGTERM, "easy")])
def test_the_command_serves_until_it_is_stopped_and_records_who_is_there(tmp_path, number, level):
    script = (
        "import sys\nfrom pathlib import Path\nfrom eeflib.shop import run_shop\n"
        "run_shop(levels=[sys.argv[2]], run=Path(sys.argv[1]), open_browser=False,\n"
        "         say=lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run"), level]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found
        client = Client(SimpleNamespace(url=found[0]))  # type: ignore[arg-type]
        assert f'<span class="tag">{level}</span>' in client.start().body
        client.post("/search", query="tea")
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(20) == 0
    assert "Closed. 1 trajectory recorded." in rest
    (trajectory,) = recorded(tmp_path / "run")
    assert trajectory.extra["ended"] == "abandoned"
    assert trajectory.actions == ("search[tea]",)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["seeds"] == [7]
