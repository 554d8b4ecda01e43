"""Lookahead: its values are those of worlds with known answers, and it mends a bad policy."""

from __future__ import annotations

import pytest
import torch

from reverie.behaviors.lookahead import Lookahead, LookaheadConfig
from reverie.core import tree
from reverie.core.errors import BadConfig, MissingHead, SpaceMismatch
from reverie.envs import rules
from reverie.envs.oracle import Bandit, BanditState, Clock, ClockState, Grid, GridState
from reverie.envs.toy import ORACLES
from reverie.imagine import expected_return


def zeros(state):
    return torch.zeros(tree.size(state), dtype=torch.int64)


def test_values_are_the_means_of_a_bandit():
    look = Lookahead(Bandit(), zeros, LookaheadConfig(horizon=3, hold=1, particles=2))
    state = BanditState(torch.tensor([False, True]))
    means = torch.tensor(rules.BANDIT_MEANS, dtype=torch.float32)
    torch.testing.assert_close(look.values(state), torch.stack([means, torch.zeros_like(means)]))
    assert look(state)[0] == means.argmax()


def test_the_action_is_held_and_the_policy_goes_on_after_it():
    # At time 3 the right actions are 3, 4, 5. Holding 3 for a step and then telling the time
    # earns 30 + 40 + 50; holding 4 for two steps earns a wrong one, then 40, then 50.
    def tells(state):
        return state.time.long()

    wrong = rules.CLOCK_WRONG
    state = ClockState(torch.tensor([3.0]))
    once = Lookahead(Clock(), tells, LookaheadConfig(horizon=3, hold=1, particles=1))
    twice = Lookahead(Clock(), tells, LookaheadConfig(horizon=3, hold=2, particles=1))
    assert once.values(state)[0, 3] == 120
    assert once.values(state)[0, 4] == wrong + 90
    assert twice.values(state)[0, 3] == 30 + wrong + 50
    assert twice.values(state)[0, 4] == wrong + 40 + 50


def test_survival_is_what_a_model_without_rewards_earns():
    model = Clock()
    heads = model.heads._replace(reward=None)
    left = rules.CLOCK_HOURS - 2
    state = ClockState(torch.tensor([2.0]))
    earned = expected_return(model, heads, state, lambda s, t: zeros(s), 100, survival=4.0)
    assert earned.item() == 4.0 * (left - 1)  # the last step ends the episode


def test_it_finds_the_way_that_its_policy_does_not_know():
    model = Grid(slip=0.2)
    goal = int(torch.tensor(model.map.enter_reward).argmax())
    before = [
        c for c in range(model.map.cells.size) if goal in model.map.next_cell[c] and c != goal
    ]
    free = [c for c in before if not model.map.ends[c]]
    state = GridState(torch.tensor(free))
    look = Lookahead(model, zeros, LookaheadConfig(horizon=2, hold=1, particles=64))
    chosen = look(state, torch.Generator().manual_seed(0))
    assert (torch.as_tensor(model.map.next_cell)[free, chosen] == goal).all()


def test_rows_do_not_see_each_other():
    look = Lookahead(Clock(), zeros, LookaheadConfig(horizon=4, hold=2, particles=3))
    state = ClockState(torch.arange(6.0))
    together = look.values(state)
    alone = torch.cat([look.values(tree.take(state, slice(i, i + 1))) for i in range(6)])
    torch.testing.assert_close(together, alone)


def test_what_it_cannot_use_is_refused():
    with pytest.raises(SpaceMismatch, match="CEM"):
        Lookahead(ORACLES["two_rooms"](), zeros, LookaheadConfig())
    with pytest.raises(BadConfig, match="hold=9"):
        Lookahead(Clock(), zeros, LookaheadConfig(horizon=4, hold=9))

    class Mute(Clock):
        heads = property(lambda self: super().heads._replace(reward=None, cont=None))

    with pytest.raises(MissingHead, match="Lookahead"):
        Lookahead(Mute(), zeros, LookaheadConfig())
