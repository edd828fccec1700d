"""Draw the training curves of a build folder of `erase world`: one panel a stage, loss against step.

python benchmark/world_curves.py build/work --output docs/world_curves.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

STAGES = {
    "vae": "VAE decoder",
    "text_encoder": "text encoder, contrastive",
    "unet": "UNet and text encoder, v",
    "judge_conv": "judge conv",
    "judge_patch": "judge patch",
    "clip": "CLIP",
}


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of one stage's log."""
    with path.open(encoding="utf-8") as file:
        rows = [(int(r["step"]), float(r["loss"])) for r in csv.DictReader(file)]
    found = np.array(sorted(dict(rows).items()))
    return found[:, 0], found[:, 1]


def smooth(values: np.ndarray, width: int = 9) -> np.ndarray:
    """Running mean, shorter at the ends."""
    ones = np.ones(min(width, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones_like(values), ones, "same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/world_curves.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 3).flat, STAGES.items(), strict=True):
        steps, losses = read(options.build / f"{name}.csv")
        axes.plot(steps, losses, alpha=0.3, linewidth=0.8)
        axes.plot(steps, smooth(losses), linewidth=1.6, color="C0")
        axes.set(title=title, yscale="log")
        axes.title.set_size(10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
    figure.supxlabel("step", size=9)
    figure.supylabel("loss", size=9)
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
