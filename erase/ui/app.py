"""The UI: four pages over one server's runs. `build` makes it and loads no model; `serve` launches it and waits."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from erase.errors import InputError
from erase.ui import endpoints, look
from erase.ui.actions import Actions
from erase.ui.compare import Comparer
from erase.ui.doorkeeper import MOST_UPLOAD, OwnPagesOnly
from erase.ui.jobs import Jobs
from erase.ui.login import is_let_in
from erase.ui.pages import compare_page, erase_page, evaluate_page, runs_page
from erase.ui.roots import OWN, Roots
from erase.ui.shown import WORKING
from erase.ui.site import QUICK, Site

HOST = "127.0.0.1"  # this machine alone; from elsewhere through a tunnel or a proxy that someone set up on purpose
WAITING = 200  # requests in line; a further one is refused rather than kept for an hour
SESSIONS = 256  # tabs whose state is kept; the longest unused is forgotten first


@contextmanager
def opened(roots: Roots, **more: Any) -> Iterator[Site]:
    """A site over the roots; at the end its jobs are stopped, to be resumed, and what it served is removed."""
    jobs = Jobs(roots, **more)
    every = roots.runs / OWN / "served"
    served = every / secrets.token_hex(16)
    try:
        shutil.rmtree(every, ignore_errors=True)  # of a server that was killed; there is one at a time
        try:
            served.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {served}: {error.strerror or error}") from None
        site = Site(Actions(roots, jobs, Comparer(roots, jobs)), served)
        site.actions.after_removal.append(site.sweep)
        yield site
    finally:
        jobs.close()
        shutil.rmtree(every, ignore_errors=True)


def build(site: Site) -> gr.Blocks:
    """The pages, wired. Gradio keeps uploads and what it sends in the site's own folder, and nowhere else."""
    os.environ["GRADIO_TEMP_DIR"] = str(site.served)
    with gr.Blocks(title="erase", analytics_enabled=False, delete_cache=(3600, 86_400), fill_width=True) as made:
        gr.HTML(
            "<h1>erase</h1><p>Take one concept out of a text-to-image model, and see what that did.</p>",
            elem_id="top", padding=False,
        )  # fmt: skip
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Erase", id="erase") as first:
                erasing = erase_page.build(site)
            with gr.Tab("Compare", id="compare") as second:
                comparing = compare_page.build(site)
            with gr.Tab("Evaluate", id="evaluate") as third:
                evaluating = evaluate_page.build(site)
            with gr.Tab("Runs", id="runs") as fourth:
                listing = runs_page.build(site)
        _wire(site, made, (first, second, third, fourth), tabs, erasing, comparing, evaluating, listing)
        endpoints.add(site)
    return made


