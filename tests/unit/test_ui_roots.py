"""A visitor names nothing outside the two roots: by dots, links, absolute paths or odd Unicode."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erase import runs
from erase.errors import InputError
from erase.ui.roots import LONGEST, Roots


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    outside = tmp_path / "outside"
    (outside / "unet").mkdir(parents=True)
    (outside / "model_index.json").write_text("{}")
    (outside / "secret.safetensors").write_text("secret")
    (outside / "secret.png").write_text("secret")
    models = tmp_path / "models"
    (models / "sd" / "unet").mkdir(parents=True)
    (models / "sd" / "model_index.json").write_text("{}")
    (models / "more" / "tuned").mkdir(parents=True)
    (models / "more" / "tuned" / "model_index.json").write_text("{}")
    for name in ("plain.safetensors", "old.ckpt", "notes.txt", ".hidden.safetensors", "réseau.safetensors"):
        (models / name).write_text("x")
    found = Roots.made(models, tmp_path / "runs")
    make_run(found.runs / "good", "world")
    return found


def make_run(folder: Path, model: str) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"model: {model}\nconcept: cat\n")
    (folder / runs.MODEL).write_text("x")
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_text("x")
    return folder


def test_what_there_is_can_be_named(roots: Roots):
    assert roots.models_list() == [
        "world",
        *("more/tuned", "old.ckpt", "plain.safetensors", "réseau.safetensors", "sd"),
        "run:good",
    ]
    for name in roots.models_list():
        found = roots.model(name)
        assert found == "world" or Path(found).exists() and Path(found).is_absolute()
    assert roots.model("run:good") == str(roots.runs / "good") and roots.runs_list() == ["good"]


BAD = [
    "", "..", "../outside", "sd/../../outside", "./sd", "sd/", "/etc/passwd", "//etc", "~", "~root", "-sd",
    ".hidden.safetensors", "\\etc", "C:\\x", "C:/x", "sd\0", "sd\n", "plain.safetensors\0.png", "x" * (LONGEST + 1),
    "x" * 300, "é" * 200,
    "．．/outside", "‥/outside", "．．／outside", "..∕outside", "sd／unet", "sd\u2044unet",
    "\u202esd", "s\u200bd", "s\ufeffd", "\ud800",
    "notes.txt", "nothing", "run:", "run:../outside", "run:good/model", "run:/etc", "run:.ui", "run:nothing",
    "org/name",
    " / ", "file:///etc/passwd", "http://127.0.0.1/x", "NUL", "aux ", "sd/unet", None, 3, ["sd"], b"sd",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_nothing_else_is_a_model(name: object, roots: Roots):
    with pytest.raises(InputError) as caught:
        roots.model(name)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.isprintable() and len(text) < 400, "the message itself must be one harmless line"


@pytest.mark.parametrize("name", [*BAD, "good/../good", "GOOD\0", "ｇood"], ids=ascii)
def test_nothing_else_is_a_run(name: object, roots: Roots):
    with pytest.raises(InputError):
        roots.run(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ｇood", "good\u2024", "g\u200bood", "①", ".good", "-good"], ids=ascii)
def test_odd_names_are_refused_even_if_they_exist(name: str, roots: Roots):
    make_run(roots.runs / name, "world")
    (roots.models / f"{name}.safetensors").write_text("x")
    for read, given in ((roots.run, name), (roots.model, f"run:{name}"), (roots.model, f"./{name}.safetensors")):
        with pytest.raises(InputError, match="signs|plain name"):
            read(given)
    assert roots.runs_list() == ["good"]


def test_links_out_of_the_models_are_refused(roots: Roots, tmp_path: Path):
    outside = tmp_path / "outside"
    (roots.models / "link").symlink_to(outside)
    (roots.models / "file.safetensors").symlink_to(outside / "secret.safetensors")
    (roots.models / "sd" / "vae").symlink_to(outside)
    (roots.models / "self").symlink_to(roots.models)
    (roots.models / "loop").symlink_to(roots.models / "loop")
    for name in ("link", "file.safetensors", "sd", "self", "loop", "link/unet"):
        with pytest.raises(InputError):
            roots.model(name)
    assert not {"link", "file.safetensors", "sd", "self", "loop"} & set(roots.models_list())
    (roots.models / "sd" / "vae").unlink()
    assert roots.model("sd")
    (roots.models / "shared").mkdir()
    (roots.models / "shared" / "file.safetensors").symlink_to(outside / "secret.safetensors")
    (roots.models / "sd" / "vae").symlink_to(roots.models / "shared")  # inside, but what is in it leads out
    with pytest.raises(InputError, match="links out"):
        roots.model("sd")
    (roots.models / "alias.safetensors").symlink_to(roots.models / "plain.safetensors")
    assert roots.model("alias.safetensors") == str(roots.models / "plain.safetensors")


def test_devices_pipes_and_runs_among_the_models_are_refused(roots: Roots, tmp_path: Path):
    os.mkfifo(roots.models / "pipe.safetensors")
    (roots.models / "null.safetensors").symlink_to("/dev/null")
    make_run(roots.models / "disguised", str(tmp_path / "outside"))
    for name in ("pipe.safetensors", "null.safetensors", "disguised"):
        with pytest.raises(InputError):
            roots.model(name)


def test_a_run_is_used_only_if_all_that_it_began_from_is_inside(roots: Roots, tmp_path: Path):
    make_run(roots.runs / "chained", str(roots.runs / "good"))
    make_run(roots.runs / "tuned", str(roots.models / "sd"))
    make_run(roots.runs / "foreign", str(tmp_path / "outside"))
    make_run(roots.runs / "hubbed", "org/name")
    make_run(roots.runs / "stray", str(make_run(tmp_path / "elsewhere", "world")))
    (roots.runs / "link").symlink_to(tmp_path / "elsewhere")
    assert {name for name in roots.models_list() if name.startswith("run:")} >= {"run:chained", "run:tuned"}
    assert roots.model("run:chained") and roots.model("run:tuned")
    for name in ("foreign", "hubbed", "stray", "link"):
        with pytest.raises(InputError):
            roots.model(f"run:{name}")
    assert "link" not in roots.runs_list()


def test_hub_ids_only_where_allowed_and_never_as_a_path(roots: Roots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    open_roots = Roots(roots.models, roots.runs, hub=True)
    assert open_roots.model("org/name@main") == "org/name@main"
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "outside" / "unet").exists()
    for name in ("outside/unet", "../outside", "org/name@../x", "a/b/c"):
        with pytest.raises(InputError):
            open_roots.model(name)


def test_files_are_served_from_runs_and_from_what_the_ui_made(roots: Roots, tmp_path: Path):
    (roots.exports / "x.zip").write_text("x")
    (roots.pictures / "x.png").write_text("x")
    for path in (roots.runs / "good/images/a.png", roots.exports / "x.zip", roots.pictures / "x.png"):
        assert roots.file(path) == path
    (roots.jobs / "job.json").write_text("{}")
    (roots.runs / "good" / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (roots.runs / "good" / ".hidden.png").write_text("x")
    (roots.runs / "good" / "checkpoint.pt").write_text("x")
    os.mkfifo(roots.runs / "good" / "pipe.png")
    bad = [
        *(
            roots.runs / "good" / name
            for name in ("link.png", ".hidden.png", "checkpoint.pt", "pipe.png", "config.yaml")
        ),
        *(roots.jobs / "job.json", tmp_path / "outside/secret.png", roots.models / "plain.safetensors", roots.runs),
        *(roots.runs / "good/../../outside/secret.png", "/etc/passwd", "/dev/zero", "x\0.png", "x" * 9000, None, 3),
    ]
    for path in bad:
        with pytest.raises(InputError):
            roots.file(path)  # type: ignore[arg-type]
