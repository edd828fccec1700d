"""Features of pictures: what they are made from, what is refused (acceptance test 7), and how they are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from erase.errors import InputError
from erase.evaluation.distances import LEAST
from erase.evaluation.examine import examine, examine_again
from erase.evaluation.features import (
    FILE,
    as_uint8,
    judge_features,
    read_features,
    similarities,
    write_features,
)
from erase.evaluation.findings import pictures
from erase.evaluation.judges import load_judges
from erase.evaluation.metrics import changes, scores
from erase.evaluation.rows import image_sha
from erase.runtime import write_png
from erase.world.scenes import draw_scenes, render, to_uint8
from erase.world.vocabulary import OBJECT_NAMES
from tests.unit.test_findings import example


@pytest.fixture(scope="module")
def judges():
    return load_judges()


@pytest.fixture(scope="module")
def drawn():
    """120 pictures of the world, uint8 (64, 64, 3)."""
    return list(to_uint8(render(draw_scenes(120, torch.Generator().manual_seed(0)))))


def test_pictures_are_uint8_or_floats_of_0_to_1():
    whole = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    assert as_uint8(whole) is whole
    assert (as_uint8(whole.astype(np.float32) / 255) == whole).all()
    black = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    assert as_uint8(black) is black


def test_normalised_pictures_and_their_casts_are_refused():
    whole = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    normalised = whole / 127.5 - 1
    with pytest.raises(InputError, match="undo their normalisation"):
        as_uint8(normalised)
    with pytest.raises(InputError, match="undo their normalisation"):
        as_uint8(whole.astype(np.float32))
    # What a published script did: floats of -1 to 1 cast to uint8, which leaves 255, 0 and 1.
    cast = np.where(normalised <= -1, 255, np.where(normalised >= 0.9, 1, 0)).astype(np.uint8)
    with pytest.raises(InputError, match="cast to uint8"):
        as_uint8(np.where(whole == 95, 1, cast).astype(np.uint8))
    with pytest.raises(InputError, match="NaN"):
        as_uint8(np.full((1, 4, 4, 3), np.nan))
    with pytest.raises(InputError, match="int64"):
        as_uint8(whole.astype(np.int64))
    with pytest.raises(InputError, match="shape"):
        as_uint8(whole[0])


def test_features_are_those_of_the_judge(judges, drawn):
    found = judge_features(judges, drawn[:70])
    looks = judges.look(drawn[:70])
    np.testing.assert_allclose(found["clip"], np.stack([look["embedding"] for look in looks]), atol=1e-5)
    head = list(judges.classifiers["conv"].body.children())[-1]
    logits = head(torch.from_numpy(found["conv"]))[:, : len(OBJECT_NAMES) + 1]
    named = [(*OBJECT_NAMES, "none")[int(i)] for i in logits.argmax(1)]
    assert named == [look["judges"]["conv"]["object"] for look in looks]


def test_names_of_one_family_are_close(judges):
    found = similarities(judges, "object", ["cat"])
    assert found["cat"] == pytest.approx(1, abs=1e-5) == max(found.values())
    assert set(found) == set(OBJECT_NAMES) and -1.001 <= min(found.values()) < 0.3
    assert similarities(judges, "object", ["nothing"]) == {}


def pictured(drawn, folder):
    """A run's rows with pictures in a folder: those of the concept are other ones after."""
    rows = example(LEAST)
    order, found = pictures(rows), []
    for r in rows:
        key = r["prompt_id"], r["seed"]
        if key not in order:
            found.append(r)
            continue
        number = order.index(key)
        picture = 255 - drawn[number] if r["arm"] == "after" and key[0].startswith("forget") else drawn[number]
        path = f"{r['arm']}/{number}.png"
        write_png(folder / path, picture)
        found.append({**r, "image": path, "image_sha": image_sha(picture)})
    return found


def test_fid_and_kid_are_of_other_models_too(drawn, tmp_path, monkeypatch):
    def colours(images, weights, device):
        return np.stack([np.concatenate([i.mean((0, 1)), i.std((0, 1))]) for i in images]).astype(np.float32)

    monkeypatch.setattr("erase.evaluation.examine.inception_features", colours)
    rows = [
        {
            **r,
            "expected": {"object": r["expected"]["object"]},
            "judges": {"clip": {**r["judges"]["conv"], "abstain": False}},
        }
        for r in pictured(drawn, tmp_path)
        if r["role"] != "retain_cross"
    ]
    given = rows, scores(rows, judge="clip"), changes(rows, judge="clip"), tmp_path
    asked = {"judge": "clip", "world": False}
    found = examine(*given, torch.device("cpu"), tmp_path / "weights.pth", **asked)
    by_name = {(s.name, s.group): s for s in found.shifts}
    assert set(by_name) == {(name, group) for name in ("FID", "KID") for group in ("forget", "retain")}
    for name in ("FID", "KID"):
        one = by_name[name, "forget"]
        assert one.p < 0.05 and one.low > 0 and one.half == LEAST // 2 and "InceptionV3" in one.features
        assert by_name[name, "retain"].p == 1.0
    again = examine_again(*given, judge="clip")
    assert again.shifts == found.shifts and again.classes == found.classes
    assert examine(*given, torch.device("cpu"), **asked).shifts == []
    assert not (tmp_path / FILE).exists(), "features that were not asked for again"
    write_png(tmp_path / rows[0]["image"], drawn[-1])
    with pytest.raises(InputError, match=r"\.png is not the picture that was judged; evaluate the run again"):
        examine(*given, torch.device("cpu"), tmp_path / "weights.pth", **asked)


