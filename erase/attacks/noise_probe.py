"""Does the concept come back when the sampler strays? Fresh noise in every step, more of it than the model was made for
(the noise probe of "When Are Concepts Erased From Diffusion Models?", Lu et al., NeurIPS 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from erase.attacks.budget import Budget
from erase.attacks.subject import Subject, Try, developed, in_turns, noise_of
from erase.models.noising import Process
from erase.runtime import stable_seed
from erase.sampling import denoise

ETAS = (1.0, 1.2, 1.5, 1.85)  # 0 is the sampler that judges the run, 1 is ancestral sampling


def noise_probe(subject: Subject, budget: Budget) -> list[Try]:
    """The plain prompt from each of its seeds, by the control's first noises, with `ETAS` in turn.

    Different from the published probe: it has no scale of the variance beside eta, and no judge picks what it reports.
    """
    found = []
    for turn in range(budget.pictures):
        eta = ETAS[turn % len(ETAS)]
        found += developed(subject, _strayed(subject, turn, eta), turn + 1, f"eta {eta:g}", turn)
    return found


def stirred(process: Process, now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor], x: Tensor, after: Tensor,
            predicted: Tensor, eta: float, fresh: Tensor) -> Tensor:  # fmt: skip
    """A deterministic solver's step from x to `after` with a part of its noise replaced (Song et al. 2021, eq. 12, 16).

    x' = a' x_0 + sqrt(b'^2 - s^2) eps + s z,  s = eta b'/b sqrt(b^2 - (a b'/a')^2), with a, b `now` and a', b' `then`.
    Beyond eta 1 s may be above b': then nothing is left of eps, and x' has more noise than its time.
    """
    (a, b), (a_next, b_next) = now, then
    s = eta * b_next / b * (b.square() - (a * b_next / a_next).square()).clamp(min=0).sqrt()
    kept = (b_next.square() - s.square()).clamp(min=0).sqrt()
    return after + (kept - b_next) * process.noise(predicted, x, a, b) + s * fresh


def _strayed(subject: Subject, turn: int, eta: float) -> Tensor:
    """Clean latents (N, C, h, w) of the cases."""
    model, steps, guidance = subject.model, subject.steps, subject.guidance
    text, empty = model.encode(model.told([case.prompt for case in subject.cases])), model.negative()
    begun = noise_of(subject, turn)
    times = model.solver(steps).timesteps
    known = [model.process.parts(model.scheduler, time) for time in times]
    fresh = torch.stack([_fresh(subject, case.prompt_id, turn, steps) for case in subject.cases]).to(begun.device)

    def onward(part: slice) -> Tensor:
        x = begun[part]
        for i in range(steps):
            seen: list[Tensor] = []

            def visit(i: int, t: Tensor, x: Tensor, named: Tensor, empty: Tensor, seen: list[Tensor] = seen) -> None:
                seen.append(empty + guidance * (named - empty))

            after = denoise(model, text[part], empty, x, steps, guidance, visit, first=i, last=i + 1)
            if i == steps - 1:
                return after
            x = stirred(model.process, known[i], known[i + 1], x, after, seen[0], eta, fresh[part, i])
        return x

    return torch.cat(in_turns(subject, len(subject.cases), f"noise probe at eta {eta:g}", onward))


def _fresh(subject: Subject, case: str, turn: int, steps: int) -> Tensor:
    """A case's noise for every step, (steps, C, h, w), whatever the batch."""
    generator = torch.Generator().manual_seed(stable_seed(subject.seed, "noise probe", case, turn))
    return torch.randn((steps, *subject.model.latent_shape), generator=generator)
