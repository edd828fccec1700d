"""Models by hub id, against a cache laid out as the hub's library does, and against a small server on this machine.

Run: pytest tests/integration/test_hub.py
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from erase import runs, workflow
from erase.cli import main
from erase.config import load_config
from erase.errors import InputError, Interrupted
from erase.events import Progress, Started
from erase.models import hub, load_model, model_hash
from erase.models.hub import HubId, hub_id
from tests.integration.conftest import build_tiny
from tests.integration.test_workflow import SHORT

REPO, FIRST, SECOND = "org/tiny", "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository: a pipeline with weights of two precisions, as pickles too, and what nobody needs."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    build_tiny().pipeline().save_pretrained(folder)
    for file in sorted(folder.glob("*/*.safetensors")):
        half = {name: value.half() for name, value in load_file(file).items()}
        save_file(half, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        file.with_suffix(".bin").write_bytes(b"pickle")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"unused")
    (folder / "tiny.ckpt").write_bytes(b"pickle")
    (folder / "README.md").write_text("# tiny\n")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lay_out(cache: Path, made: Path, commit: str = FIRST) -> Path:
    """Put the repository into the cache as the hub's library does; return the snapshot."""
    place = cache / "models--org--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    for file in (file for file in made.rglob("*") if file.is_file()):
        blob = place / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.parent.mkdir(exist_ok=True)
        shutil.copy(file, blob)
        link = place / "snapshots" / commit / file.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return place / "snapshots" / commit


