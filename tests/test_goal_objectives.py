"""Distances that know the way, against ways that are counted on a grid with a wall."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from scipy.stats import spearmanr

from reverie.core.errors import BadConfig, BadData, MissingHead, ShapeMismatch
from reverie.core.types import Batch, Rollout
from reverie.envs.oracle import RoomState, TwoRooms
from reverie.learner import GradientLearner
from reverie.planners.goal_objectives import Every, LandmarkGraph, TemporalDistance, ToGoal
from reverie.planners.objective import GoalDistance

SIDE = 7  # a square of 7 x 7 places, with a wall in column 3 but for its lowest place
PLACES = [(x, y) for x in range(SIDE) for y in range(SIDE) if x != 3 or y == 0]
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))


def walked(start: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Steps from a place to every other, by breadth-first search."""
    found, queue = {start: 0}, deque([start])
    while queue:
        x, y = queue.popleft()
        for dx, dy in MOVES:
            near = (x + dx, y + dy)
            if near in PLACES and near not in found:
                found[near] = found[x, y] + 1
                queue.append(near)
    return found


def wander(rows: int, steps: int, seed: int = 0) -> torch.Tensor:
    """(rows, steps+1, 2) random walks over the places; a walk into the wall stays."""
    g = torch.Generator().manual_seed(seed)
    free = torch.zeros(SIDE + 2, SIDE + 2, dtype=torch.bool)
    for x, y in PLACES:
        free[x + 1, y + 1] = True
    place = torch.tensor(PLACES)[torch.randint(len(PLACES), (rows,), generator=g)]
    path = [place]
    for _ in range(steps):
        there = place + torch.tensor(MOVES)[torch.randint(4, (rows,), generator=g)]
        open_ = free[there[:, 0] + 1, there[:, 1] + 1]
        place = torch.where(open_[:, None], there, place)
        path.append(place)
    return torch.stack(path, 1).float()


class Flat:
    """A distance that is the place's own first coordinate, whatever the goal."""

    def toward(self, goal):
        return lambda z: z[..., 0] + 0 * goal[:, None, 0]


def run(*places) -> Rollout:
    """One path in the true model's embedding, which is the position."""
    steps = torch.tensor([[list(p) for p in places]], dtype=torch.float32)
    return Rollout(RoomState(steps, steps, steps[..., 0]), torch.zeros(1, len(places) - 1, 2))


HEADS = TwoRooms().heads
GOAL = torch.zeros(1, 2)


@pytest.mark.parametrize(("over", "worth"), [("sum", -7.0), ("last", -4.0), ("best", -3.0)])
def test_what_is_left_is_summed_or_the_last_or_the_best(over, worth):
    path = run((99, 0), (3, 0), (4, 0))  # where it began does not count
    assert ToGoal(HEADS, GOAL, Flat(), over=over)(path).tolist() == [worth]


def test_rows_of_one_goal_stand_together():
    steps = torch.tensor([[[0.0, 0.0]] * 2, [[1.0, 0.0]] * 2, [[2.0, 0.0]] * 2, [[3.0, 0.0]] * 2])
    rollout = Rollout(RoomState(steps, steps, steps[..., 0]), torch.zeros(4, 1, 2))

    class FromGoal:
        def toward(self, goal):
            return lambda z: (z - goal[:, None]).norm(dim=-1)

    goals = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    assert ToGoal(HEADS, goals, FromGoal())(rollout).tolist() == [0.0, -1.0, -8.0, -7.0]
    three = Rollout(RoomState(steps[:3], steps[:3], steps[:3, :, 0]), torch.zeros(3, 1, 2))
    with pytest.raises(ShapeMismatch, match="holds 2 goals, but 3 trajectories came"):
        ToGoal(HEADS, goals, FromGoal())(three)


