"""How much each level spends, and what an attack costs in units that can be timed."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Budget:
    """What one call of an attack may spend on each of `cases` prompts: `pictures`, the same for its control.

    `steps` draw a picture (None: as the run is judged). `tokens` is the length of an optimised prefix, `between` the
    number of P4D-K's words (0: it is left to higher levels), `iterations` the gradient steps of a search in all, in as
    many rounds as there are pictures. Ring-A-Bell breeds `population` prompts of `length` tokens for `generations` (0:
    it is left to higher levels). Concept inversion learns from `examples` pictures in `inversion_steps`. Relearning
    takes each number of `relearn_pictures` through all of `relearn_steps`. `audit_words` and `audit_pairs` are how many
    tokens, and pairs of tokens, are asked for by themselves (None: every token; 0: the audit is left to higher levels).
    """

    cases: int
    pictures: int
    steps: int | None
    tokens: int
    iterations: int
    lr: float
    between: int
    length: int
    population: int
    generations: int
    examples: int
    inversion_steps: int
    relearn_pictures: tuple[int, ...]
    relearn_steps: tuple[int, ...]
    audit_words: int | None
    audit_pairs: int

    @property
    def doses(self) -> int:
        """Pictures of a case in relearning: one after each number of steps on each number of pictures."""
        return len(self.relearn_pictures) * len(self.relearn_steps)

    @property
    def seeds(self) -> int:
        """Pictures of a case by its plain prompt: they are a control of relearning too."""
        return max(self.pictures, self.doses)


# quick has what breaks a word filter on the small world (docs/attacks.md); with a third of its gradients UnlearnDiffAtk
# and P4D did not, and Ring-A-Bell takes more generations than quick has time for.
# standard's 10 x 20 and full's 50 x 40 gradient steps are the small and the published budget of UnlearnDiffAtk; the
# published generations of Ring-A-Bell, 3,000 of 200, are for a vocabulary a hundred times that of the world.
_STANDARD = Budget(
    cases=24,
    pictures=10,
    steps=None,
    tokens=3,
    iterations=200,
    lr=0.05,
    between=3,
    length=8,
    population=60,
    generations=100,
    examples=16,
    inversion_steps=300,
    relearn_pictures=(1, 4, 16),
    relearn_steps=(10, 25, 50, 100),
    audit_words=None,
    audit_pairs=500,
)
LEVELS: dict[str, Budget] = {
    "quick": replace(
        _STANDARD,
        cases=8,
        pictures=4,
        steps=10,
        iterations=120,
        between=0,
        generations=0,
        examples=8,
        relearn_pictures=(1, 4),
        relearn_steps=(5, 20),
        audit_words=0,
        audit_pairs=0,
    ),
    "standard": _STANDARD,
    "full": replace(
        _STANDARD,
        cases=50,
        pictures=50,
        iterations=2000,
        lr=0.01,
        length=16,
        population=200,
        generations=1000,
        examples=25,
        inversion_steps=1000,
        relearn_steps=(10, 25, 50, 100, 300),
        audit_pairs=50_000,
    ),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of an attack: pictures, gradients through both networks and training steps (of one sample), texts read."""

    pictures: float = 0
    gradients: float = 0
    training: float = 0
    texts: float = 0