class Colours:
    """A stand-in for a CLIP: mean and deviation of each colour, of length 1."""

    name = "clip"

    def __init__(self, model: str, tag: str | None) -> None:
        self.facts = {"model": model, "pretrained": tag, "weights": {"sha256": "f00dfeed" * 8}}

    def look(self, images, prompts):
        raise AssertionError("the pictures were judged before")

    def embed(self, images):
        found = np.stack([np.concatenate([i.mean((0, 1)), i.std((0, 1))]) for i in images]).astype(np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("model", "tag", "name"),
    [("ViT-L-14-336", "openai", "CMMD"), ("ViT-L-14-336", None, "CMMD_open_clip"), ("RN50", "cc12m", "CMMD_open_clip")],
)
def test_a_clip_that_judges_gives_cmmd_if_it_is_the_one_of_cmmd(drawn, tmp_path, model, tag, name):
    rows = pictured(drawn, tmp_path)
    given = rows, scores(rows), changes(rows), tmp_path
    judge = Colours(model, tag)
    found = examine(*given, torch.device("cpu"), clip=judge, world=False)
    by_name = {(s.name, s.group): s for s in found.shifts}
    assert set(by_name) == {(name, "forget"), (name, "retain")}
    assert by_name[name, "forget"].p < 0.05 and by_name[name, "retain"].p == 1.0
    said = by_name[name, "forget"].features
    assert model in said and "6 numbers" in said and "weights f00dfeed" in said and (tag is None or f"({tag})" in said)
    assert examine_again(*given).shifts == found.shifts, "it is kept what they are"


def test_a_run_is_examined_from_its_pictures_and_again_from_its_features(drawn, tmp_path):
    rows = pictured(drawn, tmp_path)
    found = examine(rows, scores(rows), changes(rows), tmp_path, torch.device("cpu"))
    by_name = {(s.name, s.group): s for s in found.shifts}
    assert by_name["KD_conv", "forget"].p < 0.05 and by_name["KD_conv", "retain"].p == 1.0
    assert "128 numbers" in by_name["KD_conv", "forget"].features
    assert next(c for c in found.classes if c.name == "lion").similarity is not None

    again = examine_again(rows, scores(rows), changes(rows), tmp_path)
    assert again.shifts == found.shifts and again.twins == found.twins
    with pytest.raises(InputError, match="evaluate the run again"):
        examine_again(example(LEAST + 1), scores(rows), changes(rows), tmp_path)

    few = example(8)
    assert examine(few, scores(few), changes(few), tmp_path, torch.device("cpu")).shifts == []
    assert not (tmp_path / FILE).exists(), "features of pictures that are no more"
    (tmp_path / "before/3.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="no picture any more"):
        examine(rows, scores(rows), changes(rows), tmp_path, torch.device("cpu"))


def test_kept_features_come_back_and_damaged_ones_do_not(tmp_path):
    path = tmp_path / FILE
    order = [("a", 0), ("b", 1)]
    features = {"conv": (np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32))}
    write_features(path, order, features, {"conv": "three numbers"})
    again, found, about = read_features(path)
    assert again == order and (found["conv"][0] == 1).all() and (found["conv"][1] == 0).all()
    assert about == {"conv": "three numbers"}
    held, good = load_file(path), path.read_bytes()
    for damage in (
        lambda: path.write_bytes(good[:-4]),
        lambda: path.write_bytes(b""),
        lambda: save_file(held, path),
        lambda: save_file(held, path, metadata={"pictures": json.dumps([["a", 0]])}),
        lambda: save_file(held, path, metadata={"pictures": "[[1]]"}),
        lambda: save_file(held, path, metadata={"pictures": json.dumps(order), "about": "[1]"}),
        lambda: save_file({"conv.before": held["conv.before"]}, path, metadata={"pictures": '[["a", 0], ["b", 1]]'}),
        path.unlink,
    ):
        damage()
        with pytest.raises(InputError, match="damaged"):
            read_features(path)
