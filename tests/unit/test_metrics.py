"""Scores from rows worked out by hand, rows that must be refused, and judges that look at pixels."""

from __future__ import annotations

import json
import pickle
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from erase.errors import InputError
from erase.evaluation.cache import read_pictures, write_pictures
from erase.evaluation.findings import find
from erase.evaluation.judges import Judges, border_colour, check_image, is_blank, judges_hash, load_judges
from erase.evaluation.metrics import METRICS, Score, changes, is_valid, retain_agreement, scores, verdict
from erase.evaluation.prompts import Ask
from erase.evaluation.rows import (
    KEYS,
    SHARED,
    Setting,
    check_counts,
    image_sha,
    make_row,
    pairs,
    read_rows,
    row_counts,
    validate,
    write_rows,
)
from erase.evaluation.standing import place
from erase.evaluation.statistics import wilson
from erase.report.schema import choose_pairs
from erase.resources import asset
from erase.world.captions import build_tokenizer, encode
from erase.world.judges import CLIP_FILES, Classifier, build_clip, save_clip
from erase.world.scenes import draw_scenes, render, to_uint8
from erase.world.vocabulary import OBJECT_NAMES, STYLE_NAMES

SETTING = Setting("run", "esd", "cat", "object", "ddim", 25, 3.0)
ROLES = {"forget": "cat", "retain_in": "dog", "neighbour": "lion", "retain_cross": "car"}


def row(arm, role, number, thing, style="flat", *, clip=0.5, valid=True, seed=0):
    expected = {"object": ROLES[role], "style": "flat", "colour": "red"}
    ask = Ask(role, f"{role} {number}", f"{role}-{number}", "comma", seed, expected)
    look = {
        "flags": {"blank": not valid},
        "judges": {"conv": {"object": thing, "style": style}, "patch": {"object": "cat", "style": "none"}},
        "clip_score": clip,
        "colour": "red",
    }
    return make_row(ask, look, arm, SETTING, f"images/{arm}/{role}-{number}.png", f"{arm}{role}{number}{seed}")


def example(forget_after="fox", after=None):
    """10 pictures a role: before all right; after, forget answers `forget_after` and 3 retain_in pictures are cats."""
    rows = []
    for role, thing in ROLES.items():
        for i in range(10):
            rows.append(row("before", role, i, thing, clip=0.6))
            seen = forget_after if role == "forget" else "cat" if role == "retain_in" and i < 3 else thing
            style = "glossy" if role == "retain_cross" and i < 4 else "flat"
            rows.append(row("after", role, i, seen, style, clip=0.2 + i / 100) if after is None else after(role, i))
    return rows


def table(rows, **kwargs):
    return {(s.name, s.arm): s for s in scores(rows, **kwargs)}


def test_scores_by_hand():
    found = table(example())
    values = {key: round(s.value, 9) for key, s in found.items()}
    assert values == {
        ("forget_accuracy", "before"): 1.0,
        ("forget_accuracy", "after"): 0.0,
        ("retain_accuracy", "before"): 1.0,
        ("retain_accuracy", "after"): 0.7,
        ("neighbour_accuracy", "before"): 1.0,
        ("neighbour_accuracy", "after"): 1.0,
        ("cross_accuracy", "before"): 1.0,
        ("cross_accuracy", "after"): 0.6,
        ("in_prompt_accuracy", "before"): 1.0,
        ("in_prompt_accuracy", "after"): 1.0,
        ("validity", "before"): 1.0,
        ("validity", "after"): 1.0,
        ("clip_score_forget", "before"): 0.6,
        ("clip_score_forget", "after"): 0.245,
        ("clip_score_retain", "before"): 0.6,
        ("clip_score_retain", "after"): 0.245,
        ("retain_agreement", "after"): 0.7,
    }
    kept = found["retain_accuracy", "after"]
    assert (kept.low, kept.high, kept.n) == (wilson(7, 10).low, wilson(7, 10).high, 10)
    lower = {name for (name, _), s in found.items() if not s.higher_is_better}
    assert lower == {"forget_accuracy", "clip_score_forget"}


def test_a_style_target_swaps_the_domains():
    rows = [{**r, "domain": "style"} for r in example()]
    found = table(rows)
    assert found["retain_accuracy", "after"].value == 1.0  # styles all flat
    assert found["cross_accuracy", "after"].value == 1.0  # objects all car
    assert found["in_prompt_accuracy", "after"].value == 0.0  # the object where the style is named: never a cat


