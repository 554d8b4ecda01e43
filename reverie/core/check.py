"""`check_world_model`: registering is being tested. Imports core only.

Every clause of the contract is one small function that looks at a model from outside, makes one
comparison, and says in one sentence what is broken. `CLAUSES` is the table of all of them in the
order in which they are checked; a clause that does not apply to a model (a loss path for an
oracle that learns nothing) is not reported as checked.

What must be equal although two paths draw their noise in different orders is compared under
`Centred`, where nothing is random. The model is left as it was found.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.centred import Centred
from reverie.core.check_learning import LEARNING
from reverie.core.errors import BadConfig, ContractBroken
from reverie.core.model import WorldModel
from reverie.core.probe import (
    Clause,
    Probe,
    Sampler,
    describe,
    differs,
    named_leaves,
    sample_batch,
)
from reverie.core.types import Box, Card, Discrete, Heads, Objects, Space

_SMALLEST = (2, 3)  # (B, T) that hold a seam and something before, beside and after it


def check_world_model(
    model: WorldModel[Any],
    *,
    batch: int = 3,
    steps: int = 4,
    obs: Sampler | None = None,
    extra: Sampler | None = None,
    overfit_updates: int = 200,
) -> list[str]:
    """Check that a world model keeps the contract.

    Args:
        model: any; a small configuration is enough and quicker. It is left as it was found.
        batch: rows B of the made-up data, at least 2.
        steps: transitions T of the made-up data, at least 3.
        obs: (lead, generator) -> observations (*lead, ...), for a model that takes only some
            values of its spaces; None: any values.
        extra: (lead, generator) -> what the losses read from `Batch.extra`; None: nothing.
        overfit_updates: gradient steps within which each group of parts must fit a fixed batch
            better; it stops as soon as one does. 0: not checked.

    Returns:
        The names of the clauses that were checked.

    Raises:
        ContractBroken: naming the clause, what was found and the mend.
        BadConfig: if batch or steps are too small to show anything.
    """
    if batch < _SMALLEST[0] or steps < _SMALLEST[1]:
        raise BadConfig(
            f"The check needs batch >= 2 and steps >= 3, but got {batch} and {steps}: fewer hold "
            "no seam between two episodes. Ask for more."
        )
    checked: list[str] = []
    training = {module: module.training for module in model.modules()}
    weights = deepcopy(model.state_dict())
    device = model.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model.eval()
        try:
            data, other = (
                sample_batch(model, (batch, steps), seed, obs=obs, extra=extra) for seed in (0, 1)
            )
            probe = Probe(model, batch, steps, overfit_updates, data, other)
            for clause in CLAUSES:
                if clause.applies(probe):
                    _hold(clause, probe)
                    checked.append(clause.name)
        finally:
            model.load_state_dict(weights)
            for module, was in training.items():
                module.training = was
    return checked


def _hold(clause: Clause, probe: Probe) -> None:
    """Raise if the clause is broken, or if the model fails while it is checked."""
    who = type(probe.model).__name__
    try:
        found = clause.find(probe)
    except Exception as error:
        raise ContractBroken(
            f"{who} breaks '{clause.name}': it raised {type(error).__name__} "
            f"({str(error).rstrip('.')}). The traceback above says where."
        ) from error
    if found is not None:
        raise ContractBroken(f"{who} breaks '{clause.name}': {found}")


def _card_and_spaces(probe: Probe) -> str | None:
    """The taxonomy entry and the spaces are what they are said to be."""
    model = probe.model
    if not isinstance(getattr(model, "card", None), Card):
        return "it has no Card. Set the class attribute `card`."
    unknown = set(model.card.heads) - set(Heads._fields)
    if unknown:
        return f"its card names heads {sorted(unknown)} that nobody has. Use the fields of Heads."
    spaces = [*model.observations.values(), *([] if model.actions is None else [model.actions])]
    strange = [space for space in spaces if not isinstance(space, Box | Discrete)]
    if strange or not model.observations:
        return f"its spaces {strange} are no Box or Discrete. Name at least one observation."
    return None


@torch.no_grad()
def _shapes(probe: Probe) -> str | None:
    """States have one structure with leading axis B, whoever made them."""
    h, begun = probe.encoded(0), probe.begin()
    leaves = dict(named_leaves(begun))
    if not leaves:
        return "observe returned a state without any leaf. A state holds Tensors or Objects."
    for path, leaf in (*leaves.items(), *named_leaves(h, "h")):
        rows = len(leaf) if isinstance(leaf, Objects) else (*leaf.shape, 0)[0]
        if rows != probe.batch:
            return f"{path} has {rows} rows for a batch of {probe.batch}. Lead with axis B."
        if isinstance(leaf, Tensor) and not leaf.isfinite().all():
            return f"{path} is not finite. Look at what encode and observe return."
    wanted = {path: describe(leaf) for path, leaf in leaves.items()}
    model, action, generator = probe.model, probe.action, probe.generator()
    predicted = model.predict(begun, action, generator=generator)
    observed = model.observe(begun, action, probe.encoded(1), generator=generator)
    for maker, state in (("predict", predicted), ("observe", observed)):
        found = {path: describe(leaf) for path, leaf in named_leaves(state)}
        if found != wanted or tree.size(state) != probe.batch or type(state) is not type(begun):
            return (
                f"the first observe made a {type(begun).__name__} of {wanted}, but {maker} made a "
                f"{type(state).__name__} of {found}. Return the same record from both."
            )
    return None


@torch.no_grad()
def _episode_begins(probe: Probe) -> str | None:
    """Where `first` holds, the state and the action before are ignored."""
    model = probe.model
    first = torch.arange(probe.batch, device=model.device) % 2 == 0
    with Centred():
        before, h = probe.begin(probe.other), probe.encoded(1)
        begun = model.observe(None, None, h)
        going = model.observe(before, probe.action, h, first=torch.zeros_like(first))
        mixed = model.observe(before, probe.action, h, first=first)
        unsaid = model.observe(before, probe.action, h)
    gap = differs(tree.take(mixed, first), tree.take(begun, first))
    if gap:
        return f"where first is True, {gap} from a new episode. Ignore state and action there."
    gap = differs(tree.take(mixed, ~first), tree.take(going, ~first)) or differs(unsaid, going)
    if gap:
        return f"where first is False or None, {gap}. Begin only the rows that `first` names."
    return None


@torch.no_grad()
def _inputs_left_alone(probe: Probe) -> str | None:
    """Nothing that is passed in is written to: states are shared by their holders."""
    model = probe.model
    state, action, h = probe.begin(), probe.action, probe.encoded(1)
    obs = {name: x[:, 1] for name, x in probe.data.obs.items()}
    given = (state, action, h, obs)
    kept = tree.map(torch.clone, given)
    model.encode(obs)
    after = model.predict(state, action, generator=probe.generator())
    model.observe(state, action, h, generator=probe.generator())
    heads = model.heads
    if heads.decode is not None:
        heads.decode(state)
    if heads.reward is not None:
        heads.reward(state, action, after)
    gap = differs(given, kept, exact=True, name="inputs")
    return gap and f"{gap} after a call. Make new tensors rather than write into given ones."


@torch.no_grad()
def _survives_tree(probe: Probe) -> str | None:
    """Taken, repeated, stacked and joined states step as they did."""
    model = probe.model
    every = torch.arange(probe.batch, device=model.device)
    odd = every % 2 == 1
    with Centred():
        state, other, action = probe.begin(), probe.begin(probe.other), probe.action
        after, after_other = model.predict(state, action), model.predict(other, action)
        back, twice = every.flip(0), every.repeat_interleave(2)
        stacked = tree.unstack(tree.stack([state, other]), 2)[1]
        cases = {  # name: (state, whose actions, what must come out)
            "take": (tree.take(state, back), back, tree.take(after, back)),
            "repeat": (tree.repeat(state, 2), twice, tree.repeat(after, 2)),
            "stack": (stacked, every, after_other),
            "where": (tree.where(odd, other, state), every, tree.where(odd, after_other, after)),
            "cat": (tree.cat([state, other]), every.repeat(2), tree.cat([after, after_other])),
        }
        for name, (given, rows, wanted) in cases.items():
            found = model.predict(given, None if action is None else action[rows])
            gap = differs(found, wanted)
            if gap:
                return f"after tree.{name} {gap}. Keep all that a row needs in its own leaves."
    return None


@torch.no_grad()
def _rows_independent(probe: Probe) -> str | None:
    """A row comes out the same whatever the other rows are, and also alone."""
    model = probe.model
    keep = torch.zeros(probe.batch, dtype=torch.bool, device=model.device)
    keep[1] = True

    def run(data: Any) -> Any:
        """Two steps, seen and unseen, of a batch."""
        h = [model.encode({name: x[:, t] for name, x in data.obs.items()}) for t in (0, 1)]
        action = None if data.action is None else data.action[:, 0]
        state = model.observe(None, None, h[0], generator=probe.generator(0))
        seen = model.observe(state, action, h[1], generator=probe.generator(1))
        return (seen, model.predict(state, action, generator=probe.generator(2)))

    mixed = tree.where(keep, _rows_of(probe.data), _rows_of(probe.other))
    gap = differs(tree.take(run(mixed), keep), tree.take(run(probe.data), keep))
    if gap:
        return f"when the other rows change, {gap}. Compute each row from that row alone."
    with Centred():
        alone, among = run(tree.take(_rows_of(probe.data), keep)), run(probe.data)
    gap = differs(alone, tree.take(among, keep))
    return gap and f"alone in its batch, a row's {gap}. Compute each row from that row alone."


def _rows_of(data: Any) -> Any:
    """A batch's leaves that all lead with axis B."""
    return data._replace(extra={})


