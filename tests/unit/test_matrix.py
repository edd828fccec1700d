"""A matrix file becomes jobs: their names, their settings, every problem at once, and what a folder holds of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erase.batch.matrix import Job, difference, estimate, read_matrix, slug
from erase.batch.place import (
    Attempt,
    Place,
    claimed,
    history,
    put_aside,
    remember,
    seconds_by_method,
    states,
    write_settings,
)
from erase.config import load_config
from erase.errors import InputError

SMALL = """
base: {model: world, evaluate: {prompts: 16}, train: {rounds: 3}}
output: out
concepts: [cat, {name: dog, anchor: fox}]
methods: [esd, uce]
optimizers: [dual, shared]
seeds: [3, 4]
settings: {plain: , slow: {train: {rounds: 9}}}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "matrix.yaml"
    path.write_text(text)
    return path


def test_a_matrix_is_the_product_of_its_axes(tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, SMALL))
    jobs = {job.name: job for job in matrix.jobs}
    assert matrix.output == Path("out")
    # A closed form has no optimizer, so two of them are one job: 2 concepts, 2 + 1 methods, 2 settings, 2 seeds.
    assert len(jobs) == len(matrix.jobs) == 24
    job = jobs["dog-esd-shared-s4-slow"]
    assert (job.config.concept.name, job.config.concept.anchor, job.config.seed) == ("dog", "fox", 4)  # type: ignore[union-attr]
    assert (job.config.turns.rounds, job.config.turns.optimizer, job.config.evaluate.prompts) == (9, "shared", 16)
    assert jobs["cat-esd-dual-s3-plain"].config.turns.rounds == 3 and job.setting == "slow"
    assert jobs["cat-uce-s3-plain"].optimizer == "" and job.optimizer == "shared"
    # The whole table of the first seed comes first, and neighbours in time differ in their concept.
    assert [j.config.seed for j in matrix.jobs] == [3] * 12 + [4] * 12
    assert [j.name for j in matrix.jobs][:2] == ["cat-esd-dual-s3-plain", "dog-esd-dual-s3-plain"]
    assert any("cat-uce-s3-plain and 7 more: train.rounds 3 is unused" in text for text in matrix.warnings)


def test_what_is_no_axis_comes_from_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("concept: owl\nmethod: {name: ga}\nseed: 7\ntrain: {optimizer: joint}\n")
    matrix = read_matrix(written(tmp_path, "base: base.yaml\nseeds: [1]\n"), tmp_path / "elsewhere")
    assert [job.name for job in matrix.jobs] == ["owl-ga-joint-s1"]
    assert matrix.output == tmp_path / "elsewhere"
    # A name does not depend on what else a file holds.
    more = "base: base.yaml\nseeds: [1, 2]\noptimizers: [joint, dual]\nmethods: [ga, esd]\n"
    assert "owl-ga-joint-s1" in {job.name for job in read_matrix(written(tmp_path, more)).jobs}
    uce = "base: {concept: owl, method: uce}\noptimizers: [dual]\n"
    assert [job.name for job in read_matrix(written(tmp_path, uce)).jobs] == ["owl-uce-s0"]


def test_what_trains_nothing_is_one_job_for_all_optimizers(tmp_path: Path) -> None:
    text = "concepts: [cat]\nmethods: [noop, word_filter, uce, ga]\noptimizers: [dual, shared]\n"
    jobs = read_matrix(written(tmp_path, text)).jobs
    assert {job.name for job in jobs} == {
        "cat-noop-s0", "cat-word_filter-s0", "cat-uce-s0", "cat-ga-dual-s0", "cat-ga-shared-s0",
    }  # fmt: skip
    assert len(jobs) == 5 and {job.optimizer for job in jobs if job.config.method.name != "ga"} == {""}


