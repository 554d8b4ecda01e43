"""Acting is scored fairly: the same starts for all, solved ones for none, and no free planner."""

import contextlib

import numpy as np
import pytest
import torch

from reverie.agent import RandomAgent
from reverie.core.errors import BadData
from reverie.core.types import Act, Box
from reverie.data.fill import mixed
from reverie.envs import toy
from reverie.envs.oracle import Clock, ClockState, TwoRooms
from reverie.envs.twenty48 import Twenty48
from reverie.evaluate.control import control, control_from_json
from reverie.evaluate.opponents import Legal
from reverie.evaluate.scrambled import Scrambled
from reverie.plan_agent import PlanAgent
from reverie.planners.cem import CEM
from reverie.planners.objective import GoalDistance


class Notes:
    """Does nothing, and notes where episodes begin."""

    def __init__(self):
        self.starts = []

    def initial(self, batch):
        return None

    def act(self, carry, obs, first, *, explore=False, generator=None):
        self.starts += obs["vector"][first].tolist()
        return None, Act(torch.zeros(len(first), 2), {})


class HalfSolved(toy.TwoRooms):
    """Two rooms in which the starts of some rows are goals."""

    rows = (1, 2)

    def _begin(self, rows):
        super()._begin(rows)
        for row in self.rows:
            self.goal[row] = self.position[row]


def scored(world, agent, episodes=6, seed=3, **more):
    with contextlib.closing(world) as env:
        return control("someone", env, agent, episodes=episodes, seed=seed, **more)


def test_whoever_plays_the_same_seed_has_the_same_starts():
    """Also in the second round, and whatever was done in the first one."""
    one, two = Notes(), Notes()
    scored(toy.TwoRooms(4, observe=("vector",)), one)
    scored(toy.TwoRooms(4, observe=("vector",), seed=9), two)
    assert one.starts[:6] == two.starts[:6]
    assert len({tuple(start) for start in one.starts[:6]}) == 6


def test_solved_starts_are_counted_and_left_out():
    found = scored(HalfSolved(4, observe=("vector",)), RandomAgent(Box((2,))), episodes=12)
    assert found.excluded == 6
    assert len(found.returns) == len(found.lengths) == len(found.success) == 6
    # One who stands still solves nothing, where counting those starts would say 2 of 4.
    assert scored(HalfSolved(4, observe=("vector",)), Notes(), episodes=12).success_rate.value == 0


def test_a_world_that_refuses_the_first_move_is_scored():
    """In 2048 the first move may change nothing, and is refused then."""
    with contextlib.closing(Twenty48(8, seed=5)) as env:
        obs, _ = env.reset(seed=mixed(3, 0))
    assert not obs["legal"][:, 0].all()  # or this test would say nothing
    found = scored(Twenty48(8), Legal(), episodes=8)
    assert found.excluded == 0
    assert min(found.lengths) > 5


def test_too_few_starts_are_no_score():
    with pytest.raises(BadData, match="8 episodes, but 4 of their starts were solved already"):
        scored(HalfSolved(4, observe=("vector",)), Notes(), episodes=8)


def test_model_steps_and_seconds_are_of_one_decision():
    """8 candidates of 3 steps, twice, and the plan itself: 51 steps for every 3 decisions."""
    model = TwoRooms()
    agent = PlanAgent(
        model,
        CEM(horizon=3, samples=8, iterations=2, elites=2),
        aim=lambda obs, state: GoalDistance(model.heads, state.goal),
        replan=3,
    )
    world = toy.TwoRooms(5, observe=("vector",), time_limit=9)
    found = scored(world, agent, episodes=5, model=model)
    assert found.imagined == 51 / 3
    assert 0 < found.thinking < found.seconds
    assert "predict" not in vars(model)
    assert control_from_json(found.to_json()) == found


def test_scrambled_predictions_are_the_models_own_in_other_rows():
    model = Scrambled(Clock())
    hours = torch.arange(50.0)
    generator = torch.Generator().manual_seed(0)
    after = model.predict(ClockState(hours), torch.zeros(50).long(), generator=generator)
    assert sorted(after.time.tolist()) == (hours + 1).tolist()
    assert (after.time == hours + 1).sum() < 10
    seen = model.observe(None, None, model.encode({"vector": hours[:, None]}))
    assert torch.equal(seen.time, hours)


def test_gates_of_two_rooms():
    """The true model with CEM at least 95%, random at most 15%, scrambled at most 20%."""
    from reverie.bench.tasks import two_rooms

    task = two_rooms()
    rates = {}
    for name, agent in {
        "oracle": task.plan(TwoRooms()),
        "random": RandomAgent(Box((2,))),
        "scrambled": task.plan(Scrambled(TwoRooms())),
    }.items():
        rates[name] = scored(task.world(100, 0), agent, episodes=100, seed=0).success_rate.value
    assert rates["oracle"] >= 0.95
    assert rates["random"] <= 0.15
    assert rates["scrambled"] <= 0.20


def test_episodes_without_a_predicate_have_no_success():
    found = scored(toy.Clock(5), Still(), episodes=5)
    assert found.success is None
    assert np.isfinite(found.score.value)


class Still:
    """Always the first action."""

    def initial(self, batch):
        return None

    def act(self, carry, obs, first, *, explore=False, generator=None):
        return None, Act(torch.zeros(len(first), dtype=torch.int64), {})