class Server(ThreadingHTTPServer):
    """The few addresses of the hub that are used, for one repository. `status` makes it refuse, `cut` hang up."""

    folder: Path
    commits: dict[str, str]
    status: tuple[int, str] | None = None
    gated = False
    cut: str | None = None
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder, self.commits = folder, {"main": FIRST, "old": SECOND, FIRST: FIRST, SECOND: SECOND}
        self.asked: list[str] = []
        self.given: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        here = self.server
        path = self.path.split("?")[0].strip("/")
        here.asked.append(path)
        if here.status is not None:
            return self.refuse(*here.status)
        api, file = path.split("/"), ""
        if path.startswith(f"api/models/{REPO}"):
            revision = api[5] if len(api) > 5 else "main"
        elif path.startswith(f"{REPO}/resolve/"):
            revision, file = api[3], "/".join(api[4:])
        else:
            return self.refuse(404, "RepoNotFound")
        commit = here.commits.get(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        if not file:
            return self.give(self.about(commit), {"Content-Type": "application/json"}, body)
        if here.gated:
            return self.refuse(403, "GatedRepo")
        if not (here.folder / file).is_file():
            return self.refuse(404, "EntryNotFound")
        held = (here.folder / file).read_bytes()
        etag = hashlib.sha256(held + commit.encode()).hexdigest()
        self.give(held, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, body, cut=file == here.cut)
        if body:
            here.given.add(file)

    def about(self, commit: str) -> bytes:
        files = [file for file in self.server.folder.rglob("*") if file.is_file()]
        names = {file.relative_to(self.server.folder).as_posix(): file.stat().st_size for file in files}
        siblings = [{"rfilename": name, "size": size} for name, size in names.items()]
        return json.dumps({"id": REPO, "sha": commit, "siblings": siblings}).encode()

    def give(self, held: bytes, headers: dict[str, str], body: bool, cut: bool = False) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(held))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(held[: len(held) // 2] if cut else held)


@pytest.fixture
def server(made: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub on this machine, a copy of the repository in it, and an empty cache."""
    shutil.copytree(made, tmp_path / "served")
    running = Server(tmp_path / "served")
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    reach(running.address, monkeypatch)
    yield running
    running.shutdown()
    running.server_close()


def reach(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's library speak to this address, and not wait before it tries again."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)


def refused(source: str, says: str, variant: str | None = None) -> str:
    with pytest.raises(InputError, match=says) as caught:
        load_model(source, variant=variant)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("org/name", HubId("org/name")),
        ("org/na.me-1@v1.5", HubId("org/na.me-1", "v1.5")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        *[
            (text, None)
            for text in ("world", "a/b/c", "/a/b", "./a", "a/b@", "a/b@../c", "a/b@c d", "ü/b", "~/b", "a/.b")
        ],
    ],
)
def test_what_an_id_is(source: str, found: HubId | None) -> None:
    assert hub_id(source) == found
    assert found is None or str(found) == source


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org").mkdir()
    build_tiny().pipeline().save_pretrained("org/tiny")
    assert hub_id("org/tiny") is None
    assert load_model("org/tiny").source == "org/tiny"


def test_the_cache_alone_is_used_offline(cache: Path, made: Path) -> None:
    lay_out(cache, made)
    for source in (REPO, f"{REPO}@main", f"{REPO}@{FIRST}"):
        model = load_model(source)
        assert (model.source, model.variant) == (f"{REPO}@{FIRST}", None)
        assert model_hash(model) == model_hash(build_tiny())


def test_what_the_cache_lacks_offline_is_said(cache: Path, made: Path) -> None:
    refused("org/other", "no such folder or file, not in the hub's cache, and offline: fetch it once without --offline")
    place = lay_out(cache, made)
    refused(f"{REPO}@{SECOND}", "not in the hub's cache")
    for gone in (place / "unet").glob("*.safetensors"):
        gone.unlink()
    refused(REPO, "only a part of it .org/tiny/unet/diffusion_pytorch_model.safetensors is missing.*, and offline")
    shutil.rmtree(place / "tokenizer")
    refused(REPO, "only a part of it .it lacks tokenizer., and offline")


def test_only_what_is_needed_is_fetched_and_only_once(server: Server, cache: Path) -> None:
    model = load_model(REPO)
    assert model_hash(model) == model_hash(build_tiny())
    assert model.source == f"{REPO}@{FIRST}"
    weights = {name for name in server.given if not name.endswith((".json", ".txt"))}
    assert weights == {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert not any(name.startswith(("safety_checker", "README", "tiny")) for name in server.given)
    server.given.clear()
    server.asked.clear()
    load_model(REPO)
    assert server.asked and not server.given  # asked which commit it is, and nothing more
    server.asked.clear()
    load_model(model.source)  # the exact commit is all there: the hub is not even asked
    assert server.asked == []


def test_a_transformer_is_fetched_and_a_t5_that_is_not_named_is_not(server: Server) -> None:
    shutil.rmtree(server.folder)
    tiny = build_tiny("sd3")
    tiny.pipeline().save_pretrained(server.folder)
    index = server.folder / "model_index.json"
    gone = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    index.write_text(json.dumps({**json.loads(index.read_text()), **gone}))
    tiny.text_encoder_3 = tiny.tokenizer_3 = None
    assert model_hash(load_model(REPO)) == model_hash(tiny)
    assert "transformer/diffusion_pytorch_model.safetensors" in server.given
    assert not any("_3/" in name for name in server.given)


def test_one_variant_is_fetched_and_becomes_float32(server: Server) -> None:
    model = load_model(REPO, variant="fp16")
    weights = {name for name in server.given if name.endswith(".safetensors")}
    assert len(weights) == 3 and all(name.endswith(".fp16.safetensors") for name in weights)
    assert model.variant == "fp16" and {p.dtype for p in model.unet.parameters()} == {torch.float32}
    refused(REPO, "org/tiny/text_encoder has no variant 'bf16': it has the plain weights and fp16;", "bf16")
    assert model_hash(load_model(REPO)) == model_hash(build_tiny())


def test_branches_and_commits_are_kept_apart(server: Server) -> None:
    old = load_model(f"{REPO}@old")
    assert old.source == f"{REPO}@{SECOND}"
    server.commits["main"] = SECOND
    assert load_model(REPO).source == f"{REPO}@{SECOND}"
    refused(f"{REPO}@none", "org/tiny has no branch, tag or commit 'none'")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ((401, "RepoNotFound"), "not on the hub, or private there: check the name, or log in with `hf auth login`"),
        ((404, "RepoNotFound"), "not on the hub, or private"),
        ((403, "GatedRepo"), "org/tiny is gated: accept its terms on its page on the hub, and log in"),
        ((403, ""), "the hub refuses org/tiny .403.: log in with `hf auth login`"),
        ((500, ""), "not in the hub's cache, and the hub cannot be reached .*500"),
    ],
)
def test_a_refusal_is_one_line(status: tuple[int, str], says: str, server: Server) -> None:
    server.status = status
    refused(REPO, says)


def test_a_gated_repository_is_listed_but_not_given(server: Server) -> None:
    server.gated = True
    refused(REPO, "org/tiny is gated")


def test_without_a_network_the_cache_serves(cache: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        reach(f"http://127.0.0.1:{free.getsockname()[1]}", monkeypatch)
    refused(REPO, "not in the hub's cache, and the hub cannot be reached .Connect.*; check the connection")
    lay_out(cache, made)
    assert load_model(REPO).source == f"{REPO}@{FIRST}"


def test_a_connection_that_breaks_loses_nothing(server: Server) -> None:
    server.cut = "unet/diffusion_pytorch_model.safetensors"
    refused(REPO, "only a part of it .*, and the hub cannot be reached")
    server.cut = None
    server.given.clear()
    assert model_hash(load_model(REPO)) == model_hash(build_tiny())
    assert "text_encoder/model.safetensors" not in server.given


def test_fetching_is_shown_and_can_be_stopped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MB", 1000)
    with pytest.raises(Interrupted, match="stopped while fetching org/tiny; the same command goes on"):
        load_model(REPO, should_stop=lambda: "text_encoder/model.safetensors" in server.given)
    seen: list[Any] = []
    load_model(REPO, on_event=seen.append)
    assert all(isinstance(event, Progress) and event.what == "MB of org/tiny" for event in seen)
    assert seen[-1].done == seen[-1].total > 0
    assert [event.done for event in seen] == sorted(event.done for event in seen)


def test_repositories_of_other_kinds_are_told_what_they_are(server: Server) -> None:
    for file in list(server.folder.glob("*/*.safetensors")):
        file.unlink()
    refused(REPO, "org/tiny/text_encoder/model.safetensors is missing: it holds model.bin; only safetensors")
    (server.folder / "model_index.json").unlink()
    server.commits["main"] = SECOND
    refused(REPO, r"no model_index.json but the single files tiny.ckpt; fetch one \(hf download org/tiny tiny.ckpt\)")
    (server.folder / "tiny.ckpt").unlink()
    refused(REPO, "org/tiny has no model_index.json, so it is no diffusers model")


def test_an_unsupported_pipeline_is_refused_before_its_weights_are_fetched(server: Server) -> None:
    index = server.folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "FluxPipeline"}))
    refused(REPO, "it is a FluxPipeline; only")
    assert not any(name.endswith(".safetensors") for name in server.given)


def test_a_name_that_the_hub_cannot_have(cache: Path) -> None:
    refused("org/" + "x" * 97, "no such folder or file, and no id on the hub")
    refused("org/a--b", "no such folder or file, and no id on the hub")


def test_a_run_keeps_the_exact_commit(server: Server, cache: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    given = {**SHORT, "model": REPO, "concept": "cat", "concept.keep": ["dog"], "output": str(tmp_path / "run")}
    run = workflow.erase(load_config(None, given), on_event=seen.append)
    assert yaml.safe_load((run / runs.CONFIG).read_text())["model"] == f"{REPO}@{FIRST}"
    assert next(event for event in seen if isinstance(event, Started)).model.startswith("Stable Diffusion 1 (")
    # The branch moves on, to weights of another kind; the run stays with its own.
    server.commits["main"] = SECOND
    server.status = (404, "RepoNotFound")
    workflow.export(run, "diffusers", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == REPO
    assert runs.read_about(run / runs.MODEL)["base"] == f"{REPO}@{FIRST}"
    (run / runs.DONE).unlink()
    assert workflow.resume(run) == run
    with pytest.raises(InputError, match=f"is a run on '{REPO}@{FIRST}', which has no judges of its own"):
        workflow.evaluate(run)
    assert len(workflow.generate(str(run), ["a cat"], [0], tmp_path / "pictures", steps=1)) == 1
    shutil.rmtree(cache)
    server.status = None
    assert len(workflow.generate(str(run), ["a cat"], [0], tmp_path / "more", steps=1)) == 1  # fetched again


def test_the_command_fetches_and_then_works_offline(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", REPO, "--prompt", "a cat", "--steps", "1", "--output"]
    # As users have it: by environment variables, in a process of its own.
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    surroundings |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.address}
    started = [sys.executable, "-W", "ignore", "-m", "erase", *command, str(tmp_path / "a")]
    fetched = subprocess.run(started, env=surroundings, capture_output=True, text=True, timeout=120)
    assert fetched.returncode == 0 and server.given, fetched.stderr
    server.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # for the flag to change, and the test to put back
    assert main([*command, str(tmp_path / "b"), "--offline"]) == 2
    assert "not in the hub's cache, and offline" in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    assert main([*command, str(tmp_path / "b"), "--offline"]) == 0
    assert server.asked == []