@torch.no_grad()
def _iterated(probe: Probe) -> str | None:
    """A rollout is `predict` again and again: all its steps at once, from its states, agree."""
    with Centred():
        states = probe.imagined()
        actions = [a for t in range(probe.steps) if (a := probe.action_at(t)) is not None]
        joined = torch.cat(actions) if actions else None
        at_once = probe.model.predict(tree.cat(states[:-1]), joined)
    gap = differs(at_once, tree.cat(states[1:]))
    return gap and (
        f"stepping every state of a rollout again, {gap}. Keep all that predict needs in the "
        "state, and nothing in self."
    )


@torch.no_grad()
def _time_passed(probe: Probe) -> str | None:
    """Nothing is remembered between calls."""
    model = probe.model
    with Centred():
        state, h = probe.begin(), probe.encoded(1)

        def look() -> Any:
            seen = model.observe(state, probe.action, h)
            return (seen, model.predict(state, probe.action))

        before = look()
        other = model.predict(probe.begin(probe.other), probe.action)
        model.observe(other, probe.action, probe.encoded(2, probe.other))
        after = look()
    gap = differs(after, before)
    return gap and f"after other calls {gap}. Time is passed, never held: put it in the state."


@torch.no_grad()
def _same_generator(probe: Probe) -> str | None:
    """All randomness comes from the generator that was given."""

    def run(seed: int) -> Any:
        torch.manual_seed(seed)
        return (probe.imagined()[-1], probe.observed()[-1])

    gap = differs(run(1), run(2))
    return gap and (
        f"with equal generators {gap}. Draw from the `generator` that is passed, and nowhere else."
    )


