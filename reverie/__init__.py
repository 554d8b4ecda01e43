"""Reverie: world models of every school behind one small contract.

    h_t = Enc(o_t)          s_{t+1} = Pred(s_t, h_t, a_t, z_t)

This file only hands names on; each is imported when first used, so `import reverie` imports no
torch. A verb that is also a module's name stays the module: ``from reverie.train import train``,
``from reverie.imagine import imagine``.
"""

import importlib as _importlib
import typing as _typing

__version__ = "0.1.0"

if _typing.TYPE_CHECKING:  # for type checkers and editors; a test keeps it equal to _HOME
    from reverie.agent import PolicyAgent as PolicyAgent
    from reverie.agent import RandomAgent as RandomAgent
    from reverie.core.check import check_world_model as check_world_model
    from reverie.core.errors import ReverieError as ReverieError
    from reverie.core.model import Part as Part
    from reverie.core.model import WorldModel as WorldModel
    from reverie.core.model import need as need
    from reverie.core.registry import model as model
    from reverie.core.registry import names as names
    from reverie.core.registry import oracle as oracle
    from reverie.core.registry import recipe as recipe
    from reverie.core.registry import register as register
    from reverie.core.types import Act as Act
    from reverie.core.types import Batch as Batch
    from reverie.core.types import Box as Box
    from reverie.core.types import Card as Card
    from reverie.core.types import Discrete as Discrete
    from reverie.core.types import Heads as Heads
    from reverie.core.types import Loss as Loss
    from reverie.core.types import Objects as Objects
    from reverie.core.types import Optim as Optim
    from reverie.core.types import Plan as Plan
    from reverie.core.types import Rollout as Rollout
    from reverie.data.collect import collect as collect
    from reverie.data.episode import Episode as Episode
    from reverie.data.sample import Sampler as Sampler
    from reverie.data.store import Store as Store
    from reverie.data.validate import validate as validate
    from reverie.envs import make as make
    from reverie.imagine import Dream as Dream
    from reverie.imagine import rollout as rollout
    from reverie.loaded import load as load
    from reverie.plan_agent import PlanAgent as PlanAgent
    from reverie.run import Run as Run
    from reverie.run import Stage as Stage

_HOME = {
    # the contract
    **dict.fromkeys(
        ("Act", "Batch", "Box", "Card", "Discrete", "Heads", "Loss", "Objects", "Optim", "Plan"),
        "reverie.core.types",
    ),
    "Rollout": "reverie.core.types",
    "Part": "reverie.core.model",
    "WorldModel": "reverie.core.model",
    "need": "reverie.core.model",
    "ReverieError": "reverie.core.errors",
    "check_world_model": "reverie.core.check",
    # what is registered
    **dict.fromkeys(("model", "names", "oracle", "recipe", "register"), "reverie.core.registry"),
    # imagining and acting
    "Dream": "reverie.imagine",
    "rollout": "reverie.imagine",
    "PolicyAgent": "reverie.agent",
    "RandomAgent": "reverie.agent",
    "PlanAgent": "reverie.plan_agent",
    # worlds and data
    "make": "reverie.envs",
    "Episode": "reverie.data.episode",
    "Sampler": "reverie.data.sample",
    "Store": "reverie.data.store",
    "collect": "reverie.data.collect",
    "validate": "reverie.data.validate",
    # runs
    "Run": "reverie.run",
    "Stage": "reverie.run",
    "load": "reverie.loaded",
}
_MODULES = ("agent", "checkpoint", "core", "data", "envs", "evaluate", "evidence", "imagine")
_MODULES = (*_MODULES, "models", "planners", "recipes", "train")


def __getattr__(name: str) -> _typing.Any:
    if name in _HOME:
        return getattr(_importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return _importlib.import_module(f"reverie.{name}")
    raise AttributeError(f"module 'reverie' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])
