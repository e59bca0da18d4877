"""Callbacks: code of your own that a run calls as it goes; `docs/callbacks.md` shows how."""

from fastrl.callbacks.base import HOOKS, Callback, CallbackError
from fastrl.callbacks.curriculum import Curriculum
from fastrl.callbacks.saving import SaveBest
from fastrl.callbacks.stopping import StopAfter, StopAtReturn
from fastrl.callbacks.trainer import Trainer

__all__ = [
    "HOOKS",
    "Callback",
    "CallbackError",
    "Curriculum",
    "SaveBest",
    "StopAfter",
    "StopAtReturn",
    "Trainer",
]