def _wire(
    site: Site,
    made: gr.Blocks,
    pages: tuple[gr.Tab, gr.Tab, gr.Tab, gr.Tab],
    tabs: gr.Tabs,
    erasing: erase_page.ErasePage,
    comparing: compare_page.ComparePage,
    evaluating: evaluate_page.EvaluatePage,
    listing: runs_page.RunsPage,
) -> None:
    """What crosses pages: a reload, lists that are fresh when their page is opened, and buttons that lead elsewhere."""
    roots = site.actions.roots

    def recall(request: gr.Request) -> str:
        return remembered(site, request)

    def bases() -> Any:
        return gr.update(choices=roots.models_list())

    made.load(recall, None, erasing.job, **QUICK)
    made.load(bases, None, erasing.model, **QUICK)

    def models(job: str, right: str) -> tuple[Any, Any]:
        choices = roots.models_list()
        own = runs_page.source_of(job) if job else ""  # the run on show is what one comes to look at
        wanted: dict[str, Any] = {"value": own} if own in choices and right not in choices[1:] else {}
        return gr.update(choices=choices), gr.update(choices=choices, **wanted)

    def finished(job: str, chosen: str) -> Any:
        choices = roots.runs_list(finished=True)
        wanted: dict[str, Any] = {"value": job} if job in choices and chosen not in choices else {}
        return gr.update(choices=choices, **wanted)

    first, second, third, fourth = pages
    first.select(bases, None, erasing.model, **QUICK).then(erasing.show, erasing.job, erasing.view, **QUICK)
    second.select(models, [erasing.job, comparing.right], [comparing.left, comparing.right], **QUICK).then(
        comparing.show, comparing.right, comparing.view, **QUICK
    )
    third.select(finished, [erasing.job, evaluating.run], evaluating.run, **QUICK).then(
        evaluating.show, evaluating.run, evaluating.view, **QUICK
    )
    fourth.select(lambda name: runs_page.page_of(site, name), listing.chosen, listing.view, **QUICK)
    fourth.select(lambda: gr.update(active=True), None, listing.timer, **QUICK)
    for page in (first, second, third):
        page.select(lambda: gr.update(active=False), None, listing.timer, **QUICK)
    listing.opened.click(
        lambda name: (name, gr.update(selected="erase")), listing.chosen, [erasing.job, tabs], **QUICK
    ).then(erasing.show, erasing.job, erasing.view, **QUICK).then(
        None, erasing.job, None, js=look.REMEMBER, api_visibility="private"
    )
    listing.compared.click(
        lambda name: (
            "world",
            gr.update(choices=roots.models_list(), value=runs_page.source_of(name)),
            gr.update(selected="compare"),
        ),
        listing.chosen, [comparing.left, comparing.right, tabs], **QUICK,
    )  # fmt: skip
    listing.evaluated.click(
        lambda name: (gr.update(choices=roots.runs_list(finished=True), value=name), gr.update(selected="evaluate")),
        listing.chosen, [evaluating.run, tabs], **QUICK,
    )  # fmt: skip


def remembered(site: Site, request: gr.Request) -> str:
    """The run that a page shows when it is loaded: the one that its address names, else the one under way, or none."""
    known = site.actions.jobs.listing()
    named = request.query_params.get("run", "") if request is not None else ""
    if any(run.name == named for run in known):
        return named
    return next((run.name for state in WORKING[::-1] for run in known if run.state == state), "")


def launch(made: gr.Blocks, port: int, login: Mapping[str, str] | None = None, **more: Any) -> str:
    """Serve the pages on this machine alone; returns their address. It does not wait. Raises `InputError`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used: {error.strerror or error}; name another with --port"
            ) from None
        port = probe.getsockname()[1]  # 0: any that is free
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)  # it would open more folders than this server means to
    made.queue(max_size=WAITING, default_concurrency_limit=4)
    _, address, _ = made.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        auth=None if login is None else (lambda name, password: is_let_in(login, name, password)),
        strict_cors=True,
        max_file_size=MOST_UPLOAD,
        # Every call without a session is one of its own to Gradio, with a copy of the pages: its 10,000 are too many.
        state_session_capacity=SESSIONS,
        allowed_paths=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,
        footer_links=["api", "settings"],
        app_kwargs={"middleware": [Middleware(OwnPagesOnly, uploads=Path(os.environ["GRADIO_TEMP_DIR"]))]},
        prevent_thread_lock=True,
        quiet=True,
        theme=look.theme(),
        css=look.CSS,
        **more,
    )
    return address


def serve(
    *,
    models: Path,
    runs: Path,
    port: int,
    login: Mapping[str, str] | None = None,
    hub: bool = False,
    browser: bool = False,
) -> None:
    """Open the UI and wait until it is interrupted. Runs under way stop then, and can be resumed."""
    with opened(Roots.made(models, runs, hub)) as site:
        made = build(site)
        address = launch(made, port, login)
        try:
            print(f"erase is open at {address} (Ctrl-C ends it)", flush=True)
            if browser:
                webbrowser.open(address)
            made.block_thread()
        finally:
            made.close(verbose=False)
