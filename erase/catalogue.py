"""What there is to choose from: methods, attacks, models, concepts, parameters."""

from __future__ import annotations

from erase.attacks.table import ATTACKS
from erase.methods import BASELINES, EDITORS, METHODS
from erase.models import FAMILIES, WORLD, load_model, select
from erase.world.vocabulary import OBJECT_NAMES, STYLE_NAMES


def listing(kind: str) -> list[tuple[str, str]]:
    """What `erase list KIND` shows: names with one line each."""
    if kind == "methods":
        return [(m.name, m.summary) for m in (*METHODS.values(), *EDITORS.values(), *BASELINES.values())]
    if kind == "attacks":
        return [(name, attack.summary) for name, attack in ATTACKS.items() if attack.control]
    if kind == "models":
        return [
            (WORLD, "bundled: 60 objects in 6 styles, 64 px"),
            ("RUN", "the folder of a finished run: its erased model"),
            ("FOLDER", "Stable Diffusion 1, 2, XL or 3, in diffusers' layout"),
            ("FILE", "1, 2 or XL as one .safetensors, or a .ckpt with weights alone"),
            ("ORG/NAME[@REVISION]", "a folder of the Hugging Face hub, or from its local cache"),
        ]
    if kind == "concepts":
        return [(n, "object of the world") for n in OBJECT_NAMES] + [(n, "style of the world") for n in STYLE_NAMES]
    model = load_model(WORLD)
    presets = FAMILIES[model.family].presets
    counts = {p: sum(v.numel() for v in select(model, p).values()) for p in presets}
    return [(p, f"{counts[p]:,} weights of the world; pattern {presets[p] or '(everything)'}") for p in presets]
