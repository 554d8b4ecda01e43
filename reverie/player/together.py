"""One step of many dreams in one batch.

Sessions say which steps are due; the model predicts them all at once, and what it says about them
is read at once too. Sessions of different temperatures make batches of their own. Imports core and
the player's own files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import ReverieError
from reverie.core.model import WorldModel
from reverie.player.album import tensors
from reverie.player.branches import Moment
from reverie.player.glimpse import look, spread
from reverie.player.reality import Event
from reverie.player.session import Move, Session
from reverie.player.subject import Subject

DRAWS = 5  # predictions of one step, from which its spread is told

Work = tuple[Session, list[Move]]
Happened = tuple[Session, Event, Any, Any]  # in reality; the state before, the action


@torch.no_grad()
def together(
    subject: Subject, sessions: Iterable[Session], generator: torch.Generator | None = None
) -> list[Session]:
    """One step of every session.

    Args:
        subject: that all of them play.
        sessions: whose step is due.
        generator: of the dreams' randomness, on the model's device.

    Returns:
        Those that moved; the others wait, or were told what is wrong.
    """
    groups: dict[float | None, list[Work]] = {}
    for session in sessions:
        with at_temperature(subject.model, session.temperature):
            try:
                moves = session.moves()
            except ReverieError as error:
                session.say(error)
                continue
        if moves is not None:
            groups.setdefault(session.temperature, []).append((session, moves))
    happened = []
    for temperature, works in groups.items():
        with at_temperature(subject.model, temperature):
            happened += _dreamed(subject, works, generator)
    _look_around(subject, happened, generator)
    return [session for works in groups.values() for session, _ in works]


@contextlib.contextmanager
def at_temperature(model: WorldModel[Any], value: float | None) -> Iterator[None]:
    """The model at a temperature, then at its own again; None leaves it as it is."""
    own = model.temperature
    if value is not None:
        model.temperature = value
    try:
        yield
    finally:
        model.temperature = own


def _dreamed(
    subject: Subject, works: list[Work], generator: torch.Generator | None
) -> list[Happened]:
    """Predict all moves in one call, hand them out; what happened in reality."""
    moves = [(session, move) for session, found in works for move in found]
    moments = iter(_predicted(subject, moves, generator) if moves else [])
    happened = []
    for session, found in works:
        came = session.arrive(found, [next(moments) for _ in found])
        if came is not None:
            happened.append((session, *came))
    return happened


def _predicted(
    subject: Subject, moves: list[tuple[Session, Move]], generator: torch.Generator | None
) -> list[Moment]:
    """What each move comes to."""
    model, heads, n = subject.model, subject.heads, len(moves)
    unsure = [i for i, (session, move) in enumerate(moves) if session.uncertain and move.steered]
    rows = torch.tensor([*range(n), *(i for i in unsure for _ in range(DRAWS))])
    before: Any = tree.cat([move.state for _, move in moves])
    action = _actions(subject, [move.action for _, move in moves])
    many = None if action is None else action[rows.to(action.device)]
    every = model.predict(tree.take(before, rows), many, generator=generator)
    after = tree.take(every, slice(0, n))
    glimpses = look(model, heads, after)
    rewards: list[float | None] = [None] * n
    if heads.reward is not None:
        rewards = heads.reward(before, action, after).tolist()
    spreads: dict[int, float] = {}
    if unsure:
        draws = tree.take(every, slice(n, None))
        spreads = dict(zip(unsure, spread(heads, draws, DRAWS), strict=True))
    return [
        Moment(_row(after, i), glimpses[i], move.action, rewards[i], spreads.get(i))
        for i, (_, move) in enumerate(moves)
    ]


def _row(states: Any, i: int) -> Any:
    """One row (1, ...) that does not keep the others alive."""
    return tree.map(lambda x: x.clone(), tree.take(states, slice(i, i + 1)))


def _actions(subject: Subject, actions: list[Any]) -> Tensor | None:
    """(B, ...) as the model takes them."""
    if subject.model.actions is None:
        return None
    array = np.stack([subject.hands.array(action) for action in actions])
    return torch.from_numpy(array).to(subject.model.device)


def _look_around(
    subject: Subject,
    happened: list[Happened],
    generator: torch.Generator | None,
) -> None:
    """Let the model look at what really happened, all of it at once."""
    if not happened:
        return
    model = subject.model
    seen = {
        name: np.stack([event.obs[name] for _, event, _, _ in happened])
        for name in model.observations
    }
    first = torch.zeros(len(happened), dtype=torch.bool, device=model.device)
    before: Any = tree.cat([state for _, _, state, _ in happened])
    action = _actions(subject, [action for _, _, _, action in happened])
    h = model.encode(tensors(model, seen))
    after = model.observe(before, action, h, first=first, generator=generator)
    for i, (session, event, _, _) in enumerate(happened):
        session.meet(event, _row(after, i))