@torch.no_grad()
def _heads(probe: Probe) -> str | None:
    """What is declared works and looks at its row alone; what is absent is None."""
    model = probe.model
    heads = model.heads
    if not isinstance(heads, Heads) or not heads.owner:
        return f"heads is {heads!r}. Return a Heads record with the model's name as its owner."
    before, after = probe.imagined()[1:3]
    arguments = {"reward": (before, probe.action, after), "cont": (after,)}
    arguments["inverse"] = (before, after)
    arguments["epistemic"] = arguments["aleatoric"] = (before, probe.action)
    for name in Heads._fields[1:]:
        head = getattr(heads, name)
        if head is None:
            continue
        if not callable(head):
            return f"{name} is {head!r}. A head is a function, or None if the model cannot say."
        given = arguments.get(name, (before,))
        found = _head_value(name, head(*given), probe)
        if found:
            return found
        if name not in ("policy", "inverse"):
            row = slice(1, 2)
            gap = differs(head(*tree.take(given, row)), tree.take(head(*given), row), name=name)
            if gap:
                return f"alone in its batch, a row's {gap}. Compute each row from that row alone."
    return None


def _head_value(name: str, value: Any, probe: Probe) -> str | None:
    """What is wrong with what a head said about B states."""
    if name in ("policy", "inverse"):
        return _distribution(name, value, probe)
    if name == "decode":
        return _decoded(value, probe)
    axes = 2 if name in ("embed", "features") else 1
    shape = f"({', '.join(['B', 'D'][:axes])}{',' * (axes == 1)})"
    if not isinstance(value, Tensor) or value.dim() != axes or len(value) != probe.batch:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        return f"{name} gave {found} for {probe.batch} states. Return a Tensor {shape}."
    if not value.is_floating_point() or not value.isfinite().all():
        return f"{name} gave values that are no finite floats. Return float32 in its own units."
    if name == "cont" and not ((value >= 0) & (value <= 1)).all():
        return f"cont gave {value.min():.3g}..{value.max():.3g}. Return probabilities in [0, 1]."
    return None


