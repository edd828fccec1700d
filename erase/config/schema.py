"""The settings of one run. Each field says what changes when it does; what is left out depends on the method."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

WORLD = "world"

# What a method sets where the user is silent. Keys under "method" are the options which that method has; an option of
# another method is refused. The rates are for Stable Diffusion, near published ones; no run on it was made here.
# Published, each with one Adam: ESD 1e-5 for 1,000 steps, later 5e-5 for 200, without a retain
# loss; Concept Ablation 2e-6 times the batch, 100 steps; SalUn and SFRon 1e-5 in batches of 8; gradient ascent 1e-5.
METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    "esd": {
        "method": {"parameters": "xattn", "guidance": 1.0, "retain_weight": 1.0},
        "train": {"rounds": 500, "batch": 1, "forget": {"lr": 1e-5}, "retain": {"lr": 1e-5, "warmup": 20}},
    },
    "ablation": {
        "method": {"parameters": "xattn-kv", "retain_weight": 1.0},
        "train": {"rounds": 200, "batch": 4, "forget": {"lr": 8e-6}, "retain": {"lr": 8e-6}},
    },
    "salun": {
        "method": {"parameters": "full", "pictures": "concept", "mask_share": 0.5, "retain_weight": 1.0},
        "train": {"rounds": 500, "batch": 4, "forget": {"lr": 1e-5}, "retain": {"lr": 1e-5}},
    },
    "sfron": {
        "method": {"parameters": "full", "pictures": "concept", "ratio": 1.0, "retain_weight": 1.0},
        "train": {"rounds": 500, "batch": 4, "forget": {"lr": 1e-5}, "retain": {"lr": 1e-5}},
    },
    "ga": {
        "method": {"parameters": "xattn", "retain_weight": 1.0},
        "train": {"rounds": 100, "batch": 4, "forget": {"lr": 5e-6}, "retain": {"lr": 1e-5}},
    },
}

# Laid over METHOD_DEFAULTS when the model is the bundled world: a small network takes higher rates, and many pictures,
# or it forgets some of the concept's looks only and loses some of the rest. Chosen after the trials
# of docs/results/trials.md (not all of them were tried as they stand), on other concepts than docs/results.md reports.
_WORLD_ROLE = {"schedule": "cosine", "warmup": 0}
_WORLD_TRAIN = {"rounds": 200, "batch": 12, "pool": {"forget": 256, "retain": 640}}
# Guided pictures would teach a method that denoises them to guide twice (docs/methods.md).
_WORLD_PLAIN = {**_WORLD_TRAIN, "pool": {**_WORLD_TRAIN["pool"], "guidance": 1.0, "steps": 25}}


def _world(train: dict[str, Any], forget: float, retain: float, **method: Any) -> dict[str, Any]:
    roles = {"forget": {"lr": forget, **_WORLD_ROLE}, "retain": {"lr": retain, **_WORLD_ROLE}}
    return {"method": {"parameters": "xattn", **method}, "train": {**train, **roles}}


WORLD_DEFAULTS: dict[str, dict[str, Any]] = {
    "esd": _world({**_WORLD_TRAIN, "pool": {"forget": 96, "retain": 320}}, 6e-4, 6e-4),
    "ablation": _world(_WORLD_TRAIN, 12e-4, 12e-4),
    "salun": _world(_WORLD_PLAIN, 5e-4, 10e-4, pictures="anchor"),
    "sfron": _world(_WORLD_PLAIN, 10e-4, 10e-4, pictures="anchor"),
    # Gradient ascent forgets slowest where it breaks least: a low rate beside a high one, on few pictures beside many.
    "ga": _world({**_WORLD_PLAIN, "pool": {**_WORLD_PLAIN["pool"], "forget": 32}}, 1e-4, 12e-4),
}


OPTIONS = ("guidance", "pictures", "mask_share", "ratio")


def _refuse_bool(value: Any) -> Any:
    # YAML's yes and on are True, which pydantic would take for the number 1.
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _split_names(value: Any) -> Any:
    # `--keep dog,fox` and `keep: dog, fox` are lists too.
    return [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) and value != "auto" else value


Name = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool)]


class Section(BaseModel):
    """What all sections share: no unknown keys, no infinities, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)


