"""A browser, a studio and a page of it for each test, and what went wrong in that page."""

from __future__ import annotations

import pytest

from tests.studio_server import CHROMIUM, Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studio") / "runs"


@pytest.fixture(scope="module")
def server(folder):
    server = Server(folder)
    yield server
    if server.process.poll() is None:
        server.end()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """A page, and what went wrong in it."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(60_000)
    page.errors, page.foreign = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: None if is_local(request.url) else page.foreign.append(request.url))
    page.goto(server.address)
    page.wait_for_selector("#start-run")
    yield page
    assert page.errors == [] and page.foreign == []
    page.close()


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))
