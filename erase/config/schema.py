"""The settings of one run. Each field says what changes when it does; what is left out depends on the method."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from erase.config.complete import WORLD, complete
from erase.config.method import Count, MethodSection, Real, Section

EIGHT_BIT = ("adamw", "adamw8bit-bnb")  # rules whose states can be, or always are, in 8 bits
SHARING = ("dual_first", "dual_second", "dual_rates")  # roles share a moment of AdamW, or both


def _split_names(value: Any) -> Any:
    # `--keep dog,fox` and `keep: dog, fox` are lists too.
    return [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) and value != "auto" else value


Name = Annotated[str, Field(min_length=1, max_length=200)]
# A path, or a name with options that may hold one.
Words = Annotated[str, Field(min_length=1, max_length=4096)]


class ConceptSection(Section):
    """One thing that goes. A bare name stands for `{name: ...}`."""

    name: str = Field(min_length=1, max_length=200, description="What to erase, in the words a prompt would use.")
    kind: Literal["auto", "object", "style", "person", "nudity"] = Field(
        "auto", description="Decides the sentences it is trained and judged in; auto: looked up, else an object."
    )
    anchor: str = Field(
        "",
        max_length=200,
        description="What it becomes. Empty: esd, spm and advunlearn leave the concept out of the prompt, ablation, "
        "salun, sfron, uce, rece and speed take the first of `keep`; ga and npo need none.",
    )
    keep: Annotated[Literal["auto"] | list[Name], BeforeValidator(_split_names)] = Field(
        "auto", description="Neighbours whose pictures must stay. auto: the nearest by text similarity."
    )
    synonyms: Annotated[list[Name], BeforeValidator(_split_names)] | None = Field(
        None,
        description="Other names of it, which role forget_synonym_seen of `evaluate.roles` asks for beside its table's "
        "own; judged, never trained. The world has its own.",
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

    @field_validator("synonyms")
    @classmethod
    def _other_names(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            taken = {info.data.get("anchor", "").lower(): "the anchor"}
            taken[info.data.get("name", "").lower()] = "the concept itself"
            kept = info.data.get("keep", "auto")
            taken |= {} if kept == "auto" else {name.lower(): "to be kept" for name in kept}
            for name in value:
                if name.lower() in taken:
                    raise ValueError(f"{name!r} is {taken[name.lower()]}; take it out")
        return value

    @model_serializer(mode="wrap")
    def _without_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`synonyms` came later, and is left out where there are none: older runs dump as they did."""
        return {key: value for key, value in dump(self).items() if value is not None or key != "synonyms"}


