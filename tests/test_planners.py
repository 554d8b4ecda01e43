"""Planners on true models: the optima of the linear-quadratic world and the grid, and habits."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import distributions as D

from reverie.core import tree
from reverie.core.errors import BadConfig, MissingHead, SpaceMismatch
from reverie.core.types import Discrete, Objects
from reverie.envs import rules
from reverie.envs.kalman import Belief, LinearGaussian
from reverie.envs.oracle import Clock, ClockState, Grid, GridState, Lottery, RoomState, TwoRooms
from reverie.imagine import rollout
from reverie.planners.cem import CEM
from reverie.planners.gradient import Gradient
from reverie.planners.icem import ICEM, coloured
from reverie.planners.mppi import MPPI
from reverie.planners.objective import GoalDistance, Return
from reverie.planners.score import Candidates, advance
from reverie.planners.shooting import RandomShooting

H = 10
SURE = rules.LinearSystem(Q=np.zeros((2, 2)), R=np.array([[1e-6]]), cov=np.zeros((2, 2)))
BOX = [
    CEM(horizon=H, samples=200, iterations=8, elites=20),
    ICEM(horizon=H, samples=100, iterations=8, elites=10, std_min=0.01),
    MPPI(horizon=H, samples=256, iterations=8, elites=32, temperature=8.0),
    Gradient(horizon=H, starts=2, steps=80),
    Gradient(horizon=H, starts=2, steps=200, lr=0.2, optimizer="sgd"),
]


def carts(b=6):
    """The best plan from any of these stays within the bounds."""
    mean = torch.stack([torch.linspace(0.2, 0.8, b), torch.linspace(-0.4, 0.0, b)], 1)
    return Belief(mean, torch.zeros(b, 2, 2))


def generator():
    return torch.Generator().manual_seed(0)


def name(planner):
    return getattr(planner, "optimizer", None) or type(planner).__name__


@pytest.mark.parametrize("planner", BOX, ids=name)
def test_the_optimum_of_the_linear_quadratic_world(planner):
    """Riccati's recursion says what the best plan of H steps costs."""
    model, state = LinearGaussian(SURE), carts()
    plan = planner.plan(model, state, Return(model.heads), generator=generator())
    x = state.mean.numpy()
    best = -np.einsum("bi,ij,bj->b", x, SURE.riccati(H)[1][0], x)
    assert plan.actions.shape == (6, H, 1)
    assert (plan.score.numpy() <= best * (1 - 1e-4)).all()  # nothing beats the optimum
    assert (plan.score.numpy() >= best * 1.02).all(), plan.score.numpy() / best


