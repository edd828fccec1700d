"""Erasure methods: a forget loss, a retain loss and where their noisy latents come from; or an edit in closed form."""

from erase.methods.ablation import ABLATION
from erase.methods.advunlearn import ADVUNLEARN
from erase.methods.baselines import BASELINES
from erase.methods.editing import Editor
from erase.methods.esd import ESD
from erase.methods.ga import GA
from erase.methods.npo import NPO
from erase.methods.parts import Batch, Method, Nets, Options, Shown
from erase.methods.rece import RECE
from erase.methods.salun import SALUN
from erase.methods.sfron import SFRON
from erase.methods.speed import SPEED
from erase.methods.spm import SPM
from erase.methods.uce import UCE

METHODS: dict[str, Method] = {m.name: m for m in (ESD, SPM, ADVUNLEARN, ABLATION, SALUN, SFRON, GA, NPO)}
EDITORS: dict[str, Editor] = {e.name: e for e in (UCE, RECE, SPEED)}

__all__ = ["BASELINES", "EDITORS", "METHODS", "Batch", "Method", "Nets", "Options", "Shown"]