class ConceptSection(Section):
    """What goes. A bare name stands for `{name: ...}`."""

    name: str = Field(min_length=1, max_length=200, description="What to erase, in the words a prompt would use.")
    kind: Literal["auto", "object", "style", "person", "nudity"] = Field(
        "auto", description="Decides the sentences it is trained and judged in; auto: looked up, else an object."
    )
    anchor: str = Field(
        "",
        max_length=200,
        description="What it becomes. Empty: esd leaves the concept out of the prompt, ablation, salun and sfron take "
        "the first of `keep`; ga needs none.",
    )
    keep: Annotated[Literal["auto"] | list[Name], BeforeValidator(_split_names)] = Field(
        "auto", description="Neighbours whose pictures must stay. auto: the nearest by text similarity."
    )

    @field_validator("anchor")
    @classmethod
    def _another_anchor(cls, value: str, info: ValidationInfo) -> str:
        if value.lower() == info.data.get("name", "").lower() != "":
            raise ValueError("the anchor is the concept itself, so nothing would change; name another one")
        return value

    @field_validator("keep")
    @classmethod
    def _others_to_keep(cls, value: Any, info: ValidationInfo) -> Any:
        if value == []:
            raise ValueError("nothing to keep; name at least one neighbour, or auto")
        if value != "auto" and info.data.get("name", "").lower() in (k.lower() for k in value):
            raise ValueError("the concept stands among those to keep; take it out")
        return value


