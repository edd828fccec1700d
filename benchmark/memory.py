"""The table of docs/memory.md: what runs on models of usual sizes are estimated to take.

python benchmark/memory.py
"""

from __future__ import annotations

from erase.config.presets import MEMORY, MOST_AT_ONCE
from erase.estimate import COUNTED, Weights, bytes_of_states, estimate, rounded
from erase.models import FAMILIES

# Weights of the UNet, by what is trained of it, and of text encoders and VAE together. The LoRA: its factors, and the
# weights that it lies on.
COUNTS: dict[str, dict[str, int]] = {
    "sd1": {
        "xattn-kv": 19_169_280,
        "xattn": 43_962_560,
        "full": 859_520_964,
        "lora": 397_824,
        "others": 123_060_480 + 83_653_863,
    },
    "sd2": {
        "xattn-kv": 25_559_040,
        "xattn": 50_352_320,
        "full": 865_910_724,
        "lora": 430_592,
        "others": 340_387_840 + 83_653_863,
    },
    "sdxl": {
        "xattn-kv": 340_787_200,
        "xattn": 545_670_400,
        "full": 2_567_463_684,
        "lora": 3_143_680,
        "others": 123_060_480 + 694_659_840 + 83_653_863,
    },
}
SETS = {"LoRA of rank 4 on xattn": "lora", "xattn-kv": "xattn-kv", "xattn": "xattn", "full": "full"}


def gib(family: str, trained: str, preset: str | None, optimizer: str = "dual") -> float:
    """Of a run with adamw for both roles; without a preset in float32 with nothing saved, one latent at a time."""
    counts, settings = COUNTS[family], MEMORY[preset] if preset else {}
    lora, offload = trained == "lora", settings.get("offload", False)
    weights = Weights(
        unet=counts["full"],
        frozen=counts["full"] - (0 if lora else counts[trained]),
        trained=counts[trained],
        changed=counts["xattn" if lora else trained],
        others=0 if offload else counts["others"],
    )
    need = estimate(
        weights,
        family,
        COUNTED[family].side,
        states=bytes_of_states(optimizer, ("adamw", "adamw"), settings.get("states", "fp32")),
        batch=MOST_AT_ONCE[preset] if preset else 1,
        mixed=bool(preset),
        half=settings.get("frozen") == "half",
        checkpointing=settings.get("checkpointing", False),
        offload=offload,
        masked=False,
    )
    return need.total


def table() -> str:
    """Markdown: a row for each family and set of weights, a column for each preset; bold where it fits the card."""
    lines = [f"| model | trained | no preset | {' | '.join(MEMORY)} |", f"|{'---|' * (3 + len(MEMORY))}"]
    for family in COUNTS:
        for title, trained in SETS.items():
            cells = [f"{rounded(gib(family, trained, None)):.1f}"]
            for preset in MEMORY:
                need, card = rounded(gib(family, trained, preset)), float(preset.removesuffix("gb"))
                cells.append(f"**{need:.1f}**" if need <= card else f"{need:.1f}")
            lines.append(f"| {FAMILIES[family].title} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
