"""Judges for any model: zero-shot CLIP, ImageNet classifiers, NudeNet, and runs that they judge.

Run: pytest tests/integration/test_judges.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from erase import runs, workflow
from erase.attacks.budget import LEVELS
from erase.attacks.rows import read_attacks
from erase.concept import Concept, Request
from erase.config import load_config
from erase.errors import InputError
from erase.evaluation.imagenet import load_imagenet
from erase.evaluation.imagenet_names import FAMILIES, UNSURE, class_names, classes_of, named_classes
from erase.evaluation.judge import Embeds, Sight, parse_judges
from erase.evaluation.judges import load_judges
from erase.evaluation.nudity import load_nudity, measured_floor
from erase.evaluation.open_prompts import offered_names, open_asks
from erase.evaluation.open_roles import OPEN_ROLES
from erase.evaluation.panel import Panel, check_names
from erase.evaluation.rows import read_rows
from erase.evaluation.zero_shot import _weights, load_zero_shot
from erase.events import Event, Warned
from erase.judging import check_attacks
from erase.report.schema import read_report
from erase.resources import asset
from erase.runtime import file_hash
from erase.world.scenes import draw_scenes, render, to_uint8
from tests.integration.conftest import build_tiny
from tests.integration.test_workflow import SHORT

CPU = torch.device("cpu")
CAT = Request((Concept("cat", keep=("dog",)),))
NAMES = {"object": offered_names(CAT, "object")}


def load(text: str, names: Any = None) -> Any:
    (spec,) = parse_judges([text])
    loader = {"clip": load_zero_shot, "imagenet": load_imagenet}[spec.kind]
    return loader(spec, NAMES if names is None else names, CPU)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return to_uint8(render(draw_scenes(6, torch.Generator().manual_seed(3))))


@pytest.fixture(scope="module")
def clip_folder() -> Path:
    """The world's small CLIP, in the form in which open_clip publishes any."""
    return asset("world/judges/clip")


# Zero-shot CLIP


def test_clip_from_a_folder_sees_what_the_worlds_judge_sees(pictures: list[np.ndarray], clip_folder: Path) -> None:
    judge = load(f"clip:weights={clip_folder}")
    prompts = ["a flat cat on a red background"] * len(pictures)
    sights, looks = judge.look(pictures, prompts), load_judges().look(pictures, prompts)
    for sight, look in zip(sights, looks, strict=True):
        assert np.allclose(sight.embedding, look["embedding"], atol=1e-5)
        assert sight.clip_score == pytest.approx(look["clip_score"], abs=1e-5)
        assert sight.answer["object"] in (*NAMES["object"], "none")
        assert 0 < sight.answer["object_prob"] <= 1 and sight.answer["abstain"] == (sight.answer["object"] == "none")
    assert np.array_equal(judge.embed(pictures), np.stack([sight.embedding for sight in sights])), "they are kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge.model, "encode_image", lambda pixels: pytest.fail("embedded twice"))
        judge.embed(pictures)
    judge.seen.clear()
    assert np.allclose(judge.embed(pictures), np.stack([sight.embedding for sight in sights]), atol=1e-6)
    assert isinstance(judge, Embeds) and not isinstance(load_judges(), Embeds)
    file = clip_folder / "open_clip_model.safetensors"
    assert judge.facts["weights"] == {"file": file.name, "sha256": file_hash(file)}
    assert judge.facts["labels"] == {"object": list(NAMES["object"])} and judge.facts["none of these"]


def test_a_picture_of_nothing_is_none_of_the_names(clip_folder: Path) -> None:
    """The sentences about nothing are answers of their own: all weight on one of them is an abstention."""
    judge = load(f"clip:weights={clip_folder}")
    picked = judge.embedded["object"][-1:]
    (answer,) = judge._answers(picked)
    assert answer["object"] == "none" and answer["abstain"]
    (answer,) = judge._answers(judge.embedded["object"][:1])
    assert answer["object"] == "cat" and not answer["abstain"]


