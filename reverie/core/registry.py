"""Names to lazy "module:attribute" paths: schools, oracles, recipes, environment namespaces.

Nothing is imported until its name is asked for, so this module (and with it `reverie --help`) is
free of torch. Registering is being tested: every name here goes through `check_world_model`
(models, oracles) or is built (recipes) by the tests. Imports errors only.

A path is ``module:attribute``; further dots walk into attributes or mapping keys, so
``reverie.envs.toy:ORACLES.clock`` is ``reverie.envs.toy.ORACLES["clock"]``.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from reverie.core.errors import MissingExtra, UnknownName

_TOYS = ("clock", "linear_gaussian", "grid", "two_rooms", "sprites", "bandit", "lottery")
_DREAMERS = ("planet", "dreamer_v1", "dreamer_v2", "dreamer_v3")
_ENSEMBLES = ("pets", "mbpo")
_JEPAS = ("lewm", "pldm", "self_predictive")
_FROZEN = ("vjepa2_ac", "dino_wm")

# kind -> name -> path. A model is a WorldModel class; beside it, in its module or its row of a
# table there, stand `default()`, an instance of the paper's size, and `small()`, one that is
# checked in seconds. An oracle is a function that builds a true model. A recipe is a function with
# keyword-only arguments that returns a Run. An env is a namespace: a function of the rest of the
# id that returns a VectorEnv.
_PATHS: dict[str, dict[str, str]] = {
    "model": {
        **{name: f"reverie.models.dreamer:SCHOOLS.{name}.model" for name in _DREAMERS},
        **{name: f"reverie.models.ensemble:SCHOOLS.{name}.model" for name in _ENSEMBLES},
        **{name: f"reverie.models.jepa:SCHOOLS.{name}.model" for name in _JEPAS},
        **{name: f"reverie.models.vjepa2_ac:SCHOOLS.{name}.model" for name in _FROZEN},
        "ijepa": "reverie.models.ijepa:IJEPA",
        "vjepa": "reverie.models.vjepa:VJEPA",
        "world_models_2018": "reverie.models.world_models_2018:WorldModels2018",
        "muzero": "reverie.models.muzero:MuZero",
        "stochastic_muzero": "reverie.models.muzero_stochastic:StochasticMuZero",
        "tdmpc2": "reverie.models.tdmpc2:TDMPC2",
    },
    "oracle": {
        **{f"toy/{name}": f"reverie.envs.toy:ORACLES.{name}" for name in _TOYS},
        "cartpole": "reverie.envs.cartpole:CartPole",
    },
    "recipe": {
        **{name: f"reverie.recipes.dreamer:{name}" for name in _DREAMERS},
        "pets": "reverie.recipes.pets:pets",
        "mbpo": "reverie.recipes.mbpo:mbpo",
        "sac": "reverie.recipes.mbpo:sac",
        "muzero": "reverie.recipes.muzero:muzero",
        "gumbel_muzero": "reverie.recipes.muzero:gumbel_muzero",
        "stochastic_muzero": "reverie.recipes.muzero:stochastic_muzero",
        "lewm.two_rooms": "reverie.recipes.jepa:lewm",
        "pldm.two_rooms": "reverie.recipes.jepa:pldm",
        **{f"{name}.two_rooms": f"reverie.recipes.frozen:{name}" for name in _FROZEN},
        "ijepa": "reverie.recipes.masked:ijepa",
        "vjepa": "reverie.recipes.masked:vjepa",
        "tdmpc2": "reverie.recipes.tdmpc2:tdmpc2",
        "world_models_2018.doom": "reverie.recipes.doom:doom",
        "world_models_2018.doom_quick": "reverie.recipes.doom:doom_quick",
        "world_models_2018.doom_iterative": "reverie.recipes.doom:doom_iterative",
        "world_models_2018.car_racing": "reverie.recipes.car_racing:car_racing",
    },
    "env": {
        "board": "reverie.envs.boards:board",
        "spiel": "reverie.envs.spiel:spiel",
    },
}


def names(kind: str) -> tuple[str, ...]:
    """All registered names of a kind, sorted.

    Args:
        kind: "model" | "oracle" | "recipe" | "env".

    Raises:
        UnknownName: if there is no such kind.
    """
    return tuple(sorted(_PATHS[_known("kind", kind, _PATHS)]))


def lookup(kind: str, name: str) -> Any:
    """What is registered under a name, imported now.

    Args:
        kind: see `names`.
        name: as listed by ``names(kind)``.

    Raises:
        UnknownName: naming the nearest registered names.
    """
    table = _PATHS[_known("kind", kind, _PATHS)]
    return resolve(table[_known(kind, name, table)])


def model(name: str) -> Any:
    """The WorldModel class of a school: (config, observations, actions) -> WorldModel.

    Raises:
        UnknownName: naming the nearest registered names.
    """
    return lookup("model", name)


def instance(name: str, *, small: bool = False) -> Any:
    """An untrained model of a school, or the oracle of that name.

    Args:
        name: of a model or an oracle.
        small: of a size to test with, not the paper's.

    Raises:
        UnknownName: naming the nearest registered names.
    """
    table = {**_PATHS["oracle"], **_PATHS["model"]}
    path = table[_known("model", name, table)]
    if name in _PATHS["model"]:
        end = max(path.rfind(":"), path.rfind("."))
        path = f"{path[: end + 1]}{'small' if small else 'default'}"
    return resolve(path)()


def oracle(name: str) -> Any:
    """The function that builds the true model of a toy world, as "toy/clock".

    Raises:
        UnknownName: naming the nearest registered names.
    """
    return lookup("oracle", name)


def recipe(name: str) -> Any:
    """The function (keyword-only arguments) -> Run, as "world_models_2018.doom".

    Raises:
        UnknownName: naming the nearest registered names.
    """
    return lookup("recipe", name)


def register(kind: str, name: str, path: str) -> None:
    """Add a name from outside this package.

    Args:
        kind: see `names`.
        name: new; an existing name with another path is refused.
        path: "module:attribute", imported when first asked for.

    Raises:
        UnknownName: if there is no such kind, or the name already stands for something else.
    """
    table = _PATHS[_known("kind", kind, _PATHS)]
    if table.get(name, path) != path:
        raise UnknownName(
            f"The {kind} '{name}' is registered as {table[name]} and cannot become {path}. "
            "Choose another name."
        )
    table[name] = path


def resolve(path: str) -> Any:
    """Import what a path names: "module:attribute" or "module:TABLE.key"."""
    module, _, attribute = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = found[part] if isinstance(found, Mapping) else getattr(found, part)
    return found


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that is not there, with the nearest and all known names."""
    known = sorted(known)
    tail = f"{kind}s: {', '.join(known)}." if known else f"no {kind} is registered."
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    # A short name is near to any name that it is a part of, however long that is.
    near = near or [other for other in known if name and name.lower() in other.lower()][:3]
    mean = f" Did you mean {' or '.join(near)}?" if near else ""
    return UnknownName(f"There is no {kind} '{name}'.{mean} {tail[0].upper()}{tail[1:]}")


def require(package: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        package: import name, as "vizdoom".
        extra: name of the extra of this distribution, as "doom".

    Raises:
        MissingExtra: with the pip command, or with why an installed package does not import.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "") == package
        found = "is not installed" if absent else f"does not import ({error})"
        raise MissingExtra(
            f"This needs the package '{package}', which {found}. "
            f"Run: pip install 'reverie[{extra}]'"
        ) from error


def _known(kind: str, name: str, table: Mapping[str, Any]) -> str:
    """The name if the table has it, else UnknownName."""
    if name not in table:
        raise unknown(kind, name, table)
    return name
