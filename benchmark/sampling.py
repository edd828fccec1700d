"""Pictures a second: this program's sampling beside diffusers' own pipeline, on the same prompts, noise and weights.

    python benchmark/sampling.py                       # the bundled world, 64 pictures, three passes in turn
    python benchmark/sampling.py --model FOLDER --images 16 --steps 50 --json docs/results/sampling.json

Three ways take turns, so that a busy moment of the machine meets all of them: the pipeline called prompt by prompt, the
pipeline called batch by batch (as large as ours), and `erase.sampling.sample`. Printed: the median rate of each,
its range, the ratio to the batched pipeline, and how far the pictures lie apart.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from erase.models import Model, load_model
from erase.sampling import Shot, at_once, first_noise, sample
from erase.world.vocabulary import OBJECT_NAMES, STYLE_NAMES


def by_pipeline(model: Model, shots: list[Shot], batch: int, steps: int, guidance: float) -> list[np.ndarray]:
    """diffusers' pipeline, called for `batch` prompts at a time, from the noise that `sample` begins with."""
    pipeline, drawn = model.pipeline(), []
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(shots), batch):
        chosen = shots[start : start + batch]
        made = pipeline(
            [shot.prompt for shot in chosen],
            latents=first_noise(model, chosen),
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="np",
        )
        drawn += [(image * 255).round().astype(np.uint8) for image in made.images]
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="world")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.model)
    shots = [
        Shot(f"a {STYLE_NAMES[i % len(STYLE_NAMES)]} {OBJECT_NAMES[i % len(OBJECT_NAMES)]}", f"speed/{i}", i)
        for i in range(options.images)
    ]
    settings = options.steps, options.guidance
    ways: dict[str, Callable[[], list[np.ndarray]]] = {
        "diffusers, prompt by prompt": lambda: by_pipeline(model, shots, 1, *settings),
        "diffusers, batch by batch": lambda: by_pipeline(model, shots, at_once(model), *settings),
        "erase": lambda: sample(model, shots, steps=options.steps, guidance=options.guidance),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    drawn: dict[str, list[np.ndarray]] = {}
    for _ in range(options.passes):
        for name, way in ways.items():
            started = time.perf_counter()
            drawn[name] = way()
            rates[name].append(len(shots) / (time.perf_counter() - started))
    plain = drawn["diffusers, batch by batch"]
    found = {
        name: {
            "pictures_per_second": round(median(values), 3),
            "range": [round(min(values), 3), round(max(values), 3)],
            "times_batched": round(median(values) / median(rates["diffusers, batch by batch"]), 3),
            "largest_difference": max(
                int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(drawn[name], plain, strict=True)
            ),
        }
        for name, values in rates.items()
    }
    told = {"images": len(shots), "steps": options.steps, "batch": at_once(model), "threads": torch.get_num_threads()}
    print(json.dumps(told | {"ways": found}, indent=2))
    if options.json:
        options.json.write_text(json.dumps(told | {"ways": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
