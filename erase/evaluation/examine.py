"""From a judged run to its findings, by way of the features kept beside its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from erase.evaluation.distances import LEAST
from erase.evaluation.features import (
    FILE,
    clip_features,
    describe,
    judge_features,
    open_pictures,
    read_features,
    similarities,
    write_features,
)
from erase.evaluation.fidelity import inception_features
from erase.evaluation.findings import Features, Findings, find, most_prompts, pictures
from erase.evaluation.judge import Embeds
from erase.evaluation.judges import load_judges
from erase.evaluation.metrics import Change, Score, asked_for
from erase.evaluation.rows import Row


def examine(
    rows: Sequence[Row],
    scores: Sequence[Score],
    changes: Sequence[Change],
    folder: Path,
    device: torch.device,
    inception: Path | None = None,
    clip: Embeds | None = None,
    *,
    judge: str = "conv",
    world: bool = True,
) -> Findings:
    """All findings on a judged run in `folder`, whose pictures are read and whose features are written.

    `inception`, checked weights, adds FID and KID, and `clip`, a judge that embeds, CMMD's distance of its embeddings.
    Only on the world are there features of its judges beside, and similarities of names. With fewer prompts than a
    distance needs there are no features, and so neither shifts nor similarities.
    """
    order = pictures(rows)
    if most_prompts(rows) < LEAST or not (world or inception or clip):
        (folder / FILE).unlink(missing_ok=True)  # of pictures that are no more
        return find(rows, scores, changes, judge=judge)
    judges = load_judges(device) if world else None
    drawn = open_pictures(folder, rows, order)
    looks = {arm: judge_features(judges, images) if judges else {} for arm, images in drawn.items()}
    if inception is not None:
        for arm, images in drawn.items():
            looks[arm]["inception"] = inception_features(images, inception, device)
    about: dict[str, str] = {}
    if clip is not None:
        for arm, images in drawn.items():
            name, about[name], looks[arm][name] = clip_features(clip, images)
    features: Features = {name: (looks["before"][name], looks["after"][name]) for name in looks["before"]}
    about = describe(features) | about
    write_features(folder / FILE, order, features, about)
    targets = sorted({asked_for(row) for row in rows if row["role"] == "forget"})
    similar = similarities(judges, str(rows[0]["domain"]), targets) if judges else None
    return find(rows, scores, changes, features, about=about, similarity=similar, judge=judge)


def examine_again(
    rows: Sequence[Row], scores: Sequence[Score], changes: Sequence[Change], folder: Path, *, judge: str = "conv"
) -> Findings:
    """The findings from rows and stored features alone, without a picture or a judge; without similarities.

    Raises `InputError` where the features are missing, damaged or of other pictures.
    """
    order, features, about = read_features(folder / FILE)
    if order != pictures(rows):
        features = {name: (before[:0], after[:0]) for name, (before, after) in features.items()}
    return find(rows, scores, changes, features, about=about, judge=judge)