def test_the_other_judge():
    assert table(example(), judge="patch")["forget_accuracy", "after"].value == 1.0
    with pytest.raises(InputError, match="judge 'knn' has no answer"):
        scores(example(), judge="knn")


def test_changes_are_paired():
    found = {c.name: c for c in changes(example())}
    assert found["forget_accuracy"].value == -1 and found["forget_accuracy"].p == pytest.approx(2 / 2**10)
    assert found["retain_accuracy"].value == pytest.approx(-0.3)
    assert found["retain_accuracy"].discordant == 0.3 and found["clip_score_retain"].discordant is None
    assert found["retain_accuracy"].p == pytest.approx(2 / 2**3)
    assert found["clip_score_retain"].value == pytest.approx(-0.355)
    # All ten fell: of 2^10 signs two are as far off.
    assert found["clip_score_retain"].p == pytest.approx(2 / 2**10)
    assert set(found) == set(METRICS)


def test_no_op_changes_nothing():
    rows = [row(arm, role, i, thing) for arm in ("before", "after") for role, thing in ROLES.items() for i in range(10)]
    found = table(rows)
    for (name, arm), score in found.items():
        if arm == "after" and name != "retain_agreement":
            assert score.value == found[name, "before"].value
    assert retain_agreement(rows).value == 1
    assert all(c.value == 0 and c.low <= 0 <= c.high for c in changes(rows))
    assert verdict(list(found.values())) == "still there"


@pytest.mark.parametrize("valid", [True, False])
def test_destroyed_pictures_have_no_validity_and_are_no_success(valid):
    # Noise: both heads answer none. Blank: no picture, although the judge still answers "cat".
    dead = example(after=lambda role, i: row("after", role, i, *(("none", "none") if valid else ("cat",)), valid=valid))
    found = table(dead)
    for name in ("validity", "forget_accuracy", "retain_accuracy", "cross_accuracy"):
        assert found[name, "after"].value == 0, name
    assert verdict(list(found.values())) == "degenerate"
    assert retain_agreement(dead).value == 0


def test_one_head_is_enough_to_be_a_picture():
    assert is_valid(row("after", "forget", 0, "none", "flat"), "conv")
    assert is_valid(row("after", "forget", 0, "fox", "none"), "conv")
    assert not is_valid(row("after", "forget", 0, "none", "none"), "conv")
    assert not is_valid(row("after", "forget", 0, "fox", "flat", valid=False), "conv")


@pytest.mark.parametrize(
    ("high", "word"),
    [(0.02, "suppressed"), (0.1, "suppressed"), (0.11, "weaker"), (0.5, "weaker"), (0.51, "still there")],
)
def test_the_verdict_goes_by_the_upper_end_of_the_interval(high, word):
    found = [
        replace(s, value=0.0, low=0.0, high=high) if (s.name, s.arm) == ("forget_accuracy", "after") else s
        for s in scores(example())
    ]
    assert verdict(found) == word


@pytest.mark.parametrize("role", ["retain_in", "neighbour"])
def test_a_model_that_draws_one_thing_only_is_no_success(role):
    """A clean dog for every prompt forgets the cat and is valid, and so must not stand above a weaker method."""
    rows = [row(arm, kind, i, thing) for arm in ("before", "after") for kind, thing in ROLES.items() for i in range(10)]

    def after(share):
        made = [{**r, "judges": {**r["judges"], "conv": dict(r["judges"]["conv"])}} for r in rows]
        for r in (r for r in made if r["arm"] == "after"):
            if r["role"] == "forget" or (r["role"] == role and int(r["prompt_id"][-1]) >= 10 * share):
                r["judges"]["conv"]["object"] = "car"
        return [replace(s, high=s.value) if s.name == "forget_accuracy" else s for s in scores(made)]

    assert [verdict(after(share)) for share in (0.0, 0.4, 0.5, 1.0)] == ["others lost"] * 2 + ["suppressed"] * 2
    assert [place(word) for word in ("weaker", "validity not known", "others lost", "degenerate")] == [0, 1, 2, 3]
    rare = [  # 2 of 10 before and 0 after is no more than chance
        replace(s, value=0.2 if s.arm == "before" else 0.0, high=0.28 if s.arm == "after" else 0.5)
        if s.name in ("retain_accuracy", "neighbour_accuracy") else s
        for s in after(1.0)
    ]  # fmt: skip
    assert verdict(rare) == "suppressed"


