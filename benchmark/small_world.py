"""How well a small world draws what is asked: judged accuracy with Wilson intervals, and a contact sheet.

python benchmark/small_world.py small [--images 4] [--sheet sheet.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from erase.evaluation.judges import load_judges
from erase.evaluation.statistics import proportion
from erase.models import load_model
from erase.sampling import Shot, sample
from erase.world.captions import FULL, caption
from erase.world.vocabulary import COLOUR_NAMES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder that `erase world --small` wrote")
    parser.add_argument("--images", type=int, default=4, help="of every object in every style (4)")
    parser.add_argument("--sheet", type=Path, help="write the first picture of every object and style here")
    options = parser.parse_args()
    model, judges = load_model(options.model), load_judges()
    if model.vocabulary is None:
        parser.error(f"{options.model} is no world")
    pairs = [(o, s) for s in model.vocabulary.style_names for o in model.vocabulary.object_names]
    asked = [(*pair, COLOUR_NAMES[(i + 3 * k) % 8]) for k in range(options.images) for i, pair in enumerate(pairs)]
    texts = [caption(FULL[i % len(FULL)], *names) for i, names in enumerate(asked)]
    drawn = sample(model, [Shot(text, f"gate/{i}", i) for i, text in enumerate(texts)])
    seen = [look["judges"]["conv"] for look in judges.look(drawn)]
    found: dict[str, object] = {"model": options.model, "n": len(asked)}
    for place, domain in enumerate(("object", "style")):
        right = [look[domain] == names[place] for look, names in zip(seen, asked, strict=True)]
        rate = proportion(right, [str(i) for i in range(len(right))])
        by_name: dict[str, list[bool]] = {}
        for name in dict.fromkeys(names[place] for names in asked):
            by_name[name] = [r for r, names in zip(right, asked, strict=True) if names[place] == name]
        worst = min(by_name, key=lambda name: float(np.mean(by_name[name])))
        found[domain] = [round(100 * v, 1) for v in (rate.value, rate.low, rate.high)]
        found[f"worst {domain}"] = [worst, round(100 * float(np.mean(by_name[worst])), 1)]
    print(json.dumps(found))
    if options.sheet:
        wide = len(model.vocabulary.object_names)
        rows = [np.concatenate(drawn[i : i + wide], axis=1) for i in range(0, len(pairs), wide)]
        Image.fromarray(np.concatenate(rows, axis=0)).save(options.sheet)


if __name__ == "__main__":
    main()
