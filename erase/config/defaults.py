"""What each method sets where the user is silent."""

from __future__ import annotations

from typing import Any

# Every method that trains has these; null: the weights themselves, and a LoRA that counts once.
_TRAINED: dict[str, Any] = {"rank": None, "alpha": None, "retain_weight": 1.0}
_ATTACK = {"attack_tokens": 1, "attack_steps": 3, "attack_lr": 0.1, "attack_from": 0.2}
# 500 rounds of one latent draw from 384 states: sampling them anew sooner would take longer than training.
_POOL = {"refresh": 500}
_EDITOR = {"parameters": "xattn-kv", "keep_weight": 1.0, "keep_prompts": 800}

# Keys under "method" are the options which that method has; an option of
# another method is refused. The rates are for Stable Diffusion, near published ones; no run on it was made here.
# Published, each with one Adam: ESD 1e-5 for 1,000 steps, later 5e-5 for 200, without a retain
# loss; SPM 1e-4 for 3,000 steps; AdvUnlearn 1e-5 for 1,000; Concept Ablation 2e-6 times the batch, 100 steps; SalUn and
# SFRon 1e-5 in batches of 8; gradient ascent 1e-5.
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "esd": {
        "method": {"parameters": "xattn", "guidance": 1.0, **_TRAINED},
        "train": {
            "rounds": 500,
            "batch": 1,
            "forget": {"lr": 1e-5},
            "retain": {"lr": 1e-5, "warmup": 20},
            "pool": _POOL,
        },
    },
    "spm": {
        "method": {"parameters": "attentions", "guidance": 1.0, **_TRAINED, "rank": 1, "alpha": 1.0},
        "train": {
            "rounds": 1000,
            "batch": 1,
            "forget": {"lr": 1e-4, "schedule": "cosine"},
            "retain": {"lr": 1e-4, "schedule": "cosine", "warmup": 20},
            "pool": _POOL,
        },
    },
    "advunlearn": {
        "method": {"parameters": "text-encoder", "guidance": 1.0, **_TRAINED, **_ATTACK},
        "train": {
            "rounds": 1000,
            "batch": 1,
            "forget": {"lr": 1e-5},
            "retain": {"lr": 1e-5, "warmup": 20},
            "pool": _POOL,
        },
    },
    "ablation": {
        "method": {"parameters": "xattn-kv", **_TRAINED},
        "train": {"rounds": 200, "batch": 4, "forget": {"lr": 8e-6}, "retain": {"lr": 8e-6}},
    },
    "salun": {
        "method": {"parameters": "full", "pictures": "concept", "mask_share": 0.5, **_TRAINED},
        "train": {"rounds": 500, "batch": 4, "forget": {"lr": 1e-5}, "retain": {"lr": 1e-5}},
    },
    "sfron": {
        "method": {"parameters": "full", "pictures": "concept", "ratio": 1.0, **_TRAINED},
        "train": {"rounds": 500, "batch": 4, "forget": {"lr": 1e-5}, "retain": {"lr": 1e-5}},
    },
    "ga": {
        "method": {"parameters": "xattn", **_TRAINED},
        "train": {"rounds": 100, "batch": 4, "forget": {"lr": 5e-6}, "retain": {"lr": 1e-5}},
    },
    "npo": {
        "method": {"parameters": "xattn", "beta": 10.0, **_TRAINED},
        "train": {"rounds": 200, "batch": 4, "forget": {"lr": 1e-5}, "retain": {"lr": 1e-5}},
    },
    # Editors solve for their weights: they have no "train". Published: UCE and RECE lam 0.5 and 0.1.
    "uce": {"method": {**_EDITOR, "lam": 0.5}},
    "rece": {"method": {**_EDITOR, "lam": 0.1, "repeats": 1, "reg": 0.1}},
    "speed": {"method": {"parameters": "xattn-kv", "lam": 0.1, "keep_prompts": 800, "null": 1e-3}},
    # Baselines (docs/baselines.md). Those that change no weights keep a few, so that their folders are runs' folders.
    "noop": {"method": {"parameters": "xattn-kv"}},
    "word_filter": {"method": {"parameters": "xattn-kv"}},
    "negative_prompt": {"method": {"parameters": "xattn-kv"}},
    "destroyer": {"method": {"parameters": "full"}},
    "retrained": {"method": {"parameters": "full", "source": None}},
}
BASELINES = ("noop", "word_filter", "negative_prompt", "destroyer", "retrained")

# Laid over METHOD_DEFAULTS when the model is the bundled world: a small network takes higher rates, and many pictures,
# or it forgets some of the concept's looks only and loses some of the rest. Chosen after the trials of
# docs/results/trials.md (not all were tried as they stand), on other concepts than docs/results.md reports.
_WORLD_ROLE = {"schedule": "cosine", "warmup": 0}
_WORLD_TRAIN = {"rounds": 200, "batch": 12, "pool": {"forget": 256, "retain": 640}}
_WORLD_TRAILS = {"forget": 96, "retain": 320, "refresh": 200}
# Guided pictures would teach a method that denoises them to guide twice (docs/methods.md).
_WORLD_PLAIN = {**_WORLD_TRAIN, "pool": {**_WORLD_TRAIN["pool"], "guidance": 1.0, "steps": 25}}


def _world(train: dict[str, Any], forget: float, retain: float, **method: Any) -> dict[str, Any]:
    roles = {"forget": {"lr": forget, **_WORLD_ROLE}, "retain": {"lr": retain, **_WORLD_ROLE}}
    return {"method": {"parameters": "xattn", **method}, "train": {**train, **roles}}


WORLD_DEFAULTS: dict[str, dict[str, Any]] = {
    "esd": _world({**_WORLD_TRAIN, "pool": _WORLD_TRAILS}, 6e-4, 6e-4),
    "spm": _world({**_WORLD_TRAIN, "pool": _WORLD_TRAILS}, 10e-4, 10e-4, parameters="attentions"),
    "advunlearn": _world({**_WORLD_TRAIN, "pool": _WORLD_TRAILS}, 2e-4, 2e-4, parameters="text-encoder"),
    "ablation": _world(_WORLD_TRAIN, 12e-4, 12e-4),
    "salun": _world(_WORLD_PLAIN, 5e-4, 10e-4, pictures="anchor"),
    "sfron": _world(_WORLD_PLAIN, 10e-4, 10e-4, pictures="anchor"),
    # Gradient ascent forgets slowest where it breaks least: a low rate beside a high one, on few pictures beside many.
    "ga": _world({**_WORLD_PLAIN, "pool": {**_WORLD_PLAIN["pool"], "forget": 32}}, 1e-4, 12e-4),
    "npo": _world({**_WORLD_PLAIN, "pool": {**_WORLD_PLAIN["pool"], "forget": 32}}, 2e-4, 6e-4, beta=5.0),
    "uce": {"method": {"lam": 0.01}},
    "rece": {"method": {"lam": 0.01}},
    "speed": {"method": {"lam": 0.01, "null": 0.03}},
    **{name: {} for name in BASELINES},
}

EDITORS = tuple(name for name, defaults in METHOD_DEFAULTS.items() if "train" not in defaults and name not in BASELINES)
UNTRAINED = (*EDITORS, *BASELINES)
