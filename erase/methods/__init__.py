"""Erasure methods: each is a forget loss, a retain loss, and where their noisy latents come from."""

from erase.methods.ablation import ABLATION
from erase.methods.esd import ESD
from erase.methods.ga import GA
from erase.methods.parts import Batch, Method, Nets, Options, Shown
from erase.methods.salun import SALUN
from erase.methods.sfron import SFRON

METHODS: dict[str, Method] = {m.name: m for m in (ESD, ABLATION, SALUN, SFRON, GA)}

__all__ = ["METHODS", "Batch", "Method", "Nets", "Options", "Shown"]