def test_paths_mean_the_same_to_a_worker_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.csv").write_text("prompt\na cat\nthe cat\n")
    for name in ("incep.pth", "clip.pt"):
        Path(name).touch()
    text = (
        "concepts: [cat]\nbase:\n  method: {name: retrained, source: gold}\n"
        "  evaluate: {files: [forget=p.csv], inception: incep.pth, judges: ['clip:model=ViT-B-32,weights=clip.pt']}\n"
    )
    config = read_matrix(written(tmp_path, text)).jobs[0].config
    assert config.method.source == str(tmp_path / "gold")
    assert config.evaluate.files == [f"forget={tmp_path / 'p.csv'}"]
    assert config.evaluate.inception == str(tmp_path / "incep.pth")
    assert config.evaluate.judges == [f"clip:model=ViT-B-32,weights={tmp_path / 'clip.pt'}"]
    plain = read_matrix(written(tmp_path, "concepts: [cat]")).jobs[0].config.evaluate
    assert (plain.files, plain.judges, plain.inception) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("concepts: cat", ["concepts: must be a list such as [cat, dog], got 'cat'"]),
        ("seeds: []", ["seeds: must be a list such as [0, 1], got []"]),
        ("", ["has nothing to go through; give one of concepts, methods"]),
        ("concepts: [cat, cat]", ["concepts: 'cat' is given twice"]),
        ("concepts: [cat]\nmodel: world", ["model: unknown key", "settings of all runs belong into base"]),
        ("base: 3\nconcepts: [cat]", ["base: must be settings, or the name of a file with settings, got 3"]),
        ("base: none.yaml\nconcepts: [cat]", ["base: no configuration at", "none.yaml"]),
        ("base: {output: x}\nconcepts: [cat]", ["base.output: every run of a batch has a folder of its own"]),
        ("concepts: [cat]\noutput: 3", ["output: must be the name of a folder, got 3"]),
        ("concepts: [cat]\nsettings: [a]", ["settings: must be names with settings such as"]),
        ("concepts: [cat]\nsettings: {A b: {}}", ["settings: 'A b' is no name"]),
        ("concepts: [cat]\nsettings: {a: 3}", ["settings.a: must be settings such as"]),
        ("concepts: [cat]\nsettings: {a: {output: x}, b: {train..x: 1}}", ["'output' cannot be set", "'train..x'"]),
        ("concepts: [cat]\nmethods: [{name: esd}, esd]", ["cat-esd-dual-s0: two jobs have this name"]),
        ("concepts: [cat]\nbase: {model: /no/such/folder}", ["cat: model: no such folder or file: /no/such/folder"]),
        (
            "base: {modl: world}\nconcepts: [cat, dgo]\nmethods: [esdd, uce]\nseeds: [0, -1]\n"
            "optimizers: [dual, shred]",
            [
                "4 problems",
                "cat esdd dual 0 and 7 more: method.name: 'esdd' is not one of",
                "cat esdd dual 0 and 15 more: modl: unknown key; did you mean 'model'?",
                "cat esdd shred 0 and 3 more: train.optimizer: 'shred' is not one of",
                "cat esdd dual -1 and 7 more: seed: must be at least 0, got -1",
            ],
        ),
        ("concepts: [cat, dgo]\nseeds: [0, 1]", ["dgo 0 and 1 more: concept 'dgo' is not in the bundled world"]),
        ("seeds: [" + ",".join(map(str, range(400))) + "]\nconcepts: [" + ",".join(f"c{i}" for i in range(400)) + "]",
         ["stands for 160,000 jobs, a batch has at most 100,000"]),
    ],
)  # fmt: skip
def test_every_problem_is_told_at_once(text: str, said: list[str], tmp_path: Path) -> None:
    if "methods: [{name: esd}, esd]" in text:
        text = text.replace("{name: esd}", "{name: esd, guidance: 2.0}")
    with pytest.raises(InputError) as caught:
        read_matrix(written(tmp_path, text))
    assert [part for part in said if part not in str(caught.value)] == [], str(caught.value)


def test_many_problems_are_cut(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_matrix(written(tmp_path, f"concepts: [{', '.join(f'c{i}' for i in range(30))}]"))
    assert str(caught.value).splitlines()[-1] == "  and 10 more"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("cat", "cat"),
        ("Pixel Art", "pixel-art"),
        ("a/../b", "a-b-"),
        ("猫", ""),
        ("x" * 99, "x" * 80 + "-"),
        ("c++", "c-"),
    ],
)
def test_a_folders_name_is_plain_and_tells_words_apart(words: str, name: str) -> None:
    found = slug(words)
    assert found.startswith(name) and found.isascii() and "/" not in found
    assert (found == name) == (words in ("cat", "Pixel Art"))
    assert found != slug(words + "!")


