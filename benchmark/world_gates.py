"""Measure the bundled world's gates and draw its contact sheet.

    python benchmark/world_gates.py --images 24 --output docs
    python benchmark/world_gates.py --world build/world --output build/gates    # one that `erase world` has made

Writes <output>/world_gates.json and <output>/world_contact.png, prints the table. 24 images an object take about ten
minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from erase.evaluation.judges import CLIP, FAMILIES, Judges, load_judges
from erase.evaluation.statistics import wilson
from erase.models import WORLD, Model, load_model
from erase.runtime import pick_device, write_json
from erase.sampling import Shot, sample
from erase.world.captions import FULL, caption
from erase.world.judges import GARBAGE, garbage
from erase.world.scenes import augment, draw_scenes, render, to_uint8
from erase.world.vocabulary import COLOUR_NAMES, OBJECT_NAMES, OBJECTS, STYLE_NAMES


def row(name: str, right: list[bool], gate: str) -> dict[str, object]:
    """One line of the table: share, Wilson interval, n."""
    found = wilson(sum(right), len(right))
    line = {"gate": name, "wanted": gate, "value": found.value, "low": found.low, "high": found.high, "n": found.n}
    print(f"{name:34} {found.value:6.1%} [{found.low:.1%}, {found.high:.1%}] n={found.n:5}  wanted {gate}", flush=True)
    return line


def unseen(images: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """What no judge trained on: JPEG at quality 40 to 80 and a shift of hue, on top of half-strength moves."""
    rng = np.random.default_rng(seed)
    found = []
    for image in images:
        hsv = np.array(Image.fromarray(image).convert("HSV"))
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-8, 9)) % 256
        buffer = io.BytesIO()
        Image.frombytes("HSV", image.shape[1::-1], hsv.tobytes()).convert("RGB").save(
            buffer, "JPEG", quality=int(rng.integers(40, 81))
        )
        found.append(np.array(Image.open(buffer)))
    return found


def judge_gates(judges: Judges, count: int) -> list[dict[str, object]]:
    """Both families on renders with unseen augmentation and on garbage, where a name from either head is a mistake."""
    generator = torch.Generator().manual_seed(20_001)
    scenes = draw_scenes(count, generator)
    pictures = augment(render(scenes), generator, 0.5)
    looks = judges.look(unseen(to_uint8(pictures), 1))
    lines = []
    for family in (*FAMILIES, CLIP):
        for domain, names, wanted in (("object", OBJECT_NAMES, scenes.object), ("style", STYLE_NAMES, scenes.style)):
            right = [x["judges"][family][domain] == names[int(w)] for x, w in zip(looks, wanted, strict=True)]
            lines.append(row(f"{family} judge, {domain}, renders", right, ">= 97 %" if family in FAMILIES else "-"))
    for kind in GARBAGE:
        spoiled = judges.look(to_uint8(garbage(pictures, generator, kind)))
        for family in FAMILIES:
            called = [not x["judges"][family]["abstain"] for x in spoiled]
            wanted = "<= 1 %" if kind in ("noise", "blank", "blur") else "-"
            lines.append(row(f"{family} judge, {kind} called a concept", called, wanted))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="pictures an object")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--world", type=Path, help="folder with pipeline/ and judges/; without it, the bundled ones")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    options = parser.parse_args()
    device = pick_device()
    world = options.world
    model = load_model(str(world / "pipeline") if world else WORLD, device)
    judges = load_judges(device, world / "judges" if world else None)
    lines = judge_gates(judges, 2000)
    jobs = []
    for i, thing in enumerate(OBJECT_NAMES):
        for k in range(options.images):
            style, colour = (
                STYLE_NAMES[k % len(STYLE_NAMES)],
                COLOUR_NAMES[(k // len(STYLE_NAMES) + i) % len(COLOUR_NAMES)],
            )
            template = FULL[(k // 3) % len(FULL)]
            jobs.append((caption(template, thing, style, colour), thing, style, colour))
    shots = [Shot(text, f"gate/{i}", 0) for i, (text, *_) in enumerate(jobs)]
    pictures = sample(model, shots, steps=options.steps, guidance=options.guidance, batch=32)
    looks = judges.look(pictures)
    conv = [look["judges"]["conv"] for look in looks]
    right = [c["object"] == job[1] for c, job in zip(conv, jobs, strict=True)]
    lines.append(row("object accuracy, mean", right, ">= 95 %"))
    per = {thing: [r for r, job in zip(right, jobs, strict=True) if job[1] == thing] for thing in OBJECT_NAMES}
    shares = {thing: sum(v) / len(v) for thing, v in per.items()}
    worst = sorted(shares, key=lambda name: shares[name])
    lines.append(row(f"worst object ({worst[0]})", per[worst[0]], ">= 80 %"))
    lines.append(row("style accuracy, mean", [c["style"] == j[2] for c, j in zip(conv, jobs, strict=True)], ">= 95 %"))
    lines.append(row("background colour", [x["colour"] == j[3] for x, j in zip(looks, jobs, strict=True)], ">= 85 %"))
    agree = [x["judges"]["conv"]["object"] == x["judges"]["patch"]["object"] for x in looks]
    lines.append(row("families agree on the object", agree, ">= 95 %"))
    for rank in (0, 1):
        said = [
            (caption(FULL[k], o.synonyms[rank], STYLE_NAMES[(i + k) % 6], COLOUR_NAMES[(i + k) % 8]), o.name)
            for i, o in enumerate(OBJECTS)
            for k in range(4)
        ]
        drawn = sample(model, [Shot(t, f"synonym/{rank}/{i}", 0) for i, (t, _) in enumerate(said)], batch=32)
        seen = [x["judges"]["conv"]["object"] for x in judges.look(drawn)]
        label = ("common", "rare")[rank]
        lines.append(row(f"{label} synonyms", [a == b for a, (_, b) in zip(seen, said, strict=True)], ">= 80 %"))
    print("under 80 %:", {name: round(shares[name], 2) for name in worst if shares[name] < 0.8})
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "world_gates.json", {"gates": lines, "objects": shares})
    contact(model, options)


def contact(model: Model, options: argparse.Namespace) -> None:
    """Every object (columns of ten) in every style, one picture each."""
    shots = [
        Shot(caption(FULL[0], thing, style, COLOUR_NAMES[(i + j) % 8]), f"contact/{i}/{j}", 0)
        for i, thing in enumerate(OBJECT_NAMES)
        for j, style in enumerate(STYLE_NAMES)
    ]
    pictures = sample(model, shots, steps=options.steps, guidance=options.guidance, batch=32)
    side, styles = 66, len(STYLE_NAMES)
    canvas = Image.new("RGB", (15 * side, 4 * (styles * side + 10)), "white")
    for n, picture in enumerate(pictures):
        i, j = divmod(n, styles)
        canvas.paste(Image.fromarray(picture), (i % 15 * side, i // 15 * (styles * side + 10) + j * side))
    canvas.save(options.output / "world_contact.png", optimize=True)


if __name__ == "__main__":
    main()
