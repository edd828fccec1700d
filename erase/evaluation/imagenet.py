"""A classifier of ImageNet's 1,000 classes as judge, by torchvision or timm, with weights on disk.

Its top-1 class is compared with all classes that a name stands for (`erase.evaluation.imagenet_names`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from erase.errors import InputError, first_line, printable
from erase.evaluation.imagenet_names import CLASSES, named_classes
from erase.evaluation.judge import JudgeSpec, Sight
from erase.runtime import file_hash

MODEL = "resnet50"
TIMM = "timm/"
BATCH = 32


@dataclass(frozen=True, slots=True)
class ImageNet:
    """A loaded classifier. `labels[i]` is what class i is called: the run's name for it, where it has one."""

    name: str
    facts: dict[str, Any]
    model: nn.Module
    prepare: Callable[[Image.Image], Any]
    labels: Sequence[str]
    device: torch.device

    @torch.inference_mode()
    def look(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Sight]:
        """See `Judge`; the probability is that of all classes of the name together. It knows no "none of these"."""
        found: list[Sight] = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            pixels = torch.stack([self.prepare(Image.fromarray(image)) for image in part]).to(self.device)
            logits = self.model(pixels).float().cpu()
            shares, energy = logits.softmax(-1), -logits.logsumexp(-1)
            for row, best, height in zip(shares, shares.argmax(-1).tolist(), energy.tolist(), strict=True):
                label = self.labels[best]
                together = sum(float(row[i]) for i, other in enumerate(self.labels) if other == label)
                answer = {"object": label, "object_prob": together, "object_energy": height}
                found.append(Sight(answer))
        return found


def load_imagenet(spec: JudgeSpec, names: Mapping[str, Sequence[str]], device: torch.device) -> ImageNet:
    """Load the classifier that `spec` names. Raises `InputError`, with where to get weights that are not here.

    Options: `model` as torchvision calls it, or timm with "timm/" in front; `weights`, a file. `names["object"]` are
    what the run's prompts name.
    """
    wanted = spec.options.get("model", MODEL)
    model, prepare, file = (_of_timm if wanted.startswith(TIMM) else _of_torchvision)(spec, wanted)
    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        model.load_state_dict(state)
        model.eval().requires_grad_(False).to(device)
        probe = prepare(Image.new("RGB", (64, 64)))  # as it will see pictures: some take one size alone
        count = model(probe[None].to(device)).shape[-1]
    except Exception as error:  # whatever wrong weights make torch raise
        raise InputError(f"judge {spec.name}: {file} does not fit {wanted} ({first_line(error)})") from None
    if count != CLASSES:
        raise InputError(f"judge {spec.name}: {wanted} has {count} classes, not ImageNet's {CLASSES}; name another")
    labels, meant = named_classes(names.get("object", ()))
    facts = {
        "judge": "ImageNet classifier",
        "version": f"torchvision {torchvision.__version__}, timm {timm.__version__}",
        "model": wanted,
        "weights": {"file": file.name, "sha256": file_hash(file)},
        "labels": f"ImageNet's {CLASSES}",
        "classes of a name": {name: places for name, places in meant.items() if places},
        "validity": "not known: it names a class for noise as well",
    }
    return ImageNet(spec.name, facts, model, prepare, labels, device)


def _of_torchvision(spec: JudgeSpec, wanted: str) -> tuple[nn.Module, Callable[[Image.Image], Any], Path]:
    known = list_models(module=torchvision.models)
    if wanted not in known:
        close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else "timm's have timm/ in front"
        raise InputError(f"judge {spec.name}: torchvision has no classifier {printable(wanted)[:80]!r}; {hint}")
    published: Any = get_model_weights(wanted)
    weights = published.DEFAULT
    file = spec.path("weights")
    if file is None:
        file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    _require(spec, file, f"get {weights.url}", file)
    _check_hash(spec, file)
    return get_model(wanted, weights=None), weights.transforms(), file


def _of_timm(spec: JudgeSpec, wanted: str) -> tuple[nn.Module, Callable[[Image.Image], Any], Path]:
    name = wanted.removeprefix(TIMM)
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    except Exception as error:  # timm raises RuntimeError for a name, and others for what it does not parse
        raise InputError(f"judge {spec.name}: timm has no {printable(name)[:80]!r} ({first_line(error)})") from None
    file = spec.path("weights")
    if file is None:
        cached = try_to_load_from_cache(f"timm/{name}", "model.safetensors")
        file = Path(cached) if isinstance(cached, str) else Path("model.safetensors")
    _require(spec, file, f"get model.safetensors of the hub's timm/{name}", None)
    data: dict[str, Any] = resolve_model_data_config(model)
    prepare: Any = create_transform(**data, is_training=False)
    return model, prepare, file


def _require(spec: JudgeSpec, file: Path, get: str, place: Path | None) -> None:
    if not file.is_file():
        put = f"put it at {place}, or " if place is not None and "weights" not in spec.options else ""
        shown = f" at {file}" if "weights" in spec.options else ""
        raise InputError(f"judge {spec.name}: weights are not here{shown}; {get}; {put}name it: weights=FILE")


def _check_hash(spec: JudgeSpec, file: Path) -> None:
    """Published names end with the first digits of the file's SHA-256; checked before the file is unpickled."""
    said = re.search(r"-([0-9a-f]{8,64})\.pth$", file.name)
    if said and not file_hash(file).startswith(said[1]):
        raise InputError(f"judge {spec.name}: {file} is damaged: its SHA-256 does not begin {said[1]}; get it again")