def test_the_optimum_of_the_grid():
    """From every cell, with 24,000 of the 262,144 plans of nine steps."""
    model, rows = Grid(), rules.GRID.split()
    cells = [c for c in range(20) if not model.map.ends[c] and rows[c // 5][c % 5] != "#"]
    planner = CEM(horizon=9, samples=2000, iterations=12, elites=6, momentum=0.5)
    state = GridState(torch.tensor(cells))
    plan = planner.plan(model, state, Return(model.heads), generator=generator())
    assert plan.score.tolist() == [brute_force(model.map, cell, 9) for cell in cells]


def brute_force(grid, cell, steps):
    """Best return of all 4^H plans, by dynamic programming over what is left."""
    if steps == 0 or grid.ends[cell]:
        return 0.0
    after = [int(grid.next_cell[cell][a]) for a in range(4)]
    return max(float(grid.enter_reward[c]) + brute_force(grid, c, steps - 1) for c in set(after))


def test_brute_force_is_what_trying_all_plans_gives():
    grid = rules.GridMap()

    def play(cell, plan):
        total = 0.0
        for a in plan:
            if grid.ends[cell]:
                break
            cell = int(grid.next_cell[cell][a])
            total += float(grid.enter_reward[cell])
        return total

    best = max(play(13, plan) for plan in itertools.product(range(4), repeat=4))
    assert brute_force(grid, 13, 4) == best


def test_shooting_takes_the_best_of_what_it_tried():
    model, state = Clock(), Clock().encode({"vector": torch.tensor([[3.0], [5.0]])})
    planner = RandomShooting(horizon=2, samples=4000)
    plan = planner.plan(model, state, Return(model.heads), generator=generator())
    assert plan.actions.tolist() == [[3, 4], [5, 6]]
    assert plan.score.tolist() == [70.0, 110.0]


@pytest.mark.parametrize("planner", [*BOX, RandomShooting(horizon=H)], ids=name)
def test_permuting_the_batch_permutes_the_plan(planner):
    model, state = LinearGaussian(SURE), carts()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    straight = planner.plan(model, state, Return(model.heads), generator=generator())
    mixed = planner.plan(model, tree.take(state, order), Return(model.heads), generator=generator())
    torch.testing.assert_close(mixed.actions, straight.actions[order], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("planner", [CEM(horizon=6), RandomShooting(horizon=6)], ids=name)
def test_permuting_the_batch_permutes_discrete_plans(planner):
    model, order = Grid(), torch.tensor([3, 0, 4, 1, 2])
    state, objective = GridState(torch.tensor([0, 4, 7, 13, 16])), Return(model.heads)
    straight = planner.plan(model, state, objective, generator=generator())
    mixed = planner.plan(model, tree.take(state, order), objective, generator=generator())
    assert torch.equal(mixed.actions, straight.actions[order])
    assert torch.equal(mixed.score, straight.score[order])


@pytest.mark.parametrize("planner", [*BOX, RandomShooting(horizon=H)], ids=name)
def test_bounds_are_kept(planner):
    model = LinearGaussian(SURE)
    far = Belief(torch.full((2, 2), 50.0), torch.zeros(2, 2, 2))  # the best push is far beyond 1
    plan = planner.plan(model, far, Return(model.heads), generator=generator())
    assert plan.actions.abs().max() <= 1
    assert plan.actions[:, 0].mean() < -0.4


@pytest.mark.parametrize("planner", BOX, ids=name)
def test_a_warm_start_helps_a_short_search(planner):
    model, state, objective = LinearGaussian(SURE), carts(), Return(LinearGaussian(SURE).heads)
    whole = planner.plan(model, state, objective, generator=generator())
    few = {"steps": 1} if isinstance(planner, Gradient) else {"iterations": 1}
    narrow = {} if isinstance(planner, Gradient) else {"std": 0.05}
    short = type(planner)(**{**vars(planner), **few, **narrow})
    warm = {name: x for name, x in whole.extra.items() if name.startswith("warm")}
    cold = short.plan(model, state, objective, generator=generator())
    again = short.plan(model, state, objective, warm=warm, generator=generator())
    assert (again.score > cold.score).all()


def test_a_warm_start_of_discrete_plans_goes_on_where_the_last_one_ended():
    """One step later on the best way, one iteration keeps to it; a cold one finds nothing."""
    model, objective = Grid(), Return(Grid().heads)
    planner = CEM(horizon=9, samples=2000, iterations=12, elites=6, momentum=0.5)
    state = GridState(torch.tensor([0]))
    plan = planner.plan(model, state, objective, generator=generator())
    assert plan.score.tolist() == [4.0]
    later = model.predict(state, plan.actions[:, 0])
    short = CEM(horizon=9, samples=20, iterations=1, elites=4)
    warm = advance(plan.extra, 1, torch.tensor([False]))
    again = short.plan(model, later, objective, warm=warm, generator=generator())
    cold = short.plan(model, later, objective, generator=generator())
    assert again.score.tolist() == [5.0]
    assert cold.score < 0


def test_particles_average_over_luck():
    """One draw of arm 1 of the lottery looks like 2.0; a thousand tell that it is worth -0.4."""
    model = Lottery()
    state = model.encode({"vector": torch.zeros(50, 2)})
    for planner in (RandomShooting(horizon=1, samples=30), CEM(horizon=1, samples=30, elites=5)):
        lucky = planner.plan(model, state, Return(model.heads), generator=generator())
        assert (lucky.actions[:, 0] == 1).float().mean() > 0.9
        wise = replace(planner, particles=1000)
        plan = wise.plan(model, state, Return(model.heads), generator=generator())
        assert (plan.actions[:, 0] == 0).all()


@pytest.mark.parametrize("particles", [1, 3])
def test_objectives_are_shown_what_a_rollout_shows(particles):
    """Candidates are imagined without keeping each step's own memory; the states are the same."""
    model, seen = TwoRooms(), []
    place = torch.tensor([[4.0, 16.0], [20.0, 9.0]])
    state = RoomState(place, place + 5, torch.tensor([16.0, 12.0]))

    def look(run):
        seen.append(run)
        return run.actions.sum((1, 2))

    actions = torch.rand(2, 5, 3, 2, generator=generator()) * 2 - 1
    given = Candidates(model, state, look, repeat=2, particles=particles)
    score = given.score(actions)
    torch.testing.assert_close(score, 2 * actions.sum((2, 3)))
    held = actions.flatten(0, 1).repeat_interleave(2, 1).repeat_interleave(particles, 0)
    told = rollout(model, tree.repeat(state, 5 * particles), held)
    assert torch.equal(seen[0].actions, told.actions)
    for found, wanted in zip(tree.leaves(seen[0].states), tree.leaves(told.states), strict=True):
        assert torch.equal(found, wanted)


def test_states_that_are_objects_are_planned_with():
    """Letters are appended to a word; the best of all words of three letters is spelled."""

    class Words(NamedTuple):
        text: Objects

    class Spelling(Clock):
        actions = Discrete(3)

        def predict(self, state, action, *, z=None, generator=None):
            rows = zip(state.text.items, action.tolist(), strict=True)
            return Words(Objects(text + "abc"[a] for text, a in rows))

    def worth(run):
        return torch.tensor(
            [float(sum(map(str.__eq__, x[-1], "cab"))) for x in run.states.text.items]
        )

    plan = RandomShooting(horizon=3, samples=400).plan(
        Spelling(), Words(Objects(["", ""])), worth, generator=generator()
    )
    assert plan.actions.tolist() == [[2, 0, 1], [2, 0, 1]]
    assert plan.score.tolist() == [3.0, 3.0]


def test_what_is_warm_moves_on_and_restarts():
    x = torch.arange(12.0).view(2, 3, 2)
    moved = advance({"warm_mean": x, "visits": x}, 1, torch.tensor([False, True]))
    assert list(moved) == ["warm_mean"]
    assert moved["warm_mean"].tolist() == [[[2, 3], [4, 5], [0, 0]], [[0, 0], [0, 0], [0, 0]]]


def test_macro_actions_are_held_and_reach_farther():
    model = TwoRooms()
    state = RoomState(
        torch.tensor([[4.0, 16.0]]), torch.tensor([[28.0, 16.0]]), torch.tensor([16.0])
    )
    objective = GoalDistance(model.heads, state.goal, over="last")
    few = {"horizon": 4, "samples": 256, "elites": 16}
    short = CEM(**few).plan(model, state, objective, generator=generator())
    macro = CEM(**few, repeat=4)
    plan = macro.plan(model, state, objective, generator=generator())
    assert plan.actions.shape == (1, 16, 2)
    assert torch.equal(plan.actions[:, 0::4], plan.actions[:, 3::4])
    assert short.score < -15
    assert plan.score > -1


def test_noise_is_as_red_as_asked():
    """The spectrum falls as f^-beta, and every element stays standard normal."""
    white = torch.randn(1, 40_000, 32, 1, generator=generator())
    red = coloured(white, 2.0)[0, :, :, 0]
    power = torch.fft.rfft(red).abs().square().mean(0)
    slope = np.polyfit(np.log(np.arange(1, 16)), np.log(power[1:16].numpy()), 1)[0]
    assert slope == pytest.approx(-2, abs=0.05)
    assert red.std(0).numpy() == pytest.approx(1, abs=0.03)


def test_proposals_of_a_good_policy_are_taken():
    model = LinearGaussian(SURE)
    gain = torch.as_tensor(SURE.riccati(60)[0][0], dtype=torch.float32)
    heads = model.heads._replace(policy=lambda s: D.Normal(-s.mean @ gain.T, 1e-3))
    few = {"horizon": H, "samples": 24, "iterations": 1, "elites": 4, "temperature": 20.0}
    lent = MPPI(**few, proposals=8, heads=heads)
    state, objective = carts(), Return(model.heads)
    with_policy = lent.plan(model, state, objective, generator=generator())
    without = MPPI(**few).plan(model, state, objective, generator=generator())
    assert (with_policy.score > without.score).all()
    with pytest.raises(MissingHead, match="MPPI with proposals needs policy"):
        MPPI(**few, proposals=8).plan(model, state, objective)


@pytest.mark.parametrize("planner", [ICEM(), MPPI(), Gradient()], ids=name)
def test_the_wrong_kind_of_actions_names_the_right_planner(planner):
    model = Grid()
    with pytest.raises(SpaceMismatch, match="CEM or MCTS"):
        planner.plan(model, GridState(torch.tensor([0])), Return(model.heads))


@pytest.mark.parametrize("planner", [*BOX[:4], RandomShooting()], ids=name)
def test_nothing_is_planned_where_nothing_acts(planner):
    model = Clock()
    model.actions = None
    with pytest.raises(SpaceMismatch, match=r"Only what acts can be planned|this model has none"):
        planner.plan(model, ClockState(torch.zeros(1)), Return(model.heads))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CEM(elites=300), "300 elites"),
        (lambda: CEM(horizon=0), "CEM.horizon"),
        (lambda: ICEM(decay=0.5), "decay"),
        (lambda: MPPI(temperature=0), "temperature"),
        (lambda: Gradient(optimizer="newton"), "newton"),
        (lambda: RandomShooting(samples=0), "RandomShooting.samples"),
    ],
)
def test_numbers_that_make_no_sense(make, message):
    with pytest.raises(BadConfig, match=message):
        make()
