"""Requests that the server does not answer: foreign names and pages, addresses to fetch, files that are too large."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from erase.ui.doorkeeper import MOST_UPLOAD, SPARE, OwnPagesOnly


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    inner = Starlette(routes=[Route("/{rest:path}", lambda request: PlainTextResponse("in"), methods=["GET", "POST"])])
    return TestClient(OwnPagesOnly(inner, uploads=tmp_path), base_url="http://127.0.0.1:7860")


def test_other_names_and_pages_are_refused(client: TestClient) -> None:
    assert client.get("/").text == "in"
    assert client.get("/", headers={"host": "evil.test:7860"}).status_code == 403
    assert client.post("/x", headers={"origin": "http://evil.test"}).status_code == 403
    assert client.post("/x", headers={"origin": "http://127.0.0.1:7860"}).text == "in"


@pytest.mark.parametrize(
    "path", ["/gradio_api/file=http://evil.test/a.png", "/gradio_api/file=HTTPS%3A//e.test/a", "/proxy=x"]
)
def test_nothing_is_fetched_for_a_visitor(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 403
    assert client.get("/gradio_api/file=/tmp/a.png").text == "in"


def test_files_too_large_for_us_or_the_disk_are_not_received(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(length: str) -> int:
        return client.post("/gradio_api/upload", headers={"content-length": length}).status_code

    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=SPARE + 1000))
    assert client.post("/gradio_api/upload", content=b"x" * 1000).text == "in"
    assert send(str(1001)) == 507
    assert send(str(MOST_UPLOAD + 1)) == 413
    assert send("many") == 411
    assert (
        client.post("/gradio_api/upload", content=iter([b"x"])).status_code == 411
    )  # sent in chunks, of no known length
