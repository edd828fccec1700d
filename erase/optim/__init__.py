"""Optimizers with a forget role and a retain role over one set of weights."""

from erase.optim.dual import DualOptim, Role, SharedOptim, Turns
from erase.optim.dual_plus import DualOptimPlus
from erase.optim.moments import SharedMoments

__all__ = ["DualOptim", "DualOptimPlus", "Role", "SharedMoments", "SharedOptim", "Turns"]
