"""The settings of a method, and what all sections of settings share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_serializer

from erase.config.defaults import METHOD_DEFAULTS

OPTIONS = (
    "rank", "alpha", "guidance", "pictures", "mask_share", "ratio", "beta", "retain_weight",
    "attack_tokens", "attack_steps", "attack_lr", "attack_from",
    "lam", "keep_weight", "keep_prompts", "repeats", "reg", "null", "source",
)  # fmt: skip


def _refuse_bool(value: Any) -> Any:
    # YAML's yes and on are True, which pydantic would take for the number 1.
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Count = Annotated[int, BeforeValidator(_refuse_bool)]
Real = Annotated[float, BeforeValidator(_refuse_bool)]


class Section(BaseModel):
    """What all sections share: no unknown keys, no infinities, no change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)


class MethodSection(Section):
    """How it goes: the losses and the weights they may move. A bare name stands for `{name: ...}`."""

    name: Literal[
        "esd", "spm", "advunlearn", "ablation", "salun", "sfron", "ga", "npo", "uce", "rece", "speed",
        "noop", "word_filter", "negative_prompt", "destroyer", "retrained",
    ] = Field(description="Which losses, solution in closed form, or baseline; see `erase list methods`.")  # fmt: skip
    parameters: str = Field(
        min_length=1,
        description="Weights that change: xattn-kv, xattn, noxattn, attentions, full, text-encoder, or a regular "
        "expression on their names. More of them erase harder, cost memory and break more. uce, rece and speed: inside "
        "xattn-kv.",
    )
    rank: Count | None = Field(
        None,
        ge=1,
        le=1024,
        description="Train a LoRA of this rank on the layers among `parameters` instead of their weights (null): less "
        "memory, a small file, a softer change. spm: always a LoRA.",
    )
    alpha: Real | None = Field(
        None, gt=0, description="The LoRA counts alpha / rank times; null: once. Lower is like a lower rate."
    )
    guidance: Real | None = Field(
        None,
        ge=0,
        le=30,
        description="esd, spm, advunlearn: how far away it steers. Higher erases harder and hurts neighbours sooner.",
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
    beta: Real | None = Field(
        None,
        gt=0,
        description="npo: how soon ascent fades: at 3 / beta above the original loss a tenth is left. Higher erases "
        "less and breaks less.",
    )
    attack_tokens: Count | None = Field(
        None, ge=1, le=32, description="advunlearn: length of the adversarial prefix. Longer ones attack harder."
    )
    attack_steps: Count | None = Field(
        None,
        ge=0,
        le=1000,
        description="advunlearn: steps of the attack before each update, a forward and a backward pass each. 0: none.",
    )
    attack_lr: Real | None = Field(
        None, gt=0, description="advunlearn: size of an attack's step, in units of the word embeddings' spread."
    )
    attack_from: Real | None = Field(
        None, ge=0, le=1, description="advunlearn: share of the rounds that pass before the attack begins."
    )
    retain_weight: Real | None = Field(
        None,
        ge=0,
        description="Factor on the retain loss. Adaptive optimizers cancel it unless the optimizer is shared or joint. "
        "0: no retain steps, for comparison.",
    )
    lam: Real | None = Field(
        None, gt=0, description="uce, rece, speed: how dear any change of a weight is. Lower erases harder."
    )
    keep_weight: Real | None = Field(
        None, ge=0, description="uce, rece: how dear a change on what is kept is, beside 1 for the concept."
    )
    keep_prompts: Count | None = Field(
        None, ge=0, le=100_000, description="uce, rece, speed: prompts that are kept. Fewer guard a narrower set."
    )
    repeats: Count | None = Field(
        None, ge=0, le=100, description="rece: times that it looks for what brings the concept back. 0 is uce."
    )
    reg: Real | None = Field(
        None, gt=0, description="rece: how short what it finds must be. Higher erases less and breaks less."
    )
    null: Real | None = Field(
        None,
        ge=0,
        lt=1,
        description="speed: share of the energy of what is kept in the directions that may change. Higher erases "
        "harder and breaks more.",
    )

    source: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="retrained: the model trained without the concept, a folder as `erase world --small` writes it.",
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