class RoleSection(Section):
    """The optimizer of one role."""

    optimizer: Literal["adamw", "adam", "sgd", "adamw8bit-bnb"] = Field(
        "adamw",
        description="Update rule. sgd follows the size of the gradient, the others almost ignore it. adamw8bit-bnb: "
        "bitsandbytes' AdamW with 8-bit states, rounded to the nearest (extra lowmem).",
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

    forget: Count = Field(
        32, ge=1, le=100_000, description="Trajectories of what goes, several concepts in turn. Fewer repeat sooner."
    )
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
    frozen: Literal["fp32", "half"] = Field(
        "fp32",
        description="Weights that are not trained, while it trains. half: half their memory and the same numbers: the "
        "mixed precision that it needs casts them anyway; the float32 ones wait on the CPU, and are back at the end.",
    )
    states: Literal["fp32", "8bit"] = Field(
        "fp32",
        description="Optimizer states. 8bit: a quarter of their memory, slower steps and rounded averages; for adamw "
        "and dual_plus.",
    )
    checkpointing: bool = Field(
        False,
        description="Compute the UNet's activations again in the backward pass: far less memory, a third more time.",
    )
    offload: bool = Field(
        False,
        description="Text encoders, VAE and pools wait on the CPU while they are not used, and fewer pictures are "
        "drawn at once: less GPU memory, somewhat slower.",
    )
    channels_last: bool = Field(
        False,
        description="Another order of convolutions' numbers in memory, which GPUs with tensor cores compute faster; "
        "other last bits.",
    )
    optimizer: Literal["dual", "dual_plus", "dual_first", "dual_second", "dual_rates", "shared", "joint"] = Field(
        "dual",
        description="dual: moments of its own for each role; dual_first: the first alone, dual_second: the second, "
        "dual_rates: neither, a rate each. dual_plus: a shared base and own deltas. shared: one optimizer, in turns. "
        "joint: one, on the sum. These two take rate, rule and decay from forget.",
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
    keep_checkpoints: Count = Field(
        2,
        ge=1,
        le=1000,
        description="Newest checkpoints that stay on the disk. From 2 on a damaged one costs the rounds since the one "
        "before; each has the trained weights and the optimizer's states, and one more lies there while it is written.",
    )

    @model_validator(mode="after")
    def _fitting(self) -> TrainSection:
        if self.frozen == "half" and self.precision == "fp32":
            raise ValueError("frozen half needs precision bf16-mixed or fp16-mixed, got fp32")
        both: tuple[Literal["forget", "retain"], ...] = ("forget", "retain")
        rules = {role: getattr(self, role).optimizer for role in both}
        if self.optimizer in SHARING and (others := [role for role in both if rules[role] != "adamw"]):
            raise ValueError(
                f"{self.optimizer} shares moments, which both roles have under adamw alone, got {others[0]}.optimizer "
                f"{rules[others[0]]}; use adamw, or optimizer dual"
            )
        roles = {"dual": both, "dual_plus": ()}.get(self.optimizer, both[:1])
        others = [role for role in roles if rules[role] not in EIGHT_BIT]
        if self.states == "8bit" and others:
            raise ValueError(
                f"states 8bit are for adamw, got {others[0]}.optimizer {rules[others[0]]}; use adamw, or states fp32"
            )
        return self


class EvaluateSection(Section):
    """How it is judged, before and after, on the same prompts and noise."""

    prompts: Count = Field(
        200, ge=2, le=100_000, description="Prompts on each side, which several concepts share. More narrow them."
    )
    seeds: Count = Field(1, ge=1, le=1000, description="Pictures per prompt. They add less than as many more prompts.")
    steps: Count = Field(25, ge=1, le=1000, description="Denoising steps per picture. Fewer are faster and blurrier.")
    guidance: Real = Field(3.0, ge=0, le=30, description="How closely pictures follow their prompt.")
    skip: bool = Field(False, description="Leave judging out; `erase eval RUN` does it later.")
    roles: Annotated[list[Name], BeforeValidator(_split_names)] | None = Field(
        None,
        description="Further kinds of prompts: forget_synonym_seen, forget_synonym_rare, forget_description, all, on "
        "models other than the world also forget_super, forget_lang, compose, in_prompt (docs/evaluation.md). More "
        "pictures, and what direct prompts do not show.",
    )
    files: list[Words] | None = Field(
        None,
        description="Prompt files, [ROLE=]FILE.csv; each takes the place of its role's own prompts. Role: forget.",
    )
    judges: list[Words] | None = Field(
        None,
        description="Who looks at the pictures, NAME[:options]: clip, imagenet, nudenet (docs/judges.md). null: the "
        "world's own on the world, nobody on other models.",
    )

    inception: str | None = Field(
        None,
        min_length=1,
        description="Inception's weights, for FID and KID of after against before: a file, or auto for where torch "
        "keeps it (docs/statistics.md). null: neither.",
    )

    @model_serializer(mode="wrap")
    def _without_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings that came later are left out where they are not set: older runs dump as they did."""
        return {key: value for key, value in dump(self).items() if value is not None or key not in LATER}


LATER = ("roles", "files", "judges", "inception")


# Tags, so that what is wrong with a list is not also reported as a section gone wrong. They look like pydantic's own
# branches, which no message shows.
Concepts = Annotated[
    Annotated[ConceptSection, Tag("section[one]")]
    | Annotated[list[ConceptSection], Field(min_length=1, max_length=1000), Tag("list[several]")],
    Discriminator(lambda given: "list[several]" if isinstance(given, list) else "section[one]"),
]


class Config(Section):
    """One run, complete: every value it depends on is in here."""

    model: str = Field(
        WORLD,
        min_length=1,
        description="world, a folder in diffusers' layout, a checkpoint file, a hub id (org/name[@revision]), or the "
        "folder of a finished run, whose erased model this one goes on from.",
    )
    variant: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_]{1,20}$",
        description="Which weight files of a folder or hub id are read, say fp16: a smaller download, rounded weights. "
        "null: the plain ones, or the only ones. Weights become float32 either way.",
    )
    concept: Concepts = Field(description="What goes: one, or a list, each with its own anchor and neighbours.")
    method: MethodSection = Field(description="How it goes.")
    train: TrainSection | None = Field(None, description="The turns; uce, rece and speed have none.")
    evaluate: EvaluateSection = Field(
        default_factory=lambda: EvaluateSection.model_validate({}), description="How it is judged."
    )
    memory: Literal["8gb", "12gb", "24gb"] | None = Field(
        None,
        description="Settings for a GPU of this memory where nothing else is said: what is trained, micro-batches and "
        "how memory is spent (docs/memory.md). null: as the method has it.",
    )
    seed: Count = Field(
        0, ge=0, lt=2**32, description="Start of every random stream. Same seed and machine: same bits."
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps.")
    output: str | None = Field(None, min_length=1, description="Run folder. null: runs/<date>-<concept>-<method>.")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any, info: ValidationInfo) -> Any:
        """With `first` in the context, the model that a chain of runs began from, the defaults are for that one."""
        first = (info.context or {}).get("first")
        return complete(given, first) if isinstance(given, dict) else given

    @property
    def concepts(self) -> list[ConceptSection]:
        """What goes, as a list also where it is one."""
        return self.concept if isinstance(self.concept, list) else [self.concept]

    @property
    def turns(self) -> TrainSection:
        """The settings of training. Raises `ValueError` for a method that does not train."""
        if self.train is None:
            raise ValueError(f"{self.method.name} does not train")
        return self.train