def begun(place: Place, job: Job, *files: str) -> None:
    write_settings(place, job)
    place.folder(job.name).mkdir()
    for name in files:
        (place.folder(job.name) / name).touch()


def test_states_tell_new_begun_and_done(tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, SMALL), tmp_path / "out")
    place, jobs = Place(matrix.output), matrix.jobs
    assert set(states(matrix).values()) == {"new"} and not matrix.output.exists()
    begun(place, jobs[0], "config.yaml", "DONE")
    begun(place, jobs[1], "config.yaml", ".DONE.abcdefgh")
    begun(place, jobs[2], "events.jsonl")  # killed before it had its settings
    begun(place, jobs[3])
    assert [states(matrix)[job.name] for job in jobs[:4]] == ["done", "begun", "new", "new"]


def test_other_settings_are_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    matrix = read_matrix(path, tmp_path / "out")
    place = Place(matrix.output)
    for job, files in zip(matrix.jobs, (["config.yaml", "DONE"], ["config.yaml"], ["notes.txt"]), strict=False):
        begun(place, job, *files)
    place.settings(matrix.jobs[1].name).unlink()
    path.write_text(SMALL.replace("rounds: 3", "rounds: 4"))
    changed = read_matrix(path, tmp_path / "out")
    with pytest.raises(InputError) as caught:
        states(changed)
    first, *lines = str(caught.value).splitlines()
    assert first.endswith("out cannot be used as it is") and len(lines) == 3
    assert "cat-esd-dual-s3-plain was made with other settings (train.rounds was 3, now 4); take --redo" in lines[0]
    assert "is a run that this batch did not begin" in lines[1] and "holds other files" in lines[2]
    assert list(states(changed, redo=True).values())[:4] == ["other", "other", "other", "new"]
    # A field that a later version adds changes the fingerprint, and no setting.
    record = place.settings(matrix.jobs[0].name)
    record.write_text("# settings 0\n" + record.read_text().split("\n", 1)[1])
    path.write_text(SMALL)
    assert "was made with" not in str(pytest.raises(InputError, states, read_matrix(path, tmp_path / "out")).value)


def test_a_difference_is_told_in_words() -> None:
    was = load_config(None, {"concept": "cat", "output": "a"})
    assert difference(was, load_config(None, {"concept": "cat", "output": "b"})) == ""
    now = load_config(None, {"concept": "cat", "train.forget.lr": 0.5})
    assert difference(was, now).startswith("train.forget.lr was ") and difference(was, now).endswith(", now 0.5")


def test_what_is_put_aside_keeps_what_it_has(tmp_path: Path) -> None:
    for text in ("one", "two"):
        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "file").write_text(text)
        put_aside(tmp_path / "job")
    assert put_aside(tmp_path / "job") is None
    assert [(tmp_path / name / "file").read_text() for name in ("job~1", "job~2")] == ["one", "two"]


def test_two_batches_do_not_share_a_folder(tmp_path: Path) -> None:
    wanted = rf"by another erase batch \(process {os.getpid()} of "
    with claimed(tmp_path), pytest.raises(InputError, match=wanted), claimed(tmp_path):
        pass
    with claimed(tmp_path):  # free again
        pass


def test_the_history_tells_how_long_a_method_takes(tmp_path: Path) -> None:
    matrix = read_matrix(written(tmp_path, SMALL), tmp_path)
    place = Place(tmp_path)
    place.history.parent.mkdir()
    for code, seconds in ((0, 30.0), (1, 500.0), (0, 10.0), (0, 20.0)):
        remember(place, Attempt("cat-esd-dual-s3-plain", code, "why" if code else "", seconds, "esd"), "abc")
    with place.history.open("a") as file:
        file.write('{"job": 3}\nhalf a li')
    found = history(place)
    assert len(found) == 4 and found[1] == Attempt("cat-esd-dual-s3-plain", 1, "why", 500.0, "esd")
    assert seconds_by_method(found) == {"esd": [30.0, 10.0, 20.0]}
    assert estimate(list(matrix.jobs), seconds_by_method(found)) == (16 * 20.0, 16)
