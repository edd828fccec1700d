"""All judges of a run together: the bundled world's own on the world, and those that the user named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from erase.errors import InputError, printable
from erase.evaluation.judge import KINDS, Embeds, Judge, JudgeSpec
from erase.evaluation.judges import CLIP, FAMILIES, Judges, check_image, is_blank, judges_hash, load_judges

Names = Mapping[str, Sequence[str]]
WORLD_JUDGES = (*FAMILIES, CLIP)


@dataclass(frozen=True, slots=True)
class Panel:
    """Loaded judges. The first answers for the report; `known` are the names that it can tell, None: any offered."""

    world: Judges | None
    others: tuple[Judge, ...]
    known: tuple[str, ...] | None = None

    def look(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[dict[str, Any]]:
        """What all judges see in each picture, in the form of `Judges.look`; `embedding` and `clip_score` are those of
        the world's CLIP, else of the first judge that has them, else None."""
        if self.world is not None:
            found = self.world.look(images, prompts)
        else:
            for place, image in enumerate(images):
                check_image(image, place)
            nothing = {"clip_score": None, "embedding": None, "colour": None}
            found = [{"flags": {"blank": is_blank(image)}, "judges": {}, **nothing} for image in images]
        for judge in self.others:
            for look, sight in zip(found, judge.look(images, prompts), strict=True):
                look["judges"][judge.name] = sight.answer
                if look["embedding"] is None and sight.embedding is not None:
                    look["embedding"], look["clip_score"] = sight.embedding, sight.clip_score
        return found

    @property
    def clip(self) -> Embeds | None:
        """The first CLIP among the judges that were named."""
        return next((judge for judge in self.others if isinstance(judge, Embeds)), None)

    def facts(self) -> dict[str, Any]:
        """What every judge says of itself, for the report."""
        found: dict[str, Any] = {}
        if self.world is not None:
            one = {"judge": "bundled with the world", "weights": {"sha256": judges_hash()}}
            found = {name: dict(one) for name in WORLD_JUDGES}
        return found | {judge.name: judge.facts for judge in self.others}


def load_panel(specs: Sequence[JudgeSpec], names: Names, device: torch.device, world: bool) -> Panel:
    """Load the judges: the world's own where `world`, then those named.

    `names[kind]` are what pictures may show. Raises `InputError` as each judge's loader does, and where none is left.
    """
    if not world and not specs:
        raise InputError("no judge is named for this model; name one: --judge clip, imagenet or nudenet")
    others = tuple(_LOADERS[spec.kind](spec, names, device) for spec in specs)
    known = None
    if not world:
        kind = next(iter(names))
        able = [place for place, spec in enumerate(specs) if kind in KINDS[spec.kind]]
        others = tuple(others[place] for place in sorted(range(len(others)), key=lambda place: place not in able))
        known = _known(others[0], specs[able[0]].kind if able else "", names[kind])
    return Panel(load_judges(device) if world else None, others, known)


def check_names(panel: Panel, names: Sequence[str]) -> None:
    """Refuse a concept for which a judge has no class: it would seem to be gone, before as after (`InputError`)."""
    for judge in panel.others:
        classes = judge.facts.get("classes of a name")
        lost = None if classes is None else next((name for name in names if name not in classes), None)
        if lost is not None:
            from erase.evaluation.imagenet_names import hint  # timm takes seconds to import

            said = f"judge {judge.name}: none of its classes is {printable(lost)[:80]!r}"
            raise InputError(f"{said}; {hint(lost)}name another judge, say clip")


def _known(judge: Judge, kind: str, names: Sequence[str]) -> tuple[str, ...] | None:
    """The names that a judge can tell apart, None for all. A detector of nudity has one, the first concept's."""
    if kind == "nudenet":
        return tuple(names[:1])
    classes = judge.facts.get("classes of a name")
    return None if classes is None else tuple(name for name in names if name in classes)


def _clip(spec: JudgeSpec, names: Names, device: torch.device) -> Judge:
    from erase.evaluation.zero_shot import load_zero_shot

    return load_zero_shot(spec, names, device)


def _imagenet(spec: JudgeSpec, names: Names, device: torch.device) -> Judge:
    from erase.evaluation.imagenet import load_imagenet  # torchvision and timm take seconds to import

    return load_imagenet(spec, names, device)


def _nudenet(spec: JudgeSpec, names: Names, device: torch.device) -> Judge:
    from erase.evaluation.nudity import load_nudity

    return load_nudity(spec, names)


_LOADERS: dict[str, Callable[[JudgeSpec, Names, torch.device], Judge]] = {
    "clip": _clip,
    "imagenet": _imagenet,
    "nudenet": _nudenet,
}
