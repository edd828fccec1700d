"""What a run sets for its kind of concept and for the memory there is; docs/presets.md and docs/memory.md say why."""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]

# By kind and method, laid over METHOD_DEFAULTS for every model but the bundled world. What nobody published for a kind
# is not here. Published with one Adam; rates and rounds are put for our batches, as METHOD_DEFAULTS has them.
_U: Settings = {"method": {"parameters": "noxattn"}}
KIND_DEFAULTS: dict[str, dict[str, Settings]] = {
    "style": {"esd": {"method": {"parameters": "xattn"}}, "rece": {"method": {"repeats": 1, "reg": 1e-3}}},
    "object": {"esd": _U, "rece": {"method": {"repeats": 1, "reg": 1e-3}}},
    "person": {},
    "nudity": {
        "esd": _U,
        "ablation": {"train": {"rounds": 400, "forget": {"lr": 16e-6}, "retain": {"lr": 16e-6}}},
        "salun": {"train": {"rounds": 200}},
        "sfron": {"train": {"rounds": 1000}},
        "rece": {"method": {"repeats": 3, "reg": 0.1}},
    },
}

_SMALL: Settings = {"precision": "bf16-mixed", "frozen": "half", "checkpointing": True, "offload": True}
# By a card's memory, laid over all other defaults. Each has the same keys, so that one takes another's place.
MEMORY: dict[str, Settings] = {
    "24gb": {**_SMALL, "states": "8bit"},
    "12gb": {**_SMALL, "states": "fp32"},
    "8gb": {**_SMALL, "states": "8bit"},
}
# Latents in one micro-batch, and what is trained by default at most: full and noxattn do not fit into 12 GB.
MOST_AT_ONCE = {"24gb": 4, "12gb": 2, "8gb": 1}
MOST_PARAMETERS = {"12gb": "xattn", "8gb": "xattn"}
LARGE = ("full", "noxattn")


def in_memory(defaults: Settings, memory: Any, given: Settings) -> Settings:
    """The defaults for a preset's memory; `given` is what the user set, whose micro-batches stay."""
    if not isinstance(memory, str) or memory not in MEMORY or "train" not in defaults:
        return defaults
    method, train = dict(defaults["method"]), {**defaults["train"], **MEMORY[memory]}
    if method.get("parameters") in LARGE:
        method["parameters"] = MOST_PARAMETERS.get(memory, method["parameters"])
    if not {"batch", "accumulate"} & set(given):
        train |= micro_batches(train["batch"], memory)
    return {**defaults, "method": method, "train": train}


def micro_batches(batch: int, memory: str) -> dict[str, int]:
    """A batch in parts that fit; a little larger where it cannot be cut in equal parts."""
    parts = -(-batch // MOST_AT_ONCE[memory])
    return {"batch": -(-batch // parts), "accumulate": parts}


def without_memory(given: Settings, memory: Any) -> Settings:
    """A file's settings for a preset that a flag names: it beats what the file says of memory."""
    if not isinstance(memory, str) or memory not in MEMORY:
        return given
    method, train = given.get("method"), given.get("train")
    if isinstance(method, dict) and method.get("parameters") in LARGE and memory in MOST_PARAMETERS:
        given = {**given, "method": {**method, "parameters": MOST_PARAMETERS[memory]}}
    if not isinstance(train, dict):
        return given
    kept = {key: value for key, value in train.items() if key not in MEMORY[memory]}
    batch, accumulate = train.get("batch"), train.get("accumulate", 1)
    if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in (batch, accumulate)):
        kept |= micro_batches(batch * accumulate, memory)
    return {**given, "train": kept}