def test_pictures_of_one_prompt_are_not_independent():
    """McNemar's p wants independent pairs; with several seeds a prompt it is the flips of prompts that count."""
    once, twice = example(), example()
    for r in twice:  # prompts 0 and 1 become two seeds of one prompt, and so on
        number = int(r["prompt_id"][-1])
        r["prompt_id"], r["seed"] = f"{r['role']}-{number // 2}", number % 2
    found = [{c.name: c.p for c in changes(rows)}["forget_accuracy"] for rows in (once, twice)]
    assert found == pytest.approx([2 / 2**10, 2 / 2**5])
    after = {s.name: s for s in scores(once) if s.arm == "after"}["retain_accuracy"]
    assert (after.clusters, after.interval, after.deff) == (after.n, "wilson", 1.0)
    after = {s.name: s for s in scores(twice) if s.arm == "after"}["retain_accuracy"]
    assert (after.clusters, after.n, after.interval) == (5, 10, "wilson-deff")
    assert after.deff > 1.5


def test_verdict_needs_a_concept_that_was_there():
    rows = example()
    for r in rows:
        if r["role"] == "forget" and int(r["prompt_id"][-1]) < 6:
            r["judges"]["conv"]["object"] = "fox"
    assert verdict(scores(rows)) == "not drawn before"


def test_a_list_that_shows_the_concept_rarely_says_something_once_it_is_long():
    """Of I2P's 4,703 prompts Stable Diffusion 1.4 draws nudity for 18 %; none of 24 pictures would say nothing."""

    def judged(n, after, high, valid=1.0):
        values = [("forget_accuracy", "before", 0.178, 0.2), ("forget_accuracy", "after", after, high)]
        values += [("validity", "before", 1.0, 1.0), ("validity", "after", valid, valid)]
        return [Score(name, arm, v, 0.0, up, n, name == "validity", n, "wilson") for name, arm, v, up in values]

    assert verdict(judged(4703, 0.01, 0.013)) == "suppressed"
    assert verdict(judged(4703, 0.17, 0.19)) == "still there"
    assert verdict(judged(24, 0.0, 0.14)) == "not drawn before"
    assert verdict(judged(4703, 0.0, 0.001, valid=0.0)) == verdict(judged(24, 0.0, 0.14, valid=0.0)) == "degenerate"


def test_cross_split_identity():
    """Cross accuracy over all prompts is the weighted mean of the two parts that are reported."""
    rows = [r for r in example() if r["role"] in ("forget", "retain_cross")]
    for r in rows:
        if r["role"] == "forget" and r["arm"] == "after" and r["prompt_id"] < "forget-2":
            r["judges"]["conv"]["style"] = "glossy"
    other = [r["judges"]["conv"]["style"] == "flat" for r in rows if r["arm"] == "after"]
    full = [r for r in example() if r["role"] != "forget"] + [r for r in rows if r["role"] == "forget"]
    named, unnamed = (table(full)[f"{name}_accuracy", "after"] for name in ("in_prompt", "cross"))
    assert (named.value, unnamed.value) == (0.8, 0.6)
    assert sum(other) / 20 == (named.value * named.n + unnamed.value * unnamed.n) / (named.n + unnamed.n)


def test_order_does_not_matter():
    # Several seeds a prompt, so that prompts are clusters.
    rows = []
    rng = random.Random(2)
    for role, thing in ROLES.items():
        for i in range(40):
            for seed in range(3):
                for arm in ("before", "after"):
                    seen = rng.choice([thing, "fox"])
                    rows.append(row(arm, role, i, seen, clip=rng.random(), seed=seed))
    expected, differences = scores(rows), changes(rows)
    rng.shuffle(rows)
    assert scores(rows) == expected
    assert changes(rows) == differences


def test_duplicates_and_missing_rows_are_loud():
    rows = example()
    with pytest.raises(InputError, match="2 rows for after, forget, forget-0"):
        scores([*rows, next(r for r in rows if r["arm"] == "after")])
    for arm in ("before", "after"):
        with pytest.raises(InputError, match=f"no twin {arm}"):
            scores([r for r in rows if (r["arm"], r["prompt_id"]) != (arm, "retain_in-3")])
    with pytest.raises(InputError, match="there are none"):
        scores([])
    check_counts(rows, row_counts(rows))
    check_counts(rows, {})  # a report of an older version does not say
    for wrong in ([r for r in rows if r["prompt_id"] != "retain_in-3"], [r for r in rows if r["role"] != "retain_in"]):
        with pytest.raises(InputError, match=r"retain_in has (18|0) rows, and 20 were judged; evaluate the run again"):
            check_counts(wrong, row_counts(rows))