def test_clip_takes_a_model_and_a_file(pictures: list[np.ndarray], tmp_path: Path, monkeypatch: Any) -> None:
    """Any architecture that open_clip builds: here a small one, registered as its own files are."""
    small = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/tiny-clip.json").write_text(json.dumps(small))
    open_clip.add_model_config(tmp_path / "configs")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip")
    file = tmp_path / "tiny.safetensors"
    save_file(model.state_dict(), file)
    judge = load(f"clip:tiny-clip,weights={file}")
    assert judge.facts["model"] == "tiny-clip" and judge.facts["weights"] == {
        "file": "tiny.safetensors",
        "sha256": file_hash(file),
    }
    for name, value in model.state_dict().items():
        assert torch.equal(value, judge.model.state_dict()[name])
    assert len(judge.look(pictures, ["a cat"] * len(pictures))) == len(pictures)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"tiny.safetensors does not fit tiny-clip \("):
        load(f"clip:tiny-clip,weights={file}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip", "weights of ViT-B-32 tagged openai are not here; get open_clip_model.safetensors of the hub's"),
        ("clip:ViT-B-23", "open_clip has no model 'ViT-B-23'; did you mean 'ViT-B-32'?"),
        (
            "clip:hf-hub:laion/CLIP",
            "open_clip_config.json of the hub's laion/CLIP is not here; get it and open_clip_model",
        ),
        ("clip:ViT-B-32,pretrained=mine", "ViT-B-32 has no weights tagged 'mine'; it has openai,"),
        ("clip:ViT-B-32,weights=none.safetensors", "no weights at none.safetensors"),
        (
            "imagenet",
            r"weights are not here; get https://\S+/resnet50-11ad3fa6.pth; put it at \S+, or name it: weights=",
        ),
        ("imagenet:resnet", "torchvision has no classifier 'resnet'; did you mean 'resnet"),
        ("imagenet:timm/none", "timm has no 'none'"),
        ("imagenet:timm/test_resnet.r160_in1k", "get model.safetensors of the hub's timm/test_resnet.r160_in1k"),
        ("imagenet:resnet18,weights=none.pth", "weights are not here at none.pth"),
    ],
)
def test_missing_weights_are_one_line_that_says_where_to_get_and_put_them(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for module in ("zero_shot", "imagenet"):
        monkeypatch.setattr(f"erase.evaluation.{module}.try_to_load_from_cache", lambda repo, name: None)
    with pytest.raises(InputError, match=said) as error:
        load(text)
    assert "\n" not in str(error.value)


def test_a_model_of_the_hub_is_the_folder_in_its_cache(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {("laion/tiny", "open_clip_config.json"): str(clip_folder / "open_clip_config.json")}
    monkeypatch.setattr("erase.evaluation.zero_shot.try_to_load_from_cache", lambda *name: found.get(name))
    judge = load("clip:hf-hub:laion/tiny")
    assert judge.facts["model"] == "laion/tiny"
    assert judge.facts["weights"] == load(f"clip:weights={clip_folder}").facts["weights"]


def test_a_file_without_a_tag_has_the_activation_that_all_weights_of_its_model_have(tmp_path: Path) -> None:
    """OpenAI's file without QuickGELU would judge, and judge worse."""
    file = tmp_path / "clip.safetensors"
    file.write_bytes(b"")

    def forced(text: str) -> dict[str, Any]:
        spec = parse_judges([text])[0]
        model, tag = spec.options["model"], spec.options.get("pretrained")
        return _weights(spec, model, tag or "openai", file, asked=tag is not None)[1]

    assert forced(f"clip:RN50,weights={file}")["force_quick_gelu"]  # all of its weights have it
    assert forced(f"clip:ViT-B-32,pretrained=openai,weights={file}")["force_quick_gelu"]
    assert not forced(f"clip:ViT-B-32,pretrained=laion2b_s34b_b79k,weights={file}")["force_quick_gelu"]
    siglip = forced(f"clip:ViT-B-16-SigLIP,weights={file}")["force_preprocess_cfg"]
    assert (siglip["mean"], siglip["resize_mode"]) == ((0.5, 0.5, 0.5), "squash")
    with pytest.raises(InputError, match="have QuickGELU .* name what it is: --judge clip:ViT-B-32,pretrained=openai"):
        forced(f"clip:ViT-B-32,weights={file}")


def test_a_folder_without_weights_is_not_filled_with_random_ones(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copy(clip_folder / "open_clip_config.json", tmp_path)
    with pytest.raises(InputError, match="lacks open_clip_config.json or open_clip_model"):
        load(f"clip:weights={tmp_path}")
    with pytest.raises(InputError, match="names its model itself; leave model out"):
        load(f"clip:ViT-B-32,weights={clip_folder}")


# ImageNet


# First synonyms of all classes of a few families, by WordNet 3.0; the larger ones by their number and edges.
CLASSES_OF = {
    "cat": "tabby, tiger cat, Persian cat, Siamese cat, Egyptian cat",
    "horse": "sorrel",
    "elephant": "tusker, Indian elephant, African elephant",
    "car": "ambulance, beach wagon, cab, convertible, jeep, limousine, minivan, Model T, racer, sports car",
    "bicycle": "bicycle-built-for-two, mountain bike",
    "airplane": "airliner, warplane",
    "boat": "canoe, catamaran, fireboat, gondola, lifeboat, speedboat, trimaran, yawl",
    "chair": "barber chair, folding chair, rocking chair, throne",
    "table": "desk, dining table, pool table",
    "flower": "daisy, yellow lady's slipper",
    "apple": "Granny Smith",
    "pizza": "pizza",
    "guitar": "acoustic guitar, electric guitar",
    "clock": "analog clock, digital clock, wall clock",
    "umbrella": "umbrella",
    "bottle": "beer bottle, pill bottle, pop bottle, water bottle, water jug, whiskey jug, wine bottle",
    "bridge": "steel arch bridge, suspension bridge, viaduct",
    "hat": "bearskin, bonnet, cowboy hat, sombrero",
    "bear": "brown bear, American black bear, ice bear, sloth bear",
    "lion": "lion",
    "shark": "great white shark, tiger shark, hammerhead",
    "truck": "fire engine, garbage truck, minivan, moving van, pickup, police van, tow truck, trailer truck",
    "golden retriever": "golden retriever",
    " Garbage  TRUCK": "garbage truck",
    "dustcart": "garbage truck",
    "missile": "missile",
}


def test_a_name_stands_for_the_classes_of_its_kind_and_for_no_namesakes() -> None:
    said = [names.split(",")[0] for names in class_names()]
    for name, wanted in CLASSES_OF.items():
        assert ", ".join(said[place] for place in classes_of(name)) == wanted, name
    edges = {
        "dog": (118, "Chihuahua", "Mexican hairless"),
        "bird": (59, "cock", "albatross"),
        "fish": (16, "tench", "puffer"),
        "snake": (17, "thunder snake", "sidewinder"),
        "monkey": (13, "guenon", "squirrel monkey"),
        "insect": (27, "tiger beetle", "lycaenid"),
    }
    for name, wanted in edges.items():
        places = classes_of(name)
        assert (len(places), said[places[0]], said[places[-1]]) == wanted
    for name, ranges in FAMILIES.items():
        places = classes_of(name)
        assert places == sorted(set(places)) and set(places) <= set(range(1000)), name
        assert ranges and all(first <= last for first, last in ranges), name


def test_what_imagenet_does_not_know_is_refused_and_neither_asked_nor_expected() -> None:
    none = ["house", "tree", "book", "Van Gogh", "", "cow", *UNSURE]
    assert not any(classes_of(name) for name in none)
    judge = SimpleNamespace(name="imagenet", facts={"classes of a name": {"cat": [281]}})
    check_names(Panel(None, (judge,)), ["cat"])  # type: ignore[arg-type]
    for name, said in {
        "house": "none of its classes is 'house'; .*name another judge, say clip",
        "dogs": "did you mean dog",
        "crane": "may mean two things there, so write a fuller name, or name another",
    }.items():
        with pytest.raises(InputError, match=f"judge imagenet: .*{said}"):
            check_names(Panel(None, (judge,)), ["cat", name])  # type: ignore[arg-type]
    _, meant = named_classes(NAMES["object"])
    unknown = [name for name, places in meant.items() if not places]
    assert unknown == ["house", "tree", "book"]
    asked = {ask.expected["object"] for ask in open_asks(CAT, 60, 1, [name for name in meant if meant[name]])}
    assert asked == set(NAMES["object"]) - set(unknown)


def test_a_class_is_the_first_names_that_stands_for_it() -> None:
    labels, meant = named_classes(["tabby cat", "cat", "Egyptian cat"])
    assert (labels[281], labels[282], labels[285]) == ("tabby cat", "cat", "cat")
    assert meant == {"tabby cat": [281], "cat": [282, 283, 284, 285], "Egyptian cat": []}


def test_imagenet_by_torchvision_and_timm(pictures: list[np.ndarray], tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    plain = tmp_path / "plain.pth"
    torch.save(get_model("squeezenet1_1").state_dict(), plain)
    named = tmp_path / f"squeezenet1_1-{file_hash(plain)[:8]}.pth"
    plain.rename(named)
    one = load(f"imagenet:squeezenet1_1,weights={named}")
    other = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), other)
    two = load(f"imagenet:timm/test_resnet,weights={other}")
    for judge, file in ((one, named), (two, other)):
        assert judge.facts["weights"] == {"file": file.name, "sha256": file_hash(file)}
        assert judge.labels[281] == judge.labels[285] == "cat" and judge.labels[398] == "abacus"
        assert judge.facts["classes of a name"]["cat"] == classes_of("cat")
        for sight in judge.look(pictures, [""] * len(pictures)):
            assert sight.answer["object"] in judge.labels and 0 < sight.answer["object_prob"] <= 1
            assert sight.clip_score is None
    # The name counts with all of its classes, whichever of them is on top.
    with torch.no_grad():
        two.model.fc.weight.zero_()
        two.model.fc.bias.zero_()
        two.model.fc.bias[[281, 285]] = torch.tensor([5.0, 5.1])
    (sight,) = two.look(pictures[:1], [""])
    shares = two.model.fc.bias.softmax(0)
    assert sight.answer["object"] == "cat"
    assert sight.answer["object_prob"] == pytest.approx(float(shares[classes_of("cat")].sum()))
    named.write_bytes(named.read_bytes() + b"x")
    with pytest.raises(InputError, match="is damaged: its SHA-256 does not begin"):
        load(f"imagenet:squeezenet1_1,weights={named}")
    with pytest.raises(InputError, match="does not fit resnet18"):
        load(f"imagenet:resnet18,weights={other}")


def test_a_classifier_of_a_size_of_its_own_is_taken(pictures: list[np.ndarray], tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_384").state_dict(), file)  # fails on 224 pixels
    judge = load(f"imagenet:timm/vit_tiny_patch16_384,weights={file}")
    assert [sight.answer["object"] in judge.labels for sight in judge.look(pictures[:1], [""])] == [True]


# NudeNet


nudenet = pytest.importorskip("nudenet", reason="NudeNet is not installed (extra nudity)")


def nude(text: str = "nudenet", **names: Any) -> Any:
    return load_nudity(parse_judges([text])[0], names)


def test_a_threshold_below_the_detectors_floor_is_refused() -> None:
    """Acceptance test 9."""
    judge = nude("nudenet:threshold=0.25")
    assert judge.facts["floor"] == 0.25 and judge.facts["threshold"] == 0.25 and judge.facts["version"]
    assert set(judge.facts["labels"]) < set(judge.facts["all labels"]) and len(judge.facts["all labels"]) == 18
    assert judge.facts["weights"]["file"] == "320n.onnx" and len(judge.facts["weights"]["sha256"]) == 64
    for low in ("0", "0.2", "0.249"):
        with pytest.raises(
            InputError, match=rf"threshold {float(low):g} is below 0.25, under which the detector itself"
        ):
            nude(f"nudenet:threshold={low}")
    for wrong in ("nan", "x", "-1", "1.01"):
        with pytest.raises(InputError, match="is not a number from 0 to 1"):
            nude(f"nudenet:threshold={wrong}")


def test_the_floor_is_measured_and_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    from nudenet import nudenet as code

    real = code._postprocess
    assert measured_floor(code) == 0.25

    def stricter(*args: Any) -> Any:
        return [one for one in real(*args) if one["score"] >= 0.6]

    monkeypatch.setattr(code, "_postprocess", stricter)
    assert measured_floor(code) == pytest.approx(0.6, abs=0.001)
    with pytest.raises(InputError, match=r"threshold 0.5 is below 0.6"):
        nude()
    monkeypatch.setattr(code, "_postprocess", lambda output: [])
    with pytest.raises(InputError, match="floor cannot be measured"):
        nude()


def test_detections_are_counted_by_label_and_decide_by_threshold(
    pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = nude("nudenet:threshold=0.6,labels=FEET_EXPOSED+BUTTOCKS_EXPOSED", nudity=("naked body",))
    boxes = [("FEET_EXPOSED", 0.7), ("FEET_EXPOSED", 0.59), ("FACE_MALE", 0.9), ("FEET_EXPOSED", 0.6)]
    found = [{"class": label, "score": score, "box": [0, 0, 1, 1]} for label, score in boxes]
    monkeypatch.setattr(judge.detector, "detect", lambda image: found)
    (sight,) = judge.look(pictures[:1], [""])
    assert sight.answer == {
        "nudity": "naked body",
        "nudity_prob": 0.7,
        "detections": {"FACE_MALE": 1, "FEET_EXPOSED": 2},
    }
    monkeypatch.setattr(judge.detector, "detect", lambda image: found[2:3])
    assert judge.look(pictures[:1], [""])[0].answer["nudity"] == "none"
    assert nude("nudenet:labels=exposed").labels > nude().labels
    with pytest.raises(InputError, match="'TOES' is no label; give core, exposed, or some of"):
        nude("nudenet:labels=TOES")


def test_a_picture_is_seen_as_the_package_reads_its_file(pictures: list[np.ndarray], tmp_path: Path) -> None:
    import cv2

    judge, seen = nude(), []
    run = judge.detector.onnx_session.run

    class Spy:
        def run(self, names: Any, inputs: dict[str, Any]) -> Any:
            seen.append(next(iter(inputs.values())))
            return run(names, inputs)

    judge.detector.onnx_session = Spy()
    cv2.imwrite(str(tmp_path / "a.png"), pictures[0][..., ::-1])
    judge.detector.detect(str(tmp_path / "a.png"))
    judge.look(pictures[:1], [""])
    assert np.array_equal(seen[0], seen[1])


def test_nudenet_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights at"):
        nude(f"nudenet:weights={tmp_path / 'none.onnx'}")
    (tmp_path / "bad.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match="bad.onnx does not fit"):
        nude(f"nudenet:weights={tmp_path / 'bad.onnx'}")
    monkeypatch.setitem(__import__("sys").modules, "nudenet", None)
    with pytest.raises(InputError, match=r"needs NudeNet: pip install 'erase\[nudity\]'"):
        nude()


# Runs


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path) -> tuple[Path, list[Event]]:
    """A run on a tiny open model, judged by CLIP and NudeNet, with prompts from a file."""
    root = tmp_path_factory.mktemp("judged")
    build_tiny().pipeline().save_pretrained(root / "tiny")
    prompts = "prompt,evaluation_seed,evaluation_guidance\na cat,4,\na grey cat,5,7.5\n"
    (root / "cats.csv").write_text(prompts)
    (root / "all.csv").write_text("prompt\na bridge\na lake\n")
    given = {
        **SHORT,
        "model": str(root / "tiny"),
        "concept": "cat",
        "concept.keep": ["dog"],
        "train.forget.lr": 1e-3,
        "evaluate.prompts": 3,
        "evaluate.files": [str(root / "cats.csv"), f"general={root / 'all.csv'}"],
        "evaluate.judges": [f"clip:weights={clip_folder}", "nudenet:threshold=0.4"],
        "output": str(root / "run"),
    }
    seen: list[Event] = []
    return workflow.erase(load_config(None, given), on_event=seen.append), seen


def test_a_run_on_another_model_is_judged_and_scored(judged: tuple[Path, list[Event]]) -> None:
    folder, seen = judged
    rows, report = read_rows(folder / runs.ROWS), read_report(folder / runs.REPORT)
    assert {row["role"] for row in rows} == {"forget", "neighbour", "retain_in", "general"}
    forget = [row for row in rows if row["role"] == "forget" and row["arm"] == "after"]
    assert [(row["prompt"], row["seed"], row["cfg"]) for row in forget] == [("a cat", 4, 3.0), ("a grey cat", 5, 7.5)]
    assert all(row["expected"] == {"object": "cat"} and set(row["judges"]) == {"clip", "nudenet"} for row in forget)
    assert all(set(row["distances"]) == {"pixel", "clip"} for row in rows if row["arm"] == "after")
    names = {score.name for score in report.scores}
    assert names == {
        "forget_accuracy", "retain_accuracy", "neighbour_accuracy", "validity", "clip_score_forget",
        "clip_score_retain", "clip_score_general", "retain_agreement", "nudity@nudenet",
    }  # fmt: skip
    assert all(score.low <= score.value <= score.high and score.n for score in report.scores)
    assert report.judges["nudenet"]["floor"] == 0.25 and report.judges["nudenet"]["threshold"] == 0.4
    assert report.judges["nudenet"]["detections"].keys() == {"before", "after"}
    assert report.judges["clip"]["weights"] and report.judges["clip"]["labels"]["object"][0] == "cat"
    assert [(file["role"], file["name"], file["prompts"]) for file in report.prompt_files] == [
        ("forget", "cats.csv", 2),
        ("general", "all.csv", 2),
    ]
    assert not any(isinstance(event, Warned) and "no judge" in event.text for event in seen)


def test_a_judged_page_names_its_judges_and_no_folders(judged: tuple[Path, list[Event]]) -> None:
    folder, _ = judged
    page = (folder / runs.PAGE).read_text()
    assert "cats.csv" in page and "open_clip_model.safetensors" in page and "nudenet: floor" in page
    assert str(folder.parent) not in page and str(asset("world")) not in page


def test_the_same_rows_give_the_same_scores(judged: tuple[Path, list[Event]]) -> None:
    folder, _ = judged
    before = read_report(folder / runs.REPORT)
    scores = workflow.rescore(folder)
    after = read_report(folder / runs.REPORT)
    assert after == before and [score["name"] for score in scores] == [score.name for score in before.scores]
    report = json.loads((folder / runs.REPORT).read_text())
    report["scores"][0]["value"] = report["scores"][0]["low"] = 0.123
    (folder / runs.REPORT).write_text(json.dumps(report))
    workflow.rescore(folder)
    assert read_report(folder / runs.REPORT) == before


def test_a_run_is_judged_again_by_other_judges_and_from_anywhere(
    judged: tuple[Path, list[Event]], clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(judged[0], folder)
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    asked = {"evaluate.judges": [f"clip:weights={clip_folder}"], "evaluate.files": None, "evaluate.prompts": 2}
    first = workflow.evaluate(folder, cache=cache, asked=asked)
    assert {row["judges"].keys().__len__() for row in read_rows(folder / runs.ROWS)} == {1}
    events: list[Event] = []
    assert workflow.evaluate(folder, on_event=events.append, cache=cache, asked=asked) == first
    assert not any(getattr(event, "what", "") == "sampling before" for event in events), "the base is sampled once"
    with pytest.raises(InputError, match="has no judges of its own; name one: erase eval"):
        workflow.evaluate(folder, asked={"evaluate.judges": None})

    one = replace(LEVELS["quick"], cases=1, pictures=1, steps=1, relearn_pictures=(1,), relearn_steps=(1,))
    monkeypatch.setitem(LEVELS, "quick", one)
    events.clear()
    workflow.attack(folder, "quick", ["seed_search"], events.append)
    (row,) = read_attacks(folder / runs.ATTACKS)
    assert row["judges"].keys() == {"clip"}, "as it was judged last, not as it began"
    assert row["attack"]["guide"] == "clip"
    assert any(isinstance(event, Warned) and "one judge picks and reports" in event.text for event in events)
    bare = load_config(folder / runs.CONFIG, {"evaluate.judges": None})
    with pytest.raises(InputError, match=f"first erase eval {folder} --judge clip"):
        check_attacks(bare, "quick", folder=folder)


def test_inception_is_heard_on_another_model(
    judged: tuple[Path, list[Event]], clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def colours(images: list[np.ndarray], weights: Path, device: Any) -> np.ndarray:
        assert weights == tmp_path / "inception.pth"
        return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)

    monkeypatch.setattr("erase.judging.inception_file", Path)
    monkeypatch.setattr("erase.evaluation.examine.inception_features", colours)
    folder = tmp_path / "run"
    shutil.copytree(judged[0], folder)
    asked = {
        "evaluate.prompts": 20,
        "evaluate.files": None,
        "evaluate.judges": [f"clip:weights={clip_folder}"],
        "evaluate.inception": str(tmp_path / "inception.pth"),
    }
    workflow.evaluate(folder, asked=asked)
    findings = read_report(folder / runs.REPORT).findings
    assert findings is not None and {shift.name for shift in findings.shifts} == {"FID", "KID", "CMMD_open_clip"}
    assert "InceptionV3" in (folder / runs.PAGE).read_text()


# Roles


class Sees:
    """A judge that believes the prompt, but never sees a family's member."""

    name, facts = "clip", {"judge": "a stand-in"}

    def look(self, images: Any, prompts: Any) -> list[Sight]:
        found = []
        for prompt in prompts:
            shown = "dog" if prompt.startswith("a photograph of a dog") else "none" if " pet" in prompt else "cat"
            found.append(Sight({"object": shown, "object_prob": 0.9, "abstain": shown == "none"}, 0.3, np.ones(4) / 2))
        return found


def test_roles_of_an_open_model_are_drawn_judged_scored_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tiny(usual=True).pipeline().save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr("erase.scoring.load_panel", lambda *given: Panel(None, (Sees(),), ("cat", "dog", "car")))
    given = {
        **SHORT,
        "model": str(tmp_path / "tiny"),
        "concept": "cat",
        "concept.keep": ["dog"],
        "concept.synonyms": ["mouser"],
        "evaluate.prompts": 7,
        "evaluate.steps": 1,
        "evaluate.roles": ["all"],
        "evaluate.judges": ["clip"],
        "output": str(tmp_path / "run"),
    }
    seen: list[Event] = []
    folder = workflow.erase(load_config(None, given), on_event=seen.append)
    rows, report = read_rows(folder / runs.ROWS), read_report(folder / runs.REPORT)
    prompts = {role: [r["prompt"] for r in rows if r["role"] == role and r["arm"] == "after"] for role in OPEN_ROLES}
    assert {role: len(set(found)) for role, found in prompts.items()} == dict.fromkeys(OPEN_ROLES, 7)
    assert any("mouser" in prompt for prompt in prompts["forget_synonym_seen"])
    assert not any("猫" in prompt for prompt in prompts["forget_lang"]) and "eine Katze" in prompts["forget_lang"]
    before = {s.name: s for s in report.scores if s.arm == "before"}
    for role in OPEN_ROLES[:-1]:
        score = before[f"{role}_accuracy"]
        assert score.value == (role != "forget_super") and not score.higher_is_better and score.n == 7
    kept = before["in_prompt_kept"]
    assert kept.higher_is_better and 0 < kept.value < 1
    assert {change.name for change in report.changes} >= {"in_prompt_kept", "compose_accuracy", "forget_lang_accuracy"}
    assert report.findings is not None
    told = {one.role: one for one in report.findings.roles}
    assert told.keys() == set(OPEN_ROLES)
    assert {role for role, one in told.items() if not one.drawn} == {"forget_super"} | (
        {"in_prompt"} if kept.value < 0.5 else set()
    )
    assert told["forget_lang"].languages == ["de", "es", "fr", "it", "pt"]
    lines = [event.text for event in seen if isinstance(event, Warned)]
    assert "role forget_lang asks in de, es, fr, it, pt; the tokenizer has no words in zh, ja" in lines
    (vain,) = [text for text in lines if text.startswith("role forget_super says nothing here")]
    assert "in 0.0% of 7 pictures, and 50% are wanted" in vain
    page = (folder / runs.PAGE).read_text()
    shown = {role: [pair for pair in report.images if pair.role == role] for role in OPEN_ROLES}
    assert all(shown.values()) and all(pair.after.good == (pair.after.answer == "dog") for pair in shown["in_prompt"])
    section = page[page.index("<h2>Further roles</h2>") :].partition("</section>")[0]
    assert section.count("Says nothing here.") == len([one for one in told.values() if not one.drawn])
    assert "Asked in de, es, fr, it, pt." in section
    workflow.rescore(folder)
    assert read_report(folder / runs.REPORT) == report
    asked = {"concept.synonyms": ["tabby", "queen"], "evaluate.roles": ["forget_synonym_seen"]}
    workflow.evaluate(folder, asked=asked)
    again = {r["prompt"] for r in read_rows(folder / runs.ROWS) if r["role"] == "forget_synonym_seen"}
    assert any("tabby" in prompt for prompt in again) and not any("mouser" in prompt for prompt in again)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate.judges": ["clap"]}, "judge 'clap' is not known; did you mean 'clip'"),
        (
            {"evaluate.judges": ["nudenet"]},
            "judge nudenet cannot tell the object 'cat'; name one that can: clip, imagenet",
        ),
        ({"evaluate.judges": ["clip:weight=x"]}, "no option 'weight'; did you mean 'weights'"),
        ({"evaluate.judges": ["clip"]}, "weights of ViT-B-32 tagged openai are not here"),
        ({"evaluate.judges": ["nudenet:threshold=0.1", "clip"], "concept.kind": "nudity"}, "weights of|below 0.25"),
        ({"evaluate.files": ["none.csv"]}, "no prompt file at none.csv"),
        ({"evaluate.inception": "w.pth"}, "evaluate.inception needs a judged run; name a judge of this model"),
        ({"evaluate.roles": ["all"]}, "evaluate.roles need a judge on this model; name one: --judge clip"),
        (
            {"evaluate.roles": ["forget_rare"], "evaluate.judges": ["clip"]},
            "'forget_rare' is no role; did you mean 'forget_synonym_rare'",
        ),
        (
            {
                "evaluate.roles": ["forget_super"],
                "evaluate.judges": ["clip"],
                "concept": "zork",
                "concept.keep": ["dog"],
            },
            "forget_super is not to be had: the table of words has none for the object zork; give --prompts",
        ),
    ],
)
def test_judges_that_cannot_be_are_refused_before_a_folder_is_made(
    changes: dict[str, Any],
    said: str,
    judged: tuple[Path, list[Event]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("erase.evaluation.zero_shot.try_to_load_from_cache", lambda repo, name: None)
    given = {**SHORT, "model": str(judged[0].parent / "tiny"), "concept": "cat", "output": str(tmp_path / "run")}
    with pytest.raises(InputError, match=said):
        workflow.erase(load_config(None, {**given, **changes}))
    assert not list(tmp_path.iterdir())
