"""The web UI's seven endpoints as a program sees them, what a server refuses, and many clients at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from erase.errors import InputError
from erase.ui import app, endpoints
from tests.ui_stand_ins import stand_in, wait_for

CLIENTS = 50


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with stand_in(tmp_path_factory.mktemp("api")) as made:
        blocks = app.build(made.site)
        address = app.launch(blocks, 0).rstrip("/")
        made.blocks, made.address, made.client = blocks, address, Client(address, verbose=False)
        yield made
        made.client.close()
        blocks.close(verbose=False)


@pytest.fixture(scope="module")
def run(server: SimpleNamespace) -> str:
    name = server.client.predict({"concept": "cat", "rounds": 7}, api_name="/erase")
    wait_for(server.actions, name, "done")
    return name


def test_seven_endpoints_are_named_and_all_others_private(server: SimpleNamespace):
    named = server.client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {f"/{name}" for name in endpoints.NAMES}
    public = [fn.api_name for fn in server.blocks.fns.values() if fn.api_visibility != "private"]
    assert sorted(public) == sorted(endpoints.NAMES)


def test_pages_of_other_sites_and_other_names_are_refused(server: SimpleNamespace):
    """DNS rebinding asks under a foreign name; a page of another site says where it is from."""
    port = server.address.rsplit(":", 1)[1]
    call = f"{server.address}/gradio_api/call/runs"

    def ask(**headers: str) -> int:
        return httpx.post(call, json={"data": []}, headers=headers).status_code

    assert ask() == ask(Host=f"localhost:{port}") == ask(Origin=server.address) == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://[", f"http://127.0.0.1.evil:{port}"):
        assert ask(Origin=origin) == 403, origin
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[", f"127.0.0.1@evil:{port}"):
        assert ask(Host=host) == 403, host
        assert httpx.get(server.address, headers={"Host": host}).status_code == 403, host


def test_a_run_is_queued_watched_listed_and_judged(server: SimpleNamespace, run: str):
    status = server.client.predict(run, api_name="/status")
    assert (status["state"], status["losses"]) == ("done", {"forget": [[0, 1.5]]})
    (listed,) = [one for one in server.client.predict(api_name="/runs") if one["name"] == run]
    assert (listed["concept"], listed["method"], listed["finished"]) == ("cat", "esd", True)
    assert server.client.predict(run, api_name="/evaluate")["name"] == run
    wait_for(server.actions, run, "done")


def test_a_run_is_stopped(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    with server.jobs.turn():  # the device is taken, so it waits
        name = server.client.predict({"concept": "owl"}, api_name="/erase")
        assert server.client.predict(name, api_name="/status")["state"] == "queued"
        server.client.predict(name, api_name="/stop")
        assert wait_for(server.actions, name, "stopped")["state"] == "stopped"


def test_pictures_and_exports_are_files(server: SimpleNamespace, run: str):
    picture = server.client.predict(f"run:{run}", "a cat", 3, api_name="/generate")
    assert Image.open(picture).convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    one = server.client.predict(run, "delta", api_name="/export")
    assert one.endswith(".safetensors") and Path(one).read_bytes() == b"an export"
    assert server.client.predict(run, "diffusers", api_name="/export").endswith(".zip")


@pytest.mark.parametrize(
    "call, words",
    [
        ((("../etc",), "/status"), "run '../etc'"),
        ((({"concept": "cat", "rounds": "many"},), "/erase"), "train.rounds"),
        ((({"concept": "cat", "output": "/tmp/x"},), "/erase"), "no field 'output'"),
        ((("/etc/passwd", "a cat"), "/generate"), "/etc/passwd"),
    ],
)
def test_an_error_is_the_line_of_the_command(server: SimpleNamespace, call: Any, words: str):
    values, name = call
    with pytest.raises(AppError) as caught:
        server.client.predict(*values, api_name=name)
    assert words in str(caught.value) and "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_no_file_is_served_but_what_was_shown(server: SimpleNamespace, run: str):
    shown = server.site.show(server.roots.pictures / "0.png")
    file = f"{server.address}/gradio_api/file="
    assert httpx.get(file + shown).status_code == 200
    config = server.roots.runs / run / "config.yaml"
    for path in (config, "/etc/passwd", f"{shown}/../../../../../{run}/config.yaml", server.roots.pictures / "0.png"):
        assert httpx.get(f"{file}{path}").status_code in (403, 404), path
    for path in ("/monitoring", "/gradio_api/runs"):
        assert httpx.get(server.address + path).status_code in (403, 404), path


def test_pages_of_others_cannot_call_it(server: SimpleNamespace):
    answer = httpx.get(f"{server.address}/config", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert server.address.startswith("http://127.0.0.1:") and server.blocks.share is False


def test_a_taken_port_is_an_error_in_one_line(server: SimpleNamespace):
    with pytest.raises(InputError, match="port .* cannot be used: .*; name another with --port"):
        app.launch(server.blocks, int(server.address.rsplit(":", 1)[1]))


def test_a_login_is_asked_for(tmp_path: Path):
    with stand_in(tmp_path) as made:
        blocks = app.build(made.site)
        address = app.launch(blocks, 0, {"ann": "secret"}).rstrip("/")
        try:
            assert httpx.get(f"{address}/config").status_code == 401
            wrong = httpx.post(f"{address}/login", data={"username": "ann", "password": "guess"})
            assert wrong.status_code == 400
            assert Client(address, auth=("ann", "secret"), verbose=False).predict(api_name="/runs") == []
        finally:
            blocks.close(verbose=False)


def call(client: httpx.Client, name: str, *values: Any) -> Any:
    """One call of an endpoint as any program makes it. Fails on anything but a result."""
    event = client.post(f"/gradio_api/call/{name}", json={"data": list(values)}).raise_for_status().json()["event_id"]
    lines = client.get(f"/gradio_api/call/{name}/{event}").raise_for_status().text.splitlines()
    assert "event: complete" in lines, lines[-4:]
    return json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))[0]


def memory() -> int:
    """MiB that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 // 2**20