class MethodSection(Section):
    """How it goes: the losses and the weights they may move. A bare name stands for `{name: ...}`."""

    name: Literal["esd", "ablation", "salun", "sfron", "ga"] = Field(
        description="Which losses; see `erase list methods`."
    )
    parameters: str = Field(
        min_length=1,
        description="Weights that train: xattn-kv, xattn, noxattn, full, or a regular expression on their names. "
        "More of them erase harder, cost more memory and break more.",
    )
    guidance: Real | None = Field(
        None, ge=0, le=30, description="esd: how far away it steers. Higher erases harder and hurts neighbours sooner."
    )
    pictures: Literal["concept", "anchor", "both"] | None = Field(
        None,
        description="salun, sfron: whose pictures the concept's prompt is relabelled on. concept: as published. "
        "anchor: leaves fewer blanks, where the anchor is drawn well. both: half of each.",
    )
    mask_share: Real | None = Field(
        None,
        gt=0,
        le=1,
        description="salun: share of the weights that training may move. Smaller spares the rest.",
    )
    ratio: Real | None = Field(
        None,
        gt=0,
        description="sfron: how much a weight must matter for forgetting over retaining. Higher moves fewer.",
    )
    retain_weight: Real = Field(
        gt=0,
        description="Factor on the retain loss. Adaptive optimizers cancel it unless the optimizer is shared or joint.",
    )

    @field_validator("parameters")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is neither a preset nor a valid regular expression ({error})") from None
        return value

    @field_validator(*OPTIONS)
    @classmethod
    def _own_option(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("name")
        if name and value is not None and info.field_name not in METHOD_DEFAULTS[name]["method"]:
            known = ", ".join(METHOD_DEFAULTS[name]["method"])
            raise ValueError(f"{name} has no such option; it has {known}")
        return value

    @model_serializer(mode="wrap")
    def _without_foreign_options(self, handler: Any) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class RoleSection(Section):
    """The optimizer of one role."""

    optimizer: Literal["adamw", "adam", "sgd"] = Field(
        "adamw", description="Update rule. sgd follows the size of the gradient, the others almost ignore it."
    )
    lr: Real = Field(gt=0, description="Step size. The ratio of forget to retain decides what breaks.")
    warmup: Count = Field(
        0, ge=0, description="Steps in which the rate rises from near zero; softens a role's first steps."
    )
    clip: Real | None = Field(
        1.0, gt=0, description="Largest gradient norm; longer ones are scaled down to it. null: no limit."
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="What the rate does after the warm-up: stay, or fall to zero at the last round."
    )
    weight_decay: Real = Field(
        0.0, ge=0, lt=1, description="Pull of every step towards zero. Acts once per role and round."
    )


class PoolSection(Section):
    """Trajectories sampled from the original model; training draws its noisy latents and pictures from them."""

    forget: Count = Field(32, ge=1, le=100_000, description="Trajectories of the concept. Fewer repeat sooner.")
    retain: Count = Field(64, ge=1, le=100_000, description="Trajectories of what stays. Fewer guard a narrower set.")
    steps: Count = Field(12, ge=1, le=1000, description="Denoising steps of each: quality and variety against time.")
    guidance: Real = Field(3.0, ge=0, le=30, description="How closely they follow their prompt.")
    batch: Count | None = Field(
        None, ge=1, le=4096, description="Trajectories at once; null: as suits the device. Memory and speed only."
    )
    refresh: Count = Field(
        200, ge=0, description="Rounds until all are sampled anew. Fewer: more variety, more time. 0: never."
    )


class TrainSection(Section):
    """The turns. One round is one forget step, then one retain step; under joint, one step on both losses."""

    rounds: Count = Field(ge=1, le=1_000_000, description="How long it trains. More erases further and drifts further.")
    batch: Count = Field(
        ge=1, le=4096, description="Noisy latents per micro-batch. More is steadier and needs more memory."
    )
    accumulate: Count = Field(
        1,
        ge=1,
        le=4096,
        description="Micro-batches per step: a larger batch in the same memory, at equal time per sample.",
    )
    precision: Literal["fp32", "bf16-mixed", "fp16-mixed"] = Field(
        "fp32", description="Precision of the forward and backward pass. Trained weights stay float32 either way."
    )
    optimizer: Literal["dual", "dual_plus", "shared", "joint"] = Field(
        "dual",
        description="dual: moments of its own for each role. dual_plus: a shared base and own deltas. shared: one "
        "optimizer, in turns. joint: one, on the sum. These take rate, rule and decay from forget.",
    )
    forget: RoleSection = Field(description="Optimizer of the forget steps.")
    retain: RoleSection = Field(description="Optimizer of the retain steps.")
    pool: PoolSection = Field(
        default_factory=lambda: PoolSection.model_validate({}), description="Where noisy latents come from."
    )
    preview_every: Count = Field(50, ge=0, description="Rounds between sample grids; training waits for each. 0: none.")
    checkpoint_every: Count = Field(
        50,
        ge=0,
        description="Rounds between checkpoints; a crash loses the rounds since. 0: only at the end or a stop.",
    )


class EvaluateSection(Section):
    """How it is judged, before and after, on the same prompts and noise."""

    prompts: Count = Field(200, ge=2, le=100_000, description="Prompts on each side. More narrow the intervals.")
    seeds: Count = Field(1, ge=1, le=1000, description="Pictures per prompt. They add less than as many more prompts.")
    steps: Count = Field(25, ge=1, le=1000, description="Denoising steps per picture. Fewer are faster and blurrier.")
    guidance: Real = Field(3.0, ge=0, le=30, description="How closely pictures follow their prompt.")
    skip: bool = Field(False, description="Leave judging out; `erase eval RUN` does it later.")


class Config(Section):
    """One run, complete: every value it depends on is in here."""

    model: str = Field(WORLD, min_length=1, description="world, a folder in diffusers' layout, or a checkpoint file.")
    concept: ConceptSection = Field(description="What goes.")
    method: MethodSection = Field(description="How it goes.")
    train: TrainSection = Field(description="The turns.")
    evaluate: EvaluateSection = Field(
        default_factory=lambda: EvaluateSection.model_validate({}), description="How it is judged."
    )
    seed: Count = Field(
        0, ge=0, lt=2**32, description="Start of every random stream. Same seed and machine: same bits."
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")
    output: str | None = Field(None, min_length=1, description="Run folder. null: runs/<date>-<concept>-<method>.")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        return complete(given) if isinstance(given, dict) else given


def complete(given: dict[str, Any]) -> dict[str, Any]:
    """Fill in what the method sets by default; wrong values pass through, for validation to report."""
    given = dict(given)
    for section in ("concept", "method"):
        if isinstance(given.get(section), str):
            given[section] = {"name": given[section]}
    method = given.setdefault("method", {"name": "esd"})
    if isinstance(method, dict):  # null is the same as not given, also after the run's own file was read again
        given["method"] = method = {k: v for k, v in method.items() if v is not None or k not in OPTIONS}
    name = method.get("name", "esd") if isinstance(method, dict) else "esd"
    name = name if isinstance(name, str) and name in METHOD_DEFAULTS else "esd"
    defaults: dict[str, Any] = {"method": {"name": name}}
    defaults = _laid_over(defaults, METHOD_DEFAULTS[name])
    if given.get("model", WORLD) == WORLD:
        defaults = _laid_over(defaults, WORLD_DEFAULTS[name])
    return _laid_over(defaults, given)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A copy of `below` with the values of `above` in it, section by section."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in below.items()}
    for key, value in above.items():
        mine = result.get(key)
        result[key] = _laid_over(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return result
