"""The adversary of a run: a soft prefix that is made a little worse before every forget loss."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from erase.distributed import ALONE, Group
from erase.errors import AFRESH, Unresumable
from erase.methods import Batch, Options
from erase.methods.advunlearn import attack
from erase.methods.parts import Predict
from erase.models import Model
from erase.runtime import stable_seed


class Attack:
    """Prefixes of `attack_tokens` embeddings, one for each CLIP, shared by all prompts.

    As published a fresh one takes 30 steps for every update; this one goes on from where it stood, so that a few steps
    do. It begins as words drawn from the vocabulary, and is never longer than the longest of these.
    """

    def __init__(self, model: Model, options: Options, rounds: int, seed: int) -> None:
        self.options, self.first = options, round(options.attack_from * rounds)
        generator = torch.Generator().manual_seed(stable_seed(seed, "attack"))
        prefix: list[Tensor] = []
        self.sizes: list[float] = []
        self.longest: list[float] = []
        for part in model.clips:
            words = getattr(model, part).get_input_embeddings().weight.detach()
            chosen = torch.randint(len(words), (options.attack_tokens,), generator=generator)
            prefix.append(words[chosen.to(words.device)].clone())
            self.sizes.append(options.attack_lr * float(words.square().mean().sqrt()))
            self.longest.append(float(words.norm(dim=1).max()))
        self.prefix = tuple(prefix)

    def harder(self, student: Predict, batch: Batch, round: int, group: Group = ALONE) -> Batch:
        """The batch under the prefix, made worse by `attack_steps`; the batch itself before the attack begins.

        The prefix is one in all processes of a group: worse for the whole batch, of which each has a share.
        """
        if round < self.first:
            return batch
        found = attack(student, batch, self.prefix, self.options.attack_steps, tuple(self.sizes), group.average)
        self.prefix = tuple(
            p * (m / p.norm(dim=1, keepdim=True)).clamp(max=1) for p, m in zip(found, self.longest, strict=True)
        )
        return replace(batch, text=replace(batch.text, prefix=self.prefix))

    def state(self) -> list[Tensor]:
        """What a checkpoint needs."""
        return list(self.prefix)

    def load(self, saved: list[Tensor]) -> None:
        """Go on from `state`; raises `InputError` for that of another model or number of tokens."""
        if [tuple(value.shape) for value in saved] != [tuple(value.shape) for value in self.prefix]:
            raise Unresumable(f"the checkpoint's adversarial prefix is of other sizes; {AFRESH}")
        self.prefix = tuple(value.to(old) for value, old in zip(saved, self.prefix, strict=True))