def _distribution(name: str, found: Any, probe: Probe) -> str | None:
    """What is wrong with a distribution over actions."""
    space = probe.model.actions
    if space is None:
        return f"{name} is declared, but the model has no actions. Declare one of the two."
    drawn = found.sample()
    wanted = (probe.batch, *(space.shape if isinstance(space, Box) else ()))
    inside = _inside(drawn, space)
    if tuple(drawn.shape) != wanted or not inside:
        return (
            f"{name} drew actions of shape {tuple(drawn.shape)} in {drawn.min():.3g}.."
            f"{drawn.max():.3g}, outside of {space}. Return a distribution over model.actions."
        )
    density = found.log_prob(drawn)
    if tuple(density.shape) != (probe.batch,):
        return (
            f"{name}'s log_prob has shape {tuple(density.shape)}, not ({probe.batch},). "
            "Wrap it in torch.distributions.Independent."
        )
    return None


def _inside(values: Tensor, space: Space) -> bool:
    """Whether all values lie in the space, up to rounding."""
    low, high = (space.low, space.high) if isinstance(space, Box) else (0, space.n - 1)
    return bool(((values >= low - 1e-4) & (values <= high + 1e-4)).all())


def _decoded(found: Any, probe: Probe) -> str | None:
    """What is wrong with decoded observations."""
    if not isinstance(found, dict) or not found:
        return f"decode gave a {type(found).__name__}. Return a dict of observations by name."
    for name, value in found.items():
        space = probe.model.observations.get(name)
        shape = (probe.batch, *(space.shape if isinstance(space, Box) else ()))
        if len(value) != probe.batch or (space is not None and tuple(value.shape) != shape):
            return (
                f"decode gave '{name}' of shape {tuple(value.shape)}, not {shape}. "
                "Decode in the observation's own shape and units."
            )
    return None


CLAUSES: tuple[Clause, ...] = (
    Clause("card and spaces", _card_and_spaces),
    Clause("shapes and dtypes", _shapes),
    Clause("inputs are left alone", _inputs_left_alone),
    Clause("time is passed", _time_passed),
    Clause("same generator, same result", _same_generator),
    Clause("first begins an episode", _episode_begins),
    Clause("rows are independent", _rows_independent),
    Clause("states survive the tree", _survives_tree),
    Clause("rollout equals iterated predict", _iterated),
    Clause("heads", _heads),
    *LEARNING,
)