def test_fifty_clients_at_once_lose_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
):
    seconds = 120.0 if request.config.getoption("--soak") else 8.0
    with stand_in(tmp_path, seconds=0.01) as made:
        blocks = app.build(made.site)
        address = app.launch(blocks, 0)
        begin, calls, done = time.monotonic(), [0] * CLIENTS, [0] * CLIENTS
        held: list[int] = []
        over = threading.Event()

        def visit(number: int) -> None:
            with httpx.Client(base_url=address, timeout=120) as client:
                while not over.is_set():
                    name = call(client, "erase", {"concept": "cat", "seed": number, "rounds": 3})
                    calls[number] += 1
                    if number % 5 == 0:
                        call(client, "stop", name)
                        calls[number] += 1
                    while call(client, "status", name)["state"] in ("queued", "running", "stopping"):
                        calls[number] += 1
                        time.sleep(0.2)
                    assert name in [run["name"] for run in call(client, "runs")]
                    calls[number] += 2
                    done[number] += 1
                    made.actions.delete(name)

        with ThreadPoolExecutor(CLIENTS) as pool:
            visits = [pool.submit(visit, number) for number in range(CLIENTS)]
            while time.monotonic() - begin < seconds and not any(v.done() for v in visits):
                time.sleep(seconds / 8)
                held.append(memory())
            over.set()
            for one in visits:
                one.result()
        left = made.actions.runs()
        blocks.close(verbose=False)
    with capsys.disabled():
        print(f"\n{CLIENTS} clients, {seconds:.0f} s: {sum(calls)} calls, {sum(done)} runs, MiB {held}")
    assert min(done) >= 1 and left == []
    assert held[-1] - held[len(held) // 2] < 40