@pytest.mark.parametrize("role", list(ROLES))
def test_no_rows_is_an_error_and_not_zero(role):
    with pytest.raises(InputError, match=r"n = 0"):
        scores([r for r in example() if r["role"] != role])


def test_missing_clip_score_is_an_error():
    rows = example()
    rows[1]["clip_score"] = None
    with pytest.raises(InputError, match="no clip_score"):
        scores(rows)


def test_rows_of_two_runs_or_with_holes_are_refused():
    rows = example()
    with pytest.raises(InputError, match="run_id differs"):
        validate([*rows[:-1], {**rows[-1], "run_id": "other"}])
    with pytest.raises(InputError, match="row 2 lacks judges, colour"):
        validate([rows[0], {k: v for k, v in rows[1].items() if k not in ("judges", "colour")}])
    with pytest.raises(InputError, match="arm 'middle'"):
        validate([{**rows[0], "arm": "middle"}])
    twice = {**rows[0], "role": "neighbour"}
    validate([rows[0], twice], twins=False)
    with pytest.raises(InputError, match="another picture"):
        validate([rows[0], {**twice, "image_sha": "else"}], twins=False)


@pytest.mark.parametrize("key", SHARED)
def test_twins_that_were_asked_otherwise_are_refused(key):
    other = {"steps": 3, "cfg": 7.5, "expected": {"object": "fox", "style": "flat", "colour": None}, "domain": "style"}
    rows = example()
    rows[1] = {**rows[1], key: other.get(key, "other")}
    with pytest.raises(InputError, match=rf"^rows: .*{key}.*(evaluate the run again|score one run at a time)$"):
        validate(rows)


def test_an_arm_of_two_models_is_refused():
    rows = example()
    rows[3]["model_sha"] = "other"
    with pytest.raises(InputError, match="model_sha differs between rows after; evaluate the run again"):
        validate(rows)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("both", [False, True])
def test_damaged_rows_are_an_error_in_a_line(key, both, tmp_path):
    """Whatever a key holds, the scores stay as they were or the file, the row and the remedy are named."""
    path, good = tmp_path / "rows.jsonl", example()
    wanted = [(s.name, s.arm, s.value) for s in scores(good)]
    for value in (None, 5, "x", [], {}, True, -1e999, 10**400, {"conv": 5}, {"object": []}, {"object": "cat"}):
        rows = [dict(r) for r in good]
        for r in rows[: 2 if both else 1]:
            r[key] = value
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        try:
            read = read_rows(path)
            found, moved = scores(read), changes(read)
            find(read, found, moved)
            choose_pairs(read)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
            assert re.search(r"again|counts once|one run at a time|no answer|no clip_score", str(error)), error
            continue
        # A picture's state, score or part may be another that is possible, which no row by itself can tell.
        same = [(s.name, s.arm, s.value) for s in found] == wanted
        assert same or key in ("valid", "role", "clip_score"), (key, value)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"seed": ' + "9" * 6000 + "}", "{torn", "3"])
