"""The web UI in a browser, on the bundled world: erase, reload, stop, compare, judge, export, load, delete."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors import safe_open

from erase import runs
from erase.ui import app
from erase.ui.roots import Roots

PATIENCE = 900_000  # ms: a run on a core that others use too
FEW = "train.pool.forget=6\ntrain.pool.retain=6\ntrain.pool.steps=4\ntrain.batch=2\ntrain.preview_every=3"
WIDTHS = (375, 1280)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[SimpleNamespace]:
    """The UI over empty folders, one page of it, and every address that a page has asked for."""
    place = tmp_path_factory.mktemp("ui")
    (place / "models").mkdir()
    roots = Roots.made(place / "models", place / "runs")
    with app.opened(roots) as site:
        made = app.build(site)
        address = app.launch(made, 0)
        context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.set_default_timeout(60_000)
        broken: list[str] = []
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(address)
        page.locator("#erase").wait_for()
        yield SimpleNamespace(
            site=site, roots=roots, address=address, context=context, page=page, asked=asked, broken=broken
        )
        context.close()
        made.close(verbose=False)


def fill(page: Any, field: str, value: str) -> None:
    page.locator(f"#{field} input, #{field} textarea").first.fill(value)
    page.keyboard.press("Tab")


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def state(page: Any, wanted: str) -> None:
    page.locator(f"#progress .state.{wanted}").wait_for(timeout=PATIENCE)


@pytest.fixture(scope="module")
def erased(server: SimpleNamespace) -> str:
    """A run that was filled in, started, reloaded in the middle, and is done: its name."""
    page = server.page
    page.get_by_role("button", name="More settings").click()
    for field, value in (("rounds", "9"), ("prompts", "4"), ("steps", "5"), ("more", FEW)):
        fill(page, field, value)
    page.get_by_label("Sensitive: blur its pictures").check()
    page.locator("#command").get_by_text("--rounds").wait_for()
    page.locator("#yaml").get_by_text("rounds").wait_for()
    page.locator("#erase").click()
    state(page, "running")
    name = page.locator("#progress h2").inner_text().split()[0]
    page.wait_for_url(f"**run={name}*")
    page.reload()
    assert page.locator("#progress h2").inner_text().split()[0] == name
    state(page, "done")
    return name


def test_a_run_goes_on_through_a_reload_and_shows_how_it_went(server: SimpleNamespace, erased: str):
    page = server.page
    assert [run.name for run in server.site.actions.jobs.listing()] == [erased]  # the reload began no second one
    assert page.locator("#losses svg").count() == 2
    assert "forget loss" in page.locator("#losses").inner_text()
    page.locator("#preview img").wait_for()
    assert not page.locator("#stop").is_enabled()
    assert (server.roots.runs / erased / runs.DONE).is_file()


def test_sensitive_samples_are_blurred_until_revealed(server: SimpleNamespace, erased: str):
    page = server.page
    blur = "element => getComputedStyle(element).filter"
    assert "blur" in page.locator("#preview img").evaluate(blur)
    page.locator("#reveal-preview").click()
    page.wait_for_function("!getComputedStyle(document.querySelector('#preview img')).filter.includes('blur')")


def test_stop_keeps_what_there_is_and_others_say_their_place(server: SimpleNamespace, erased: str):
    page = server.page
    names = [server.site.actions.erase({"concept": "owl", "rounds": 5000, "more": FEW, "skip_judging": True})]
    names.append(server.site.actions.erase({"concept": "dog", "rounds": 5000, "more": FEW, "skip_judging": True}))
    page.goto(f"{server.address}?run={names[1]}")
    page.locator("#progress .facts", has_text="next in line").wait_for()
    page.locator("#stop").click()
    state(page, "stopped")
    page.goto(f"{server.address}?run={names[0]}")
    page.locator("#losses svg").first.wait_for(timeout=PATIENCE)
    page.locator("#stop").click()
    state(page, "stopped")
    assert runs.checkpoints(server.roots.runs / names[0])
    assert not (server.roots.runs / names[0] / runs.DONE).exists()


def test_two_models_are_compared_at_one_seed(server: SimpleNamespace, erased: str):
    page = server.page
    tab(page, "Compare")
    fill(page, "right", f"run:{erased}")
    page.locator("#gallery-forget img").first.wait_for()
    assert page.locator("#gallery-forget .caption-label").first.inner_text().startswith("before ")
    assert page.locator("#gallery-retain img").count() >= 2
    page.locator("#draw").click()
    page.locator("#heat-map img").wait_for(timeout=PATIENCE)
    assert page.locator("#picture-slider img").count() == 2
    assert page.locator("#answers").inner_text().count("the judge sees") == 2
    filters = [
        image.evaluate("element => getComputedStyle(element).filter")
        for image in page.locator("#pictures img, #galleries img").all()
    ]
    assert len(filters) > 6 and all("blur" in one for one in filters)
    page.locator("#reveal").click()
    page.wait_for_function("!getComputedStyle(document.querySelector('#pictures img')).filter.includes('blur')")
    assert "blur" in page.locator("#gallery-forget img").first.evaluate("element => getComputedStyle(element).filter")
    page.locator("#reveal-galleries").click()
    page.wait_for_function("!getComputedStyle(document.querySelector('#gallery-forget img')).filter.includes('blur')")


def test_scores_have_intervals_and_their_files_can_be_had(server: SimpleNamespace, erased: str, tmp_path: Path):
    page = server.page
    tab(page, "Evaluate")
    fill(page, "evaluate-run", erased)
    page.locator("#scores table").wait_for()
    cell = page.locator("#scores td[data-label=after]").first.inner_text()
    assert re.search(r"\d+\s%\s+\d+ to \d+\s%", cell), cell
    for figure in ("#forget-retain svg circle", "#neighbours .lane", "#run-losses svg"):
        page.locator(figure).first.wait_for(state="attached")
    with page.expect_download() as download:
        page.locator("#get-report-json").click()
    download.value.save_as(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["run_id"] == erased


def test_an_export_is_downloaded_and_loads(server: SimpleNamespace, erased: str, tmp_path: Path):
    page = server.page
    tab(page, "Runs")
    page.locator(f"button[data-run='{erased}']").click()
    page.locator("#export").click()
    page.wait_for_function("document.querySelector('#download')?.innerText.includes('.zip')", timeout=PATIENCE)
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "model.zip")
    zipfile.ZipFile(tmp_path / "model.zip").extractall(tmp_path)
    (unet,) = tmp_path.glob("*/unet")
    model = UNet2DConditionModel.from_pretrained(unet)
    with safe_open(server.roots.runs / erased / runs.MODEL, "pt") as trained:
        name = next(name for name in trained.keys() if "attn2" in name)  # noqa: SIM118
        ours = trained.get_tensor(name)
    assert (model.state_dict()[name.removeprefix("unet.")] == ours).all()


def test_deleting_asks_first(server: SimpleNamespace, erased: str):
    page = server.page
    tab(page, "Runs")
    name = next(run.name for run in server.site.actions.jobs.listing() if run.concept == "dog")
    page.locator(f"button[data-run='{name}']").click()
    page.locator("#run-about h2", has_text=name).wait_for()
    page.locator("#run-delete").click()
    page.locator("#delete-keep").click()
    # For a moment there may be two, the one that goes and the one that comes, which a locator would not have.
    page.wait_for_function("![...document.querySelectorAll('#delete-ask')].some((ask) => ask.checkVisibility())")
    assert (server.roots.runs / name).is_dir()
    page.locator("#run-delete").click()
    page.locator("#delete-sure").click()
    page.locator(f"button[data-run='{name}']").wait_for(state="detached")
    assert not (server.roots.runs / name).exists()


def test_what_is_typed_is_never_markup(server: SimpleNamespace, erased: str):
    page = server.page
    tab(page, "Erase")
    fill(page, "concept", "<img src=x onerror=window.hacked=1>")
    page.locator("#erase").click()
    page.get_by_text("onerror").first.wait_for()
    page.wait_for_timeout(500)
    assert page.evaluate("window.hacked === undefined && document.querySelector('img[src=x]') === null")


def test_every_page_fits_both_widths_and_themes(server: SimpleNamespace, erased: str, browser: Any, shots: Path):
    for width in WIDTHS:
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
            page.goto(f"{server.address}?run={erased}")
            page.locator("#losses svg").first.wait_for()
            for name, ready in (
                ("Erase", "#losses svg"),
                ("Compare", "#gallery-forget img"),
                ("Evaluate", "#scores table"),
                ("Runs", f"button[data-run='{erased}']"),
            ):
                tab(page, name)
                page.locator(ready).first.wait_for()
                if name == "Runs":
                    page.locator(ready).click()
                    page.locator("#run-about h2").wait_for()
                page.wait_for_timeout(600)
                path = shots / f"{name.lower()}-{width}-{theme}.png"
                page.screenshot(path=path, full_page=True)
                assert Image.open(path).width == width
                assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is too wide"
            page.close()


def test_a_page_can_be_used_by_keyboard(server: SimpleNamespace, erased: str):
    page = server.page
    page.goto(server.address)
    page.get_by_role("tab", name="Erase").focus()
    page.keyboard.press("Tab")
    for _ in range(60):
        if page.evaluate("document.activeElement.id") == "erase":
            break
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "erase"


def test_nothing_was_asked_of_another_machine_and_no_script_broke(server: SimpleNamespace, erased: str):
    ours = ("data:", "blob:", server.address)
    assert [url for url in server.asked if not url.startswith(ours)] == []
    assert len(server.asked) > 20 and server.broken == []
