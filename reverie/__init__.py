"""Reverie: world models of every school behind one small contract.

    h_t = Enc(o_t)          s_{t+1} = Pred(s_t, h_t, a_t, z_t)

This file only hands names on; each is imported when first used, so `import reverie` imports no
torch. Modules whose name is also a verb stay modules: ``from reverie.train import train``,
``from reverie.imagine import imagine``.
"""

import importlib as _importlib
import typing as _typing

__version__ = "0.1.0"

_HOME = {
    # the contract
    "Batch": "reverie.core.types",
    "Box": "reverie.core.types",
    "Card": "reverie.core.types",
    "Discrete": "reverie.core.types",
    "Heads": "reverie.core.types",
    "Loss": "reverie.core.types",
    "Objects": "reverie.core.types",
    "Optim": "reverie.core.types",
    "Plan": "reverie.core.types",
    "Rollout": "reverie.core.types",
    "Part": "reverie.core.model",
    "WorldModel": "reverie.core.model",
    "need": "reverie.core.model",
    "ReverieError": "reverie.core.errors",
    "check_world_model": "reverie.core.check",
    # what is registered
    "model": "reverie.core.registry",
    "names": "reverie.core.registry",
    "oracle": "reverie.core.registry",
    "recipe": "reverie.core.registry",
    "register": "reverie.core.registry",
    # imagining and acting
    "Dream": "reverie.imagine",
    "rollout": "reverie.imagine",
    "PolicyAgent": "reverie.agent",
    "RandomAgent": "reverie.agent",
    # worlds and data
    "make": "reverie.envs",
    "Episode": "reverie.data.episode",
    "Sampler": "reverie.data.sample",
    "Store": "reverie.data.store",
    "collect": "reverie.data.collect",
    "validate": "reverie.data.validate",
    # runs
    "Run": "reverie.train",
    "Stage": "reverie.train",
    "load": "reverie.checkpoint",
}
_MODULES = ("agent", "checkpoint", "core", "data", "envs", "evaluate", "evidence", "imagine", "train")

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> _typing.Any:
    if name in _HOME:
        return getattr(_importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return _importlib.import_module(f"reverie.{name}")
    raise AttributeError(f"module 'reverie' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