def test_every_nth_step_is_judged():
    path = run((0, 0), (9, 0), (2, 0), (9, 0), (5, 0))
    inner = GoalDistance(HEADS, GOAL, over="sum")
    assert Every(2, inner)(path).tolist() == [-7.0]
    assert Every(1, inner)(path).tolist() == [-25.0]
    with pytest.raises(BadConfig, match="Every 3 steps .* but the plan has 4"):
        Every(3, inner)(path)
    with pytest.raises(BadConfig, match="n is 0"):
        Every(0, inner)


def test_landmarks_lead_around_the_wall_as_far_as_walking_does():
    """Every place is a landmark and every edge one step, so ways are counted exactly."""
    paths = wander(60, 40)
    step = torch.ones(60, 41, dtype=torch.bool)
    step[:, -1] = False  # from the end of a walk to the beginning of the next
    graph = LandmarkGraph(paths.flatten(0, 1), step.flatten()[:-1], landmarks=len(PLACES))
    assert graph.connected == 1.0
    for goal in ((2, 6), (5, 3)):
        wanted = walked(goal)
        left = graph.toward(torch.tensor([goal], dtype=torch.float32))
        found = left(torch.tensor([PLACES], dtype=torch.float32))[0].tolist()
        assert found == pytest.approx([wanted[place] for place in PLACES], abs=1e-3)


def test_a_graph_that_falls_apart_says_so_and_gives_numbers():
    z = torch.tensor([[0.0], [1.0], [2.0], [50.0], [51.0], [52.0]]).repeat(3, 1)
    step = torch.tensor([True, True, False, True, True, False] * 3)[:-1]
    graph = LandmarkGraph(z, step, landmarks=6)
    assert graph.connected == 0.5
    left = graph.toward(torch.tensor([[0.0]]))(torch.tensor([[[2.0], [52.0]]]))
    assert left[0, 0].item() == pytest.approx(2.0)
    assert left[0, 1].isfinite()
    assert left[0, 1] > 1000
    with pytest.raises(BadData, match="asked for 18 landmarks, but 18 embeddings with"):
        LandmarkGraph(z, step, landmarks=18)


def test_the_learned_distance_ranks_places_by_the_walk_where_their_own_distance_says_nothing():
    """Ten places in a row, each a unit vector of its own: all equally far, but for the walk."""
    g = torch.Generator().manual_seed(0)
    walk = torch.randint(10, (20_000, 1), generator=g)
    for _ in range(6):
        to = walk[:, -1:] + 2 * torch.randint(2, (20_000, 1), generator=g) - 1
        walk = torch.cat([walk, to.clamp(0, 9)], 1)
    places = torch.eye(10)
    torch.manual_seed(0)
    distance = TemporalDistance(10, hidden=64)
    learner = GradientLearner([distance.part()])
    no, first = torch.zeros(256, 6, dtype=torch.bool), torch.zeros(256, 7, dtype=torch.bool)
    for _ in range(800):
        z = places[walk[torch.randint(20_000, (256,), generator=g)]]
        learner.update(Batch({"embedding": z}, None, None, no, no, ~no, first, {}))
    with torch.no_grad():
        left = distance.toward(places[:1])(places[None])[0]
    assert left[0] < 1
    assert spearmanr(left, range(10)).statistic > 0.9
    assert left[9] > 2 * left[2]


def test_segments_with_a_seam_do_not_teach():
    distance = TemporalDistance(2, hidden=8)
    no = torch.zeros(4, 2, dtype=torch.bool)
    z = torch.randn(4, 3, 2)
    batch = Batch({"embedding": z}, None, None, no, no, no, torch.zeros(4, 3, dtype=torch.bool), {})
    assert distance.part().loss(batch, None).total.item() == 0


def test_missing_heads_and_words_are_refused_when_it_is_made():
    with pytest.raises(MissingHead, match="ToGoal needs embed"):
        ToGoal(HEADS._replace(embed=None), GOAL, Flat())
    with pytest.raises(BadConfig, match="'first'"):
        ToGoal(HEADS, GOAL, Flat(), over="first")