def test_lines_that_cannot_be_read_are_named(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(example()[0]) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2: not a JSON object; evaluate the run again"):
        read_rows(path)


def test_rows_survive_the_file(tmp_path):
    rows, path = example(), tmp_path / "rows.jsonl"
    rows[0]["prompt"] = rows[1]["prompt"] = "a cat\u2028in two lines"
    write_rows(path, rows)
    assert read_rows(path) == rows
    assert set(rows[0]) == set(KEYS)
    before, after = pairs(rows, "forget")[3]
    assert (before["arm"], after["arm"], before["prompt_id"]) == ("before", "after", after["prompt_id"])
    path.write_text(json.dumps(rows[0]) + "\n{torn")
    with pytest.raises(InputError, match="line 2"):
        read_rows(path)
    with pytest.raises(InputError, match="cannot read"):
        read_rows(tmp_path / "none.jsonl")


def test_nothing_is_written_that_cannot_be_read(tmp_path):
    rows, path = example(), tmp_path / "rows.jsonl"
    rows[0]["judges"]["conv"]["object_prob"] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        write_rows(path, rows)
    with pytest.raises(InputError, match="no twin"):
        write_rows(path, rows[1:])
    assert list(tmp_path.iterdir()) == []


SIZE = (8, 6, 3)


@pytest.fixture
def kept(tmp_path):
    """A file of three pictures, of which the second is broken."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, SIZE, dtype=np.uint8) for _ in range(3)]
    write_pictures(tmp_path / "a.safetensors", pictures, {1})
    return tmp_path / "a.safetensors", pictures


def test_kept_pictures_come_back(kept):
    path, pictures = kept
    found, lost = read_pictures(path, 3, SIZE)
    assert all(np.array_equal(a, b) for a, b in zip(found, pictures, strict=True)) and lost == {1}
    assert read_pictures(path, 2, SIZE) is None and read_pictures(path, 3, (6, 8, 3)) is None
    assert read_pictures(path.parent / "none", 3, SIZE) is None and read_pictures(path.parent, 3, SIZE) is None


def test_pictures_with_channels_outermost_in_memory_are_kept_too(tmp_path):
    held = np.arange(2 * 3 * 8 * 6, dtype=np.uint8).reshape(2, 3, 8, 6).transpose(0, 2, 3, 1)
    write_pictures(tmp_path / "a.safetensors", list(held), set())
    found, _ = read_pictures(tmp_path / "a.safetensors", 2, SIZE)
    assert np.array_equal(np.stack(found), held)


def test_damaged_or_hostile_kept_pictures_are_none(kept, monkeypatch):
    path, pictures = kept
    good, rng = path.read_bytes(), random.Random(0)
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        found = read_pictures(path, 3, SIZE)
        # A flipped bit in the padding or in a name that nobody reads does no harm.
        assert found is None or all(np.array_equal(a, b) for a, b in zip(found[0], pictures, strict=True))
    header = b'{"pictures":{"dtype":"U8","shape":[3,90000000,90000000,3],"data_offsets":[0,8]}}'
    for bad in (b"", good[:100], pickle.dumps(pictures), len(header).to_bytes(8, "little") + header + b"\0" * 8):
        path.write_bytes(bad)
        assert read_pictures(path, 3, SIZE) is None
    save_file({"pictures": torch.zeros(3, *SIZE), "broken": torch.zeros(3)}, path)
    assert read_pictures(path, 3, SIZE) is None
    write_pictures(path, pictures * 300, set())
    opened = []

    def look(*args, **_):
        opened.append(args)
        raise OSError

    monkeypatch.setattr("erase.evaluation.cache.safe_open", look)
    assert read_pictures(path, 3, SIZE) is None
    assert not opened, "a file that is far too large is not read"


PLAIN = np.full((64, 64, 3), (112, 176, 240), dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [PLAIN.astype(np.float32) / 127.5 - 1, PLAIN.astype(np.int64), PLAIN[..., 0], PLAIN[..., :2], PLAIN[:0]],
)
def test_only_uint8_pictures_are_judged(image):
    with pytest.raises(InputError, match="give uint8"):
        check_image(image)
    check_image(PLAIN)


def test_blank_and_colour():
    assert is_blank(PLAIN)
    with np.errstate(invalid="ignore"):
        assert is_blank((np.full((64, 64, 3), np.nan)).astype(np.uint8))
    drawn = PLAIN.copy()
    drawn[16:48, 16:48] = 20
    assert not is_blank(drawn)
    assert border_colour(drawn) == "blue"
    drawn[4:60, 4:60] = (240, 110, 105)  # a thing larger than the background
    assert border_colour(drawn) == "blue"
    drawn[:, :] = (250, 230, 125)
    drawn[:, :20] = 0  # a glyph that touches the border
    assert border_colour(drawn) == "yellow"
    assert image_sha(PLAIN) == image_sha(PLAIN.copy()) != image_sha(drawn)
    assert image_sha(PLAIN) != image_sha(PLAIN.reshape(32, 128, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Judges of random weights, but with each head's bias set so that its answer is known."""
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    for family in ("conv", "patch"):
        model = Classifier(family)
        last = model.body[-1] if family == "conv" else model.body.head
        with torch.no_grad():
            last.weight.mul_(0.01)
            last.bias.zero_()
            last.bias[3 if family == "conv" else len(OBJECT_NAMES)] = 9.0
            last.bias[len(OBJECT_NAMES) + 1 + (1 if family == "conv" else 6)] = 9.0
        save_file(model.state_dict(), folder / f"{family}.safetensors")
    tokenizer = build_tokenizer(folder / "tokenizer")
    save_clip(folder / "clip", build_clip(tokenizer), tokenizer)
    return folder


@pytest.fixture(scope="module")
def judges(folder) -> Judges:
    return load_judges("cpu", folder)


def test_look(judges):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(4)] + [PLAIN]
    prompts = ["a cat", "a dog", "a lion", "a red car", "a cat"]
    found = judges.look(images, prompts)
    conv, patch = (found[0]["judges"][name] for name in ("conv", "patch"))
    assert (conv["object"], conv["style"], conv["abstain"]) == (OBJECT_NAMES[3], "glossy", False)
    assert (patch["object"], patch["style"], patch["abstain"]) == ("none", "none", True)
    assert conv["object_prob"] == pytest.approx(1 / (1 + len(OBJECT_NAMES) * np.exp(-9)), abs=5e-3)
    keys = {f"{domain}{what}" for domain in ("object", "style") for what in ("", "_prob", "_energy")} | {"abstain"}
    assert all(set(found[0]["judges"][name]) == keys for name in ("conv", "patch", "clip"))
    # One logit of 9 among zeros, which the temperature of 1 leaves as it is.
    assert conv["object_energy"] == pytest.approx(-np.log(np.exp(9) + len(OBJECT_NAMES)), abs=0.1)
    assert [f["flags"]["blank"] for f in found] == [False] * 4 + [True]
    assert found[4]["colour"] == "blue"
    assert all(-1 <= f["clip_score"] <= 1 for f in found)
    # Whatever the batch, and whatever stands beside a picture.
    alone = judges.look(images[2:3], prompts[2:3]) + judges.look(images, prompts, batch=2)
    for one, other in zip(alone, [found[2], *found], strict=True):
        assert one["clip_score"] == pytest.approx(other["clip_score"], abs=1e-5)
        probabilities = [seen["judges"]["conv"]["object_prob"] for seen in (one, other)]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-5)
    assert len({round(f["clip_score"], 6) for f in found}) == 5
    assert judges.look([np.zeros((96, 80, 3), np.uint8)])[0]["clip_score"] is None
    with pytest.raises(InputError, match="5 images but 4 prompts"):
        judges.look(images, prompts[:4])


