"""report.json that refuses nonsense, a page that is one file and escapes everything, and the model card."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from PIL import Image

from erase.errors import InputError
from erase.evaluation.findings import Findings, Retention
from erase.evaluation.metrics import METRICS, Change, Score, changes, scores
from erase.evaluation.prompts import Ask
from erase.evaluation.rows import Setting, make_row
from erase.report.card import write_card
from erase.report.entries import FindingsEntry, RoleEntry
from erase.report.html import embed, headline, limits, write_html
from erase.report.plots import losses_svg, read_steps, smooth
from erase.report.schema import Pair, Picture, build_report, choose_pairs, read_report, write_report
from erase.report.words import lead

NASTY = "<script>alert('x')</script> & \"cat\" | ```y`"
CONFIG = {
    "model": "world",
    "concept": {"name": "cat", "keep": ["dog"]},
    "method": {"name": "esd"},
    "train": {"optimizer": "dual"},
}


def rows(prompt="a cat", count=12):
    setting, found = Setting("run-1", "esd", "cat", "object", "ddim", 25, 3.0), []
    for role, thing in {"forget": "cat", "retain_in": "dog", "neighbour": "lion", "retain_cross": "car"}.items():
        for i in range(count):
            for arm in ("before", "after"):
                seen = "fox" if role == "forget" and arm == "after" and i else thing
                look = {
                    "flags": {"blank": False},
                    "judges": {"conv": {"object": seen, "style": "flat"}},
                    "clip_score": 0.5 if arm == "before" else 0.4,
                    "colour": "red",
                }
                expected = {"object": thing, "style": "flat", "colour": "red"}
                ask = Ask(role, f"{prompt} {i}", f"{role}-{i:02}", "comma", 0, expected)
                found.append(make_row(ask, look, arm, setting, f"images/{arm}/{role}-{i:02}.png", f"{arm}{role}{i}"))
    return found


def report(prompt="a cat", **changed):
    table = rows(prompt)
    values = {
        "run_id": "run-1",
        "environment": {"torch": "2.15", "weights": {"unet": "abc"}},
        "config": CONFIG,
        "guards": {"changed_tensors": 3, "probe_changed": True},
        "scores": scores(table),
        "changes": changes(table),
        "images": choose_pairs(table),
        "timings": {"train": 1.5},
    }
    return build_report(**{**values, **changed})


@pytest.fixture
def run(tmp_path):
    """A run folder with pictures, events and a report whose every text is hostile."""
    folder = tmp_path / "run"
    for row in rows():
        path = folder / row["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 90 if row["arm"] == "before" else 200, np.uint8)).save(path)
    events = [
        {"event": "step", "step": s, "role": r, "loss": 1 / (s + 1)} for s in range(20) for r in ("forget", "retain")
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '{"event": "st')
    config = {**CONFIG, "concept": {"name": NASTY}, "note": NASTY}
    table = [*scores(rows(NASTY)), Score("attack.<b>a|b", "after", 0.5, 0.4, 0.6, 10, False, 10, "wilson")]
    hostile = report(
        NASTY, scores=table, config=config, environment={NASTY: NASTY}, guards={NASTY: NASTY}, run_id=NASTY
    )
    write_report(folder / "report.json", hostile)
    return folder


def test_report_survives_the_file(tmp_path):
    built = report()
    path = write_report(tmp_path / "report.json", built)
    assert read_report(path) == built
    stored = json.loads(path.read_text())
    assert stored["schema"] == 1
    keys = ["name", "arm", "value", "low", "high", "n", "higher_is_better", "clusters", "interval", "deff"]
    keys += ["p", "p_holm"]
    assert list(stored["scores"][0]) == keys
    assert (stored["scores"][0]["clusters"], stored["scores"][0]["interval"]) == (12, "wilson")
    assert {s["name"] for s in stored["scores"]} == {*METRICS, "retain_agreement"}


GOOD = Score("validity", "after", 0.5, 0.4, 0.6, 10, True, 10, "wilson")


@pytest.mark.parametrize(
    ("scores_", "match"),
    [
        ([Score("validity", "after", 0.5, 0.6, 0.7, 10, True, 10, "wilson")], "lies outside"),
        ([Score("validity", "after", float("nan"), 0.4, 0.6, 10, True, 10, "wilson")], "finite"),
        ([Score("validity", "after", 0.5, 0.4, 0.6, 0, True, 10, "wilson")], "greater than or equal to 1"),
        ([GOOD, GOOD], "listed twice: validity after"),
    ],
)
def test_scores_that_the_form_refuses(scores_, match):
    with pytest.raises(InputError, match=match) as error:
        report(scores=scores_)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.png", "images/../../x", "C:/x.png", "https://a/b.png", "a\\b", ""]
)
def test_pictures_lie_inside_the_run(path, tmp_path):
    stored = json.loads(report().model_dump_json(by_alias=True))
    stored["images"][0]["before"]["path"] = path
    (tmp_path / "report.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="inside the run folder"):
        read_report(tmp_path / "report.json")


def test_reports_that_cannot_be_read(tmp_path):
    path = tmp_path / "report.json"
    with pytest.raises(InputError, match="evaluate the run first"):
        read_report(path)
    path.write_text("{")
    with pytest.raises(InputError, match="evaluate the run again"):
        read_report(path)
    path.write_text(report().model_dump_json(by_alias=True).replace('"schema":1', '"schema":2'))
    with pytest.raises(InputError, match="schema"):
        read_report(path)


def test_nan_among_the_guards_is_not_written(tmp_path):
    with pytest.raises(InputError, match="NaN"):
        write_report(tmp_path / "report.json", report(guards={"relative_change": float("nan")}))
    assert not (tmp_path / "report.json").exists()


def test_pairs_are_spread_and_marked():
    pairs = choose_pairs(rows(), shown={"forget": 4, "retain_in": 100})
    forget = [p for p in pairs if p.role == "forget"]
    assert [p.prompt for p in forget] == ["a cat 0", "a cat 3", "a cat 6", "a cat 9"]
    # Picture 0 still shows a cat after; the others show a fox, which is what one hopes for.
    assert [(p.before.good, p.after.good, p.after.answer) for p in forget[:2]] == [
        (True, False, "cat"),
        (True, True, "fox"),
    ]
    assert len([p for p in pairs if p.role == "retain_in"]) == 12
    dead = rows()
    for row in dead:
        row["judges"]["conv"] = {"object": "none", "style": "none"}
    assert {(p.after.answer, p.after.good) for p in choose_pairs(dead)} == {("no picture", False)}


@pytest.mark.parametrize(("count", "places"), [(15, [0, 3, 7, 11]), (5, [0, 1, 2, 3]), (3, [0, 1, 2])])
def test_pairs_reach_the_end_of_the_prompts(count, places):
    shown = choose_pairs(rows(count=count), shown={"forget": 4})
    assert [int(p.prompt.removeprefix("a cat ")) for p in shown] == places


class Links(HTMLParser):
    """Every tag, and every attribute that could fetch something."""

    def __init__(self):
        super().__init__()
        self.tags, self.fetched, self.text = set(), [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.fetched += [
            v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
        ]
        assert not any(k.startswith("on") for k, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_page_is_one_file_and_escapes_everything(run):
    page = write_html(run).read_text()
    seen = Links()
    seen.feed(page)
    assert not seen.tags & {"script", "link", "iframe", "object", "embed", "base"}
    assert "<script" not in page
    assert all(v.startswith(("data:image/png;base64,", "#")) for v in seen.fetched), seen.fetched
    assert not re.search(r"@import|url\((?!#)", page)
    # The texts are there, as texts: kicker, headline, configuration, environment, guards, prompts.
    assert seen.text.count("<script>alert('x')</script>") >= 6
    shown = choose_pairs(rows())
    assert sum(v.startswith("data:") for v in seen.fetched) == 2 * len(shown) == 32


def test_page_says_what_the_report_says(run):
    page = write_html(run).read_text()
    # 1 of 12 after: 8 %; Wilson 1.5 to 35.4 %.
    assert "8\u00a0%" in page and "1 to 35\u00a0%" in page
    assert page.count("✕") == 1 + 1  # one picture, and the explanation
    assert page.count('<svg role="img"') == 2
    assert "forget loss" in page and "retain loss" in page
    assert page.count("<details>") == 3
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    (run / "images/after/forget-00.png").unlink()
    (run / "images/before/forget-00.png").write_bytes(b"no picture")
    assert write_html(run).read_text().count("picture not kept") == 2


@pytest.mark.parametrize(
    ("before", "after", "high", "valid", "kept", "words"),
    [
        (1.0, 0.02, 0.06, 1.0, 0.5, "suppressed on direct prompts"),
        (1.0, 0.02, 0.06, 1.0, 0.4, "Other concepts are lost"),
        (1.0, 0.9, 1.0, 1.0, 0.4, "Other concepts are lost"),
        (1.0, 0.02, 0.12, 1.0, 1.0, "drawn less on direct prompts, but 10 pictures are too few to say that it is gone"),
        (1.0, 0.2, 0.5, 1.0, 1.0, "weaker on direct prompts, but not gone"),
        (1.0, 0.4, 0.7, 1.0, 1.0, "drawn less on direct prompts, but 10 pictures are too few to say by how much"),
        (1.0, 0.02, 0.06, 0.1, 0.4, "destroyed"),
        (1.0, 0.3, 0.5, 1.0, 1.0, "not gone"),
        (1.0, 0.9, 1.0, 1.0, 1.0, "still there"),
        (0.5, 0.0, 0.27, 1.0, 1.0, "too rarely before"),
        (0.6, 0.0, 0.27, 1.0, 1.0, "10 pictures are too few to say that it is gone"),
        (0.2, 0.0, 0.1, 0.0, 0.4, "destroyed"),
        (0.2, 0.0, 0.1, 1.0, 0.4, "Other concepts are lost"),
    ],
)
def test_headline(before, after, high, valid, kept, words):
    table = [
        Score("forget_accuracy", "before", before, 0, 1, 10, False, 10, "wilson"),
        Score("forget_accuracy", "after", after, 0, high, 10, False, 10, "wilson"),
        Score("validity", "before", 1, 0, 1, 10, True, 10, "wilson"),
        Score("validity", "after", valid, 0, 1, 10, True, 10, "wilson"),
        Score("neighbour_accuracy", "before", 1, 0, 1, 10, True, 10, "wilson"),
        Score("neighbour_accuracy", "after", kept, 0, max(kept, 0.7), 10, True, 10, "wilson"),
    ]
    assert words in headline(report(scores=table))


def test_words_say_what_other_ways_to_ask_and_attacks_found():
    table = [
        Score("forget_accuracy", "before", 1, 0.9, 1, 40, False, 40, "wilson"),
        Score("forget_accuracy", "after", 0, 0, 0.09, 40, False, 40, "wilson"),
        Score("validity", "before", 1, 0, 1, 40, True, 40, "wilson"),
        Score("validity", "after", 1, 0, 1, 40, True, 40, "wilson"),
        Score("forget_synonym_rare_accuracy", "after", 0.6, 0.4, 0.8, 40, False, 40, "wilson"),
        Score("attack.p4d.excess", "after", 0.1, -0.1, 0.3, 8, False, 8, "tango", p=0.3, p_holm=0.3),
    ]
    roles = [
        RoleEntry(role="forget_synonym_rare", name="forget_synonym_rare_accuracy", before=0.9, n=40, drawn=True),
        RoleEntry(role="forget_lang", name="forget_lang_accuracy", before=0.1, n=40, drawn=False),
    ]
    plain = report(scores=table[:4])
    assert headline(plain) == "“cat” is suppressed on direct prompts."
    assert "under paraphrase, optimised prompts or fine-tuning: that was not tried" in limits(plain)[0]
    found = report(scores=table, findings=FindingsEntry(roles=roles))
    assert headline(found) == headline(plain)
    assert "60\u00a0%, before 90\u00a0%." in lead(found)[0] and "Asked for otherwise" in lead(found)[0]
    assert "No attack of 1 is sure to bring back more than its control" in lead(found)[0]
    assert "that were not tried or stronger ones" in limits(found)[0]
    table += [Score("attack.relearning.excess", "after", 0.5, 0.2, 0.8, 8, False, 8, "tango", p=0.01, p_holm=0.02)]
    found = report(scores=table)
    assert headline(found) == "“cat” is suppressed on direct prompts, but comes back under attack."
    table[1] = Score("forget_accuracy", "after", 0.02, 0, 0.12, 40, False, 40, "wilson")  # few, and it came back
    assert headline(report(scores=table)) == "“cat” is drawn less on direct prompts, but comes back under attack."
    assert "relearning +50\u00a0% [20 to 80\u00a0%]." in lead(found)[0] and "p4d" not in lead(found)[0]
    assert "on the prompts given" in headline(report(scores=table, prompt_files=[{"role": "forget", "name": "a.csv"}]))


def plain_pairs():
    """Pairs that nobody judged, as of a model that has no judges."""
    return [
        Pair(
            role=role,
            prompt=f"a {thing}",
            seed=0,
            expected=thing,
            before=Picture(path=f"images/before/{role}-00.png"),
            after=Picture(path=f"images/after/{role}-00.png"),
        )
        for role, thing in (("forget", "cat"), ("neighbour", "dog"))
    ]


def test_a_run_that_nobody_judged_has_a_page_and_a_card(run, tmp_path):
    write_report(run / "report.json", report(scores=[], changes=[], images=plain_pairs()))
    page = write_html(run).read_text()
    assert "Nothing was judged" in page and "erase eval" in page and "nothing has been judged" in page
    assert page.count("data:image/png") == 4
    assert "✓" not in page and "✕" not in page and "direct prompts" not in page
    assert "forget loss" in page
    (run / "events.jsonl").unlink()
    assert "<h2>Figures</h2>" not in write_html(run).read_text()
    text = write_card(run, tmp_path / "card").read_text()
    assert "Nothing was judged" in text and "| Score |" not in text and "before_after.png" in text


def test_a_run_without_a_report_has_a_card(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(InputError, match="cannot read .*config.yaml: No such file"):
        write_card(run, tmp_path / "card")
    (run / "config.yaml").write_text("{")
    with pytest.raises(InputError, match="cannot read .*config.yaml: it is no YAML"):
        write_card(run, tmp_path / "card")
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    text = write_card(run, tmp_path / "card").read_text()
    assert "# cat, erased" in text and "Nothing was judged" in text and "name: esd" in text


def test_damage_is_named_only_beyond_chance(tmp_path):
    """The interval of one change among many misses 0 too often; Holm's p decides."""
    damaged, unsure = "Damage beyond chance: other concepts drawn −20 points", "No damage is sure"
    for high, p_holm, said in ((-0.01, 0.04, damaged), (-0.01, 0.2, unsure), (0.01, 0.04, unsure)):
        change = Change("retain_accuracy", -0.2, -0.4, high, 12, 0.01, p_holm)
        write_report(tmp_path / "report.json", report(changes=[change]))
        page = write_html(tmp_path).read_text()
        assert [word for word in (damaged, unsure) if word in page] == [said]
    old = report(changes=[change]).changes[0].model_copy(update={"high": -0.01, "p_holm": None})
    assert unsure in lead(report().model_copy(update={"changes": [old]}))[-1], "without p nothing is claimed"


