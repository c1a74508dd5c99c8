"""The shop as a server: whom it lets in, and what it makes of bad requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from visitor import Client, recorded, steps_used

from eeflib.envs.webshop import EmbeddedShop, embedded_shop
from eeflib.shop import Shop, serve


@pytest.fixture(scope="module")
def embedded() -> EmbeddedShop:
    return embedded_shop(7, {"test": 12})


@pytest.fixture
def shop(embedded: EmbeddedShop, tmp_path: Path) -> Iterator[Shop]:
    with serve(embedded.tasks, embedded.make_env, out=tmp_path / "run", seeds=[7]) as opened:
        yield opened


# -- who is let in ---------------------------------------------------------------------------------


def test_it_listens_on_loopback_only(shop):
    assert urlsplit(shop.url).hostname == "127.0.0.1"
    assert Client(shop.url).get().status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_foreign_name_that_points_here_is_refused(shop, host):
    page = Client(shop.url).ask("GET", "/", Host=host)
    assert page.status == 421
    assert "Start shopping" not in page.body


def test_localhost_is_a_name_for_it(shop):
    assert Client(shop.url).ask("GET", "/", Host="localhost:9").status == 200


def test_forms_of_other_sites_are_refused(shop):
    client = Client(shop.url)
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
    one, two = Client(shop.url), Client(shop.url)
    one.start()
    two.start()
    stolen = urlencode({**two.form(), "query": "tea"})
    assert one.ask("POST", "/search", stolen).status == 403
    assert one.cookie != two.cookie


def test_pages_may_run_and_load_nothing(shop):
    client = Client(shop.url)
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
    client = Client(shop.url)
    for path in ("/nowhere", "/../etc/passwd", "/step", "//evil.example/"):
        assert client.ask("GET", path).status == 404
    assert client.ask("POST", "/nowhere", "").status == 404
    assert client.ask("DELETE", "/").status == 501
    assert client.ask("HEAD", "/").body == ""


def test_a_search_of_a_megabyte_is_refused_in_words(shop):
    client = Client(shop.url)
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
    client = Client(shop.url)
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
    client = Client(shop.url)
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
    client = Client(shop.url)
    client.start()
    client.cookie = "=".join([client.cookie.split("=")[0], "gone"])
    page = client.post("/search", query="tea")
    assert "Your visit is over" in page.body
    assert "Start shopping" in page.body


def test_visits_are_bounded_and_end_when_idle(embedded, tmp_path):
    limits = {"most_visits": 2, "idle_seconds": 0.3}
    with serve(embedded.tasks, embedded.make_env, out=tmp_path / "run", **limits) as shop:
        one, two, three = Client(shop.url), Client(shop.url), Client(shop.url)
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
        client = Client(shop.url)
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