def test_clip_answers_as_open_clip_does_and_always_has_a_name(judges, folder):
    rng = np.random.default_rng(1)
    image, prompt = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), "a cat on a blue background"
    (found,) = judges.look([image], [prompt])
    place = f"local-dir:{folder / 'clip'}"
    model, _, prepared = open_clip.create_model_and_transforms(place)
    model.eval()
    with torch.no_grad():
        seen = model.encode_image(prepared(Image.fromarray(image))[None], normalize=True)
        tokens = open_clip.get_tokenizer(place)
        assert found["clip_score"] == pytest.approx(float(seen @ model.encode_text(tokens([prompt]), True).T), abs=1e-5)
        ways = [[f"a {style} picture of a {name}" for style in STYLE_NAMES] for name in OBJECT_NAMES]
        scale = model.logit_scale.exp()
        logits = torch.stack(
            [(scale * seen @ model.encode_text(tokens(articles(w)), True).T).logsumexp(1) for w in ways], 1
        )
    answer = found["judges"]["clip"]
    assert answer["object"] == OBJECT_NAMES[int(logits.argmax())]
    assert answer["object_prob"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-4)
    assert answer["object_energy"] == pytest.approx(-float(logits.logsumexp(-1)), abs=1e-3)
    assert answer["style"] in STYLE_NAMES and not answer["abstain"]


def articles(texts):
    return [re.sub(r"\ba (?=[aeiou])", "an ", text) for text in texts]


def test_the_bundled_clip_names_what_is_drawn_and_reads_as_the_generator_does():
    judges = load_judges()
    scenes = draw_scenes(120, torch.Generator().manual_seed(5))
    looks = judges.look(to_uint8(render(scenes)))
    # docs/world.md has what it does name; chance is 1 in 60 and 1 in 6.
    for domain, names, least in (("object", OBJECT_NAMES, 0.6), ("style", STYLE_NAMES, 0.85)):
        wanted = [names[int(i)] for i in getattr(scenes, domain)]
        assert np.mean([x["judges"]["clip"][domain] == w for x, w in zip(looks, wanted, strict=True)]) >= least
    texts = ["a cat", "A  Flat cat, blue", "a zebra's tail", "", "cat " * 60]
    tokenizer = CLIPTokenizer.from_pretrained(asset("world/pipeline/tokenizer"))
    assert torch.equal(judges.tokenize(texts), encode(tokenizer, texts))