def test_where_no_damage_is_sure_the_verdicts_of_non_inferiority_stand():
    found = [
        Retention(name, -0.02, -0.05, 0.01, 0.05, verdict, None)
        for name, verdict in (
            ("retain_accuracy", "undecided"),
            ("neighbour_accuracy", "kept"),
            ("cross_accuracy", "undecided"),
        )
    ]
    said = lead(report(changes=[], findings=Findings(found, [], [], [], [])))[-1]
    assert said == (
        "Of what should stay, with a margin of 5 points, undecided: other concepts drawn, other domain drawn; "
        "kept: near concepts drawn."
    )


def test_what_earlier_runs_erased_comes_back_beyond_chance_only():
    for p_holm, told in ((0.04, True), (0.2, False)):
        back = Change("earlier_accuracy.dog", 0.3, 0.1, 0.5, 12, 0.01, p_holm)
        said = " ".join(lead(report(changes=[back], earlier=["dog"])))
        assert ("It came back: “dog”" in said) == told


def test_curves(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = [
        {"event": "started", "total": 4},
        {"event": "step", "step": 0, "role": "forget", "loss": 1.0},
        {"event": "step", "step": 2, "role": "forget", "loss": 9.0},
        {"event": "step", "step": 1, "role": "retain", "loss": 2.0},
        {"event": "step", "step": 2, "role": "forget", "loss": 3.0},
        {"event": "step", "step": 4, "role": "forget", "loss": float("nan")},
        {"event": "step", "step": 5, "role": "forget", "loss": None},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '5\n{"step": 6}\n{"event": "step", "ro')
    curves = read_steps(tmp_path)
    # Step 2 was run again after a resume: the later loss counts.
    assert {r: (s.tolist(), v.tolist()) for r, (s, v) in curves.items()} == {
        "forget": ([0, 2], [1.0, 3.0]),
        "retain": ([1], [2.0]),
    }
    assert "NaN" not in losses_svg(curves) and losses_svg({}) == ""
    assert read_steps(tmp_path / "none") == {}
    assert smooth(np.array([0.0, 3.0, 6.0, 3.0])).tolist() == [1.5, 3.0, 4.0, 4.5]


def test_large_pictures_are_embedded_smaller(tmp_path):
    Image.new("RGB", (900, 600)).save(tmp_path / "a.png")
    data, tiny = embed(tmp_path / "a.png")
    assert data.startswith("data:image/jpeg;base64,") and not tiny


def test_pictures_that_are_bombs_or_broken_are_not_shown(run, tmp_path, monkeypatch):
    good = (run / "images/before/forget-00.png").read_bytes()
    place = good.index(b"IDAT")
    # The length of the data as 0, and that of the header: neither is an OSError to PIL.
    (tmp_path / "data.png").write_bytes(good[: place - 1] + b"\0" + good[place:])
    (tmp_path / "header.png").write_bytes(good[:11] + b"\0" + good[12:])
    (tmp_path / "short.png").write_bytes(good[:20])
    (tmp_path / "large.png").write_bytes(good)
    for name in ("data", "header", "short"):
        assert embed(tmp_path / f"{name}.png") == ("", False), name
    assert embed(tmp_path / "large.png")[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a picture of twice that is an error
    assert embed(tmp_path / "large.png") == ("", False)
    write_report(run / "report.json", report())
    assert write_html(run).read_text().count("picture not kept") == 32
    write_card(run, tmp_path / "card")
    assert not (tmp_path / "card/before_after.png").exists()


def test_the_curves_count_rounds():
    figure = losses_svg({"forget": (np.arange(3), np.ones(3))})
    assert ">round<" in figure and "optimizer step" not in figure


def test_card(run, tmp_path):
    path = write_card(run, tmp_path / "export")
    text = path.read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "diffusers"
    assert "base_model" not in front  # the bundled world has no page on the hub
    assert "before_after.png" in body
    prose, recipe = body.split("## Recipe")
    assert "<script>" not in prose.replace("\\<script\\>", "")
    assert yaml.safe_load(re.search(r"(`{3,})yaml\n(.*?)\n\1", recipe, re.DOTALL).group(2))["note"] == NASTY
    assert "````yaml\n" in recipe  # longer than the three ticks inside
    for line in body.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 6
            assert not re.search(r"(?<!\\)<", line)
    assert "## Limits" in body
    with Image.open(path.parent / "before_after.png") as grid:
        # Six columns of 160 with gaps of 8; the upper row is before (90), the lower after (200).
        assert grid.size == (6 * 168 + 8, 2 * 168 + 8)
        assert [grid.getpixel((80, y))[0] for y in (80, 250)] == [90, 200]


def test_card_of_a_hub_model_names_it(run, tmp_path):
    write_report(run / "report.json", report(config={**CONFIG, "model": "someone/model"}, images=[]))
    text = write_card(run, tmp_path / "export").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "someone/model"
    assert "before_after.png" not in text and not (tmp_path / "export/before_after.png").exists()


def test_card_and_page_tell_no_folder_of_this_machine(run, tmp_path, monkeypatch):
    (tmp_path / "models/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    secret = str(tmp_path / "models")
    for model, shown in (("models/mine", "models/mine"), (f"{secret}/mine", "mine"), ("C:\\\\me\\mine", "mine")):
        config = {**CONFIG, "model": model, "output": secret, "more": {"cache": f"{secret}/kept/", "of": [secret]}}
        write_report(run / "report.json", report(config=config, images=[]))
        text = write_card(run, tmp_path / "export").read_text()
        assert "base_model" not in yaml.safe_load(text.split("---\n")[1])
        recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)\n```", text, re.DOTALL).group(1))
        assert (recipe["model"], recipe["more"]) == (shown, {"cache": "kept", "of": ["models"]})
        assert secret not in text and "output" not in recipe
        page = write_html(run).read_text()
        assert f'<p class="kicker">{shown} · esd' in page and f"model: {shown}\n" in page
        assert secret not in page and "output" not in page
        assert read_report(run / "report.json").config == config


def many_rows():
    """Two concepts, `owl` half left, and an earlier one that comes back; hostile names."""
    table, setting = [r for r in rows() if r["role"] != "forget"], Setting("run-1", "esd", "cat", "object", "x", 1, 3.0)
    for role, name, left in (("forget", "cat", 0), ("forget", "owl", 6), ("earlier", NASTY, 12)):
        for i in range(12):
            for arm in ("before", "after"):
                shown = i < left if arm == "after" else role == "forget"
                look = {
                    "flags": {"blank": False},
                    "judges": {"conv": {"object": name if shown else "fox", "style": "flat"}},
                    "clip_score": 0.5,
                    "colour": "red",
                }
                about = (name, "object") if role == "earlier" else None
                ask = Ask(role, f"a {name}", f"{name}-{i}", "comma", 0, {"object": name, "style": "flat"}, about)
                table.append(make_row(ask, look, arm, setting, f"images/{arm}/0.png", f"{arm}{name}{i}"))
    return table


def test_several_concepts_and_earlier_ones_have_tables_of_their_own(run, tmp_path):
    table = many_rows()
    config = {**CONFIG, "model": "runs/first", "concept": [{"name": "cat"}, {"name": "owl"}]}
    found = build_report(
        run_id="run-2",
        environment={},
        config=config,
        guards={},
        scores=scores(table),
        changes=changes(table),
        images=choose_pairs(table),
        first_model="world",
        earlier=[NASTY],
    )
    write_report(run / "report.json", found)
    assert read_report(run / "report.json").earlier == [NASTY]
    page, card = write_html(run).read_text(), write_card(run, tmp_path / "card").read_text()
    assert "<script>alert" not in page
    for text in (page, card):
        assert "Each concept, still drawn" in text and "Erased by earlier runs, still drawn" in text
        assert "“cat and owl” are weaker on direct prompts" in text
        assert "Most is left of “owl”: 50" in text and "It came back: “" in text and "+100 points" in text
        assert "bundled world is small" in text
    assert re.search(r'<th scope="row">owl <small class="soft">\(lower is better\)', page)
    assert "| owl, lower is better |" in card and "# cat and owl, erased" in card
    assert "it belongs on the model that the first of them began from" in card
    assert page.count("<table") == 3  # all, each concept, earlier ones
    figure = page[page.index("<svg") :]
    assert "owl" not in figure[: figure.index("</svg>")]


def test_pictures_are_shown_of_each_of_several_concepts():
    shown = choose_pairs(many_rows())
    assert [p.expected for p in shown if p.role == "forget"] == ["cat"] * 4 + ["owl"] * 4
    earlier = [p for p in shown if p.role == "earlier"]
    assert len(earlier) == 4 and all(p.before.good and not p.after.good for p in earlier)