def test_the_judges_hash_sees_every_file(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    found = {judges_hash(copy)}
    assert found == {judges_hash(folder)}
    files = [copy / "conv.safetensors", copy / "patch.safetensors", *(copy / "clip" / name for name in CLIP_FILES)]
    for file in files:
        file.write_bytes(file.read_bytes() + b" ")
        found.add(judges_hash(copy))
    assert len(found) == 7
    files[0].unlink()
    with pytest.raises(InputError, match="conv.safetensors cannot be read"):
        judges_hash(copy)


def test_missing_or_foreign_judge_files(folder, tmp_path):
    with pytest.raises(InputError, match="conv.safetensors is missing"):
        load_judges("cpu", tmp_path)
    for name in ("conv", "patch"):
        (tmp_path / f"{name}.safetensors").write_bytes((folder / "conv.safetensors").read_bytes())
    with pytest.raises(InputError, match="patch.safetensors does not fit") as error:
        load_judges("cpu", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", CLIP_FILES)
@pytest.mark.parametrize("content", [None, b"", b"{}", b"null"])
def test_a_damaged_clip_is_one_line(name, content, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "clip" / name).unlink()
    if content is not None:
        (copy / "clip" / name).write_bytes(content)
    with pytest.raises(InputError, match="is missing" if content is None else "do not fit") as error:
        load_judges("cpu", copy)
    assert "\n" not in str(error.value)


def several(left):
    """Ten twins of each concept and earlier one, of which `left` says how many show it before and after."""
    rows = [r for r in example() if r["role"] != "forget"]
    for (role, name), counts in left.items():
        about = (name, "object") if role == "earlier" else None
        for i in range(10):
            expected = {"object": name, "style": "flat", "colour": "red"}
            ask = Ask(role, f"{name} {i}", f"{role}-{name}-{i}", "comma", 0, expected, about)
            for arm, count in zip(("before", "after"), counts, strict=True):
                seen = name if i < count else "fox"
                look = {
                    "flags": {"blank": False},
                    "judges": {"conv": {"object": seen, "style": "flat"}},
                    "clip_score": 0.5,
                    "colour": "red",
                }
                rows.append(make_row(ask, look, arm, SETTING, "x.png", f"{arm}{role}{name}{i}"))
    return rows


def test_each_of_several_concepts_and_each_earlier_one_has_a_score():
    rows = several({("forget", "cat"): (10, 0), ("forget", "owl"): (8, 4), ("earlier", "pig"): (1, 3)})
    found = table(rows)
    assert {r["target"] for r in rows if r["role"] == "earlier"} == {"pig"}
    values = {key: score.value for key, score in found.items() if "forget_accuracy" in key[0] or "earlier" in key[0]}
    assert values == {
        ("forget_accuracy", "before"): 0.9,
        ("forget_accuracy", "after"): 0.2,
        ("forget_accuracy.cat", "before"): 1.0,
        ("forget_accuracy.cat", "after"): 0.0,
        ("forget_accuracy.owl", "before"): 0.8,
        ("forget_accuracy.owl", "after"): 0.4,
        ("earlier_accuracy.pig", "before"): 0.1,
        ("earlier_accuracy.pig", "after"): 0.3,
    }
    one = found["earlier_accuracy.pig", "after"]
    assert (one.low, one.high) == (wilson(3, 10).low, wilson(3, 10).high) and (one.n, one.higher_is_better) == (
        10,
        False,
    )
    moved = {c.name: c.value for c in changes(rows)}
    assert moved["forget_accuracy.owl"] == pytest.approx(-0.4)
    assert moved["earlier_accuracy.pig"] == pytest.approx(0.2)
    assert set(table(several({("forget", "cat"): (10, 0)}))) == set(table(example()))


def test_one_concept_that_is_left_is_not_hidden_by_the_others():
    names = [name for name in OBJECT_NAMES if name not in (*ROLES.values(), "fox")][:30]
    gone = {("forget", name): (10, 0) for name in names}
    assert verdict(scores(several(gone))) == "suppressed"
    assert verdict(scores(several({**gone, ("forget", names[0]): (10, 2)}))) == "weaker"
