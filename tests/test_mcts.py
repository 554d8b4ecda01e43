"""Tree search: worlds with known answers, two players, Boxes, noise, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from reverie.core import tree
from reverie.core.errors import (
    BadConfig,
    MissingHead,
    NonFinite,
    ShapeMismatch,
    SpaceMismatch,
)
from reverie.core.model import WorldModel
from reverie.core.types import Box, Card, Discrete, Heads, Objects
from reverie.envs import rules, toy
from reverie.envs.oracle import Bandit, Grid, GridState, Lottery, LotteryState
from reverie.planners.mcts import MCTS, Outcomes, draws
from reverie.planners.selection import PUCT, Gumbel, halving

SELECTIONS = {"puct": PUCT(), "gumbel": Gumbel()}
both = pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)


def lent(model: WorldModel, n: int, *, value: bool = False) -> Heads:
    """The model's heads, with a policy that knows nothing and, unless asked, no idea of value."""

    def policy(state):
        return Categorical(logits=torch.zeros(tree.size(state), n), validate_args=False)

    heads = model.heads._replace(policy=policy)
    return heads if value else heads._replace(value=lambda s: torch.zeros(tree.size(s)))


def begin(model: WorldModel, obs: list) -> NamedTuple:
    return model.observe(None, None, model.encode({"vector": torch.tensor(obs)}))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Stub(WorldModel):
    """What the small worlds of this file share."""

    card = Card("stub", "", "", "", "", "", "", (), (), "")
    observations: ClassVar = {"vector": Box((1,))}
    actions = Discrete(3)

    def encode(self, obs):
        raise NotImplementedError

    observe = encode


# -- bandit, lottery, grid ------------------------------------------------------------------------


@both
def test_the_best_arm_of_the_bandit(selection):
    model = Bandit()
    planner = MCTS(selection, 32, heads=lent(model, 4))
    plan = planner.plan(model, begin(model, [[0.0], [0.0]]))
    assert plan.actions.tolist() == [[2], [2]] and plan.actions.dtype == torch.int64
    assert plan.score.tolist() == pytest.approx([0.9, 0.9])
    # One pull ends it, so the root's value is hand-made: the mean of what its visits earned and 0.
    earned = (plan.extra["visits"] * torch.tensor(rules.BANDIT_MEANS)).sum(1)
    torch.testing.assert_close(plan.extra["root_value"], earned / 33)
    assert plan.extra["visits"].sum(1).tolist() == [32, 32]
    torch.testing.assert_close(plan.extra["search_policy"].sum(1), torch.ones(2))


def test_what_puct_has_found_is_the_share_of_visits():
    model = Bandit()
    plan = MCTS(PUCT(), 32, heads=lent(model, 4)).plan(model, begin(model, [[0.0]]))
    torch.testing.assert_close(plan.extra["search_policy"], plan.extra["visits"] / 32)
    assert int(plan.extra["visits"].argmax()) == 2


def test_gumbel_improves_the_policy_as_the_closed_form_says():
    """All four arms were tried, so Q is their means, from -0.4 to 0.9.

    Sequential halving over 4 with 16 simulations gives 2 visits each, then 4 more to the two best.
    """
    model = Bandit()
    plan = MCTS(Gumbel(), 16, heads=lent(model, 4)).plan(model, begin(model, [[0.0]]))
    assert plan.extra["visits"].tolist() == [[2, 2, 6, 6]]
    sigma = [(50 + 6) * 0.1 * (q + 0.4) / 1.3 for q in (0.1, -0.4, 0.9, 0.5)]
    whole = sum(math.exp(x) for x in sigma)
    torch.testing.assert_close(
        plan.extra["search_policy"], torch.tensor([[math.exp(x) / whole for x in sigma]])
    )


def test_gumbel_completes_the_arms_that_it_did_not_try():
    """Two simulations go to the two likeliest arms, 0 and 1; the others get the mixed value.

    That is (V + 2 (p0 q0 + p1 q1) / (p0 + p1)) / 3 with V = 0.9, p = .4, .3, .2, .1:
    (0.9 + 2 (.04 - .12) / .7) / 3 = 0.2238095; the range of Q is then -0.4 to that.
    """
    model, prior = Bandit(), torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    heads = model.heads._replace(policy=lambda s: Categorical(prior.expand(len(s.pulled), -1)))
    planner = MCTS(Gumbel(considered=2), 2, heads=heads)
    plan = planner.plan(model, begin(model, [[0.0]]))
    assert plan.extra["visits"].tolist() == [[1, 1, 0, 0]]
    q = torch.tensor([0.1, -0.4, 0.2238095, 0.2238095])
    sigma = (50 + 1) * 0.1 * (q + 0.4) / 0.6238095
    torch.testing.assert_close(plan.extra["search_policy"], (prior.log() + sigma).softmax(1))
    assert plan.actions.tolist() == [[0]]  # the best of those tried


def test_the_schedule_of_sequential_halving():
    assert halving(4, 8) == [0, 0, 0, 0, 1, 1, 2, 2]  # worked by hand
    assert halving(1, 3) == [0, 1, 2]
    assert halving(3, 5) == [0, 0, 0, 1, 1]
    assert halving(16, 4) == [0, 0, 0, 0]


def lottery_outcomes(state: LotteryState, action: Tensor) -> Outcomes:
    """Both outcomes of each arm, by a z on either side of its chance."""
    _, chance = rules.lottery_arms()
    p = torch.tensor(chance, dtype=torch.float32)[action]
    return Outcomes(torch.stack([p, 1 - p], 1), torch.stack([p / 2, (1 + p) / 2], 1))


class Sure(Lottery):
    """The lottery as a model without z would learn it: one outcome for each arm."""

    def __init__(self, x: list[float]) -> None:
        super().__init__()
        self.x = torch.tensor(x)

    def predict(self, state, action, *, z=None, generator=None):
        return LotteryState(self.x[action], torch.ones_like(state.drawn))


@both
def test_chance_nodes_find_the_safe_arm_of_the_lottery(selection):
    model = Lottery()
    planner = MCTS(selection, 200, heads=lent(model, 3), chance=lottery_outcomes)
    found = planner.search(model, begin(model, [[0.0, 0.0]])).tree
    assert planner.plan(model, begin(model, [[0.0, 0.0]])).actions.tolist() == [[0]]
    for arm, mean in enumerate(rules.LOTTERY_MEANS):  # visits come as often as outcomes are likely
        visits = found.visits[0, 0, arm]
        assert found.value[0, 0, arm] == pytest.approx(mean, abs=14 / visits)


@both
@pytest.mark.parametrize(("outcome", "wrong"), [("likeliest", 1), ("mean", 2)])
def test_a_tree_without_chance_is_fooled_by_the_lottery(selection, outcome, wrong):
    outcomes, chance = rules.lottery_arms()
    x = outcomes[:, 0] if outcome == "likeliest" else (outcomes.T * [chance, 1 - chance]).sum(0)
    model = Sure(x.tolist())
    planner = MCTS(selection, 200, heads=lent(model, 3))
    assert planner.plan(model, begin(model, [[0.0, 0.0]])).actions.tolist() == [[wrong]]


@both
def test_a_tree_of_one_draw_an_edge_is_fooled_as_often_as_the_draw_is_good(selection):
    """The true model, without chance nodes: arm 1 looks like 2.0 in 80% of the trees."""
    model = Lottery()
    planner = MCTS(selection, 50, heads=lent(model, 3))
    plan = planner.plan(model, begin(model, [[0.0, 0.0]] * 2000), generator=generator())
    share = plan.actions[:, 0].bincount(minlength=3) / 2000
    assert share.tolist() == pytest.approx([0.2, 0.8, 0.0], abs=0.03)


@both
def test_draws_stand_in_for_a_z_that_cannot_be_listed(selection):
    model = Lottery()
    planner = MCTS(selection, 400, heads=lent(model, 3), chance=draws(64))
    state = begin(model, [[0.0, 0.0]] * 10)
    plan = planner.plan(model, state, generator=generator())
    assert plan.actions.tolist() == [[0]] * 10
    again = planner.plan(model, state, generator=generator())
    assert torch.equal(plan.extra["visits"], again.extra["visits"])


def open_cells(model: Grid) -> list[int]:
    """The cells where one can stand and go on."""
    signs = model.map.cells.reshape(-1)
    return [c for c, sign in enumerate(signs) if sign not in "#PG"]


def as_the_crow_flies(model: Grid) -> Heads:
    """Heads that know where the goal is, and nothing of walls and pits.

    The value of d steps to the goal is 10 - (d - 1); the policy prefers steps that come nearer.
    """
    height, width = model.map.cells.shape
    cell = torch.arange(height * width)
    row, column = cell // width, cell % width
    moved_row = (row[:, None] + torch.tensor([-1, 0, 1, 0])).clamp(0, height - 1)
    moved_column = (column[:, None] + torch.tensor([0, 1, 0, -1])).clamp(0, width - 1)
    goal = int(np.flatnonzero(model.map.goal)[0])

    def distance(row, column):
        return ((row - goal // width).abs() + (column - goal % width).abs()).float()

    value = torch.where(torch.tensor(model.map.ends), 0.0, 11 - distance(row, column))
    logits = -distance(moved_row, moved_column)
    return model.heads._replace(
        value=lambda s: value[s.cell],
        policy=lambda s: Categorical(logits=logits[s.cell], validate_args=False),
    )


def walked(planner: MCTS, model: Grid, cells: list[int]) -> list[float]:
    """What nine steps from each cell earn, with a search before each."""
    state, total = GridState(torch.tensor(cells)), torch.zeros(len(cells))
    for _ in range(9):
        action = planner.plan(model, state).actions[:, 0]
        after = model.predict(state, action)
        total += model.heads.reward(state, action, after)
        state = after
    return total.tolist()


@both
def test_the_grid_is_walked_at_the_brute_force_optimum(selection):
    """From every cell, though the heads would go straight through walls and pits."""
    model = Grid()
    cells = open_cells(model)
    best = model.map.values(9)[cells].tolist()
    assert best[cells.index(0)] == 4  # seven steps from S, the last one to the goal
    planner = MCTS(selection, 200, 1.0, heads=as_the_crow_flies(model))
    assert walked(planner, model, cells) == best
    # It is the search that does it: a look at each move alone stays above the pit for ever.
    look = walked(replace(planner, simulations=4), model, cells)
    assert [c for c, found, top in zip(cells, look, best, strict=True) if found != top] == [7]


def test_what_can_be_reached_is_found_without_any_idea_of_it():
    """No policy and no value: 1,500 simulations go through the 256 ways of four steps."""
    model = Grid()
    values = model.map.values(9)
    cells = [c for c in open_cells(model) if values[c] >= 7]  # 10 at the goal, 4 steps away
    assert len(cells) == 9
    planner = MCTS(PUCT(), 1500, 1.0, heads=lent(model, 4))
    assert walked(planner, model, cells) == values[cells].tolist()


def slips(state: GridState, action: Tensor) -> Outcomes:
    """A slip to each side, 0.1 each, or none."""
    side = (torch.arange(4) + 0.5) / 4
    z = torch.stack([torch.tensor([0.0, 0, 0, 0, 1.0]), torch.cat([side, torch.zeros(1)])], 1)
    p = torch.tensor([0.1, 0.1, 0.1, 0.1, 0.6])
    return Outcomes(p.expand(len(action), 5), z.expand(len(action), 5, 2))


def slipping_q(grid: rules.GridMap) -> np.ndarray:
    """(cells, 4) what each move is worth at a discount of 0.9, by dynamic programming."""
    after = np.where(grid.ends, 0, grid.values(100, 0.9))
    q = (grid.enter_reward + 0.9 * after)[grid.next_cell]
    return 0.6 * q + 0.4 * q.mean(1, keepdims=True)


def test_outcomes_come_as_often_as_they_are_likely():
    """Each move of each cell alone, 50 times: 30 times no slip, and 5 times each of the slips.

    The heads tell the whole worth of a step as its reward and end there, so that the mean over
    these visits is what dynamic programming says, to the last digit.
    """
    model = Grid(slip=0.4, discount=0.9)
    cells = open_cells(model)
    heads = lent(model, 4)

    def worth(s, a, n):
        return model.heads.reward(s, a, n) + 0.9 * model.heads.cont(n) * model.heads.value(n)

    heads = heads._replace(reward=worth, cont=lambda n: torch.zeros(len(n.cell)))
    planner = MCTS(PUCT(), 50, 1.0, heads=heads, chance=slips)
    state = GridState(torch.tensor(cells).repeat_interleave(4))
    mask = torch.eye(4, dtype=torch.bool).repeat(len(cells), 1)
    plan = planner.plan(model, state, mask=mask)
    np.testing.assert_allclose(plan.score.view(-1, 4), slipping_q(model.map)[cells], atol=1e-5)


def test_chance_nodes_know_the_best_move_where_one_slips():
    model = Grid(slip=0.4, discount=0.9)
    cells = open_cells(model)
    planner = MCTS(PUCT(), 1000, 0.9, heads=lent(model, 4, value=True), chance=slips)
    plan = planner.plan(model, GridState(torch.tensor(cells)))
    q = slipping_q(model.map)[cells]
    chosen = q[range(len(cells)), plan.actions[:, 0]]
    np.testing.assert_allclose(chosen, q.max(1), atol=1e-6)


# -- two players ----------------------------------------------------------------------------------


class Stones(NamedTuple):
    left: Tensor  # (B,) int64


class Nim(Stub):
    """Take 1, 2 or 3 stones; who takes the last one wins. Lost for who is to move at 4, 8, ..."""

    actions = Discrete(3)

    def predict(self, state, action, *, z=None, generator=None):
        return Stones(state.left - action - 1)

    @property
    def heads(self):
        def policy(state):
            taken = torch.arange(1, 4)
            legal = taken <= state.left[:, None]
            legal |= state.left[:, None] <= 0  # it is over
            # As logits: of probabilities, Categorical makes zeros a little more than that.
            return Categorical(logits=torch.where(legal, 0.0, -torch.inf), validate_args=False)

        return Heads(
            "nim",
            reward=lambda s, a, n: (n.left == 0).float(),
            cont=lambda n: (n.left > 0).float(),
            value=lambda s: torch.zeros(len(s.left)),
            policy=policy,
        )


@both
def test_two_players_play_nim_right(selection):
    model, won = Nim(), torch.tensor([1, 2, 3, 5, 6, 7, 9, 10, 11])
    plan = MCTS(selection, 800, 1.0, players=2).plan(model, Stones(won))
    assert (plan.actions[:, 0] + 1).tolist() == (won % 4).tolist()
    assert (plan.score > 0.7).all()
    lost = MCTS(selection, 800, 1.0, players=2).plan(model, Stones(torch.tensor([4, 8])))
    assert (lost.extra["root_value"] < 0).all() and (lost.score < -0.7).all()
    assert (plan.extra["visits"][0] == torch.tensor([800, 0, 0])).all()  # one stone: one move
    assert plan.extra["root_value"][0] == pytest.approx(800 / 801)


def test_the_root_of_nim_is_worth_what_its_visits_earned():
    """pUCT's go to the winning move; halving gives both of the losing ones 133 at least."""
    model, won = Nim(), torch.tensor([3, 5, 6, 7, 9, 10, 11])
    sure = MCTS(PUCT(), 800, 1.0, players=2).plan(model, Stones(won))
    assert (sure.extra["root_value"] > 0.3).all()
    # Three slots: 800 // (2 * 3) each, then the two best in turns for what is left, 401.
    plan = MCTS(Gumbel(), 800, 1.0, players=2).plan(model, Stones(won))
    assert plan.extra["visits"].sort(1).values.tolist() == [[133, 333, 334]] * len(won)


def test_one_player_takes_nims_opponent_for_a_friend():
    model = Nim()
    plan = MCTS(PUCT(), 800, 1.0).plan(model, Stones(torch.tensor([4])))
    assert plan.score > 0.8  # he would win at 4 stones, if the other one helped


# -- Boxes ----------------------------------------------------------------------------------------


class Peaks(NamedTuple):
    best: Tensor  # (B, 1)


class Hill(Stub):
    """One step with reward -(a - best)^2; the policy looks around 0."""

    actions = Box((1,))
    std = 0.5

    def predict(self, state, action, *, z=None, generator=None):
        return state

    @property
    def heads(self):
        return Heads(
            "hill",
            reward=lambda s, a, n: -(a - s.best).square().sum(-1),
            cont=lambda n: torch.zeros(len(n.best)),
            value=lambda s: torch.zeros(len(s.best)),
            policy=lambda s: Normal(torch.zeros_like(s.best), self.std),
        )


def test_sampled_actions_find_the_top_of_a_hill():
    """Sequential halving over 64 draws; pUCT spends 512 simulations on the first good one."""
    model, best = Hill(), torch.tensor([[-0.7], [0.0], [0.4]])
    planner = MCTS(Gumbel(considered=64), 512, samples=128)
    plan = planner.plan(model, Peaks(best), generator=generator())
    assert plan.actions.shape == (3, 1, 1) and plan.actions.dtype == torch.float32
    assert (plan.actions[:, 0] - best).abs().max() < 0.05
    torch.testing.assert_close(plan.score, -(plan.actions[:, 0, 0] - best[:, 0]).square())
    assert plan.extra["candidates"].shape == (3, 128, 1)
    assert plan.extra["search_policy"].shape == (3, 128)


@both
def test_the_best_of_sixteen_samples_is_taken(selection):
    """Which one that is, is seen by looking at all of them."""
    model, best = Hill(), torch.tensor([[-0.7], [0.0], [0.4]])
    plan = MCTS(selection, 2000).plan(model, Peaks(best), generator=generator())
    candidates = plan.extra["candidates"][:, :, 0]
    nearest = (candidates - best).abs().argmin(1)
    assert plan.actions[:, 0, 0].tolist() == candidates[range(3), nearest].tolist()


def test_sampled_actions_stay_in_the_box_and_follow_the_generator():
    model = Hill()
    model.std = 5.0
    planner, state = MCTS(PUCT(), 8), Peaks(torch.zeros(4, 1))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = planner.plan(model, state, generator=generator(1))
    again = planner.plan(model, state, generator=generator(1))
    other = planner.plan(model, state, generator=generator(2))
    assert torch.equal(torch.get_rng_state(), before)  # the default one was not touched
    assert torch.equal(first.extra["candidates"], again.extra["candidates"])
    assert not torch.equal(first.extra["candidates"], other.extra["candidates"])
    assert first.extra["candidates"].abs().max() == 1


def test_sampled_actions_of_a_deep_tree_are_each_nodes_own():
    """Two steps: the second node's best action is what the first was; only its own draws hit it."""

    class Copy(Hill):
        def predict(self, state, action, *, z=None, generator=None):
            return Peaks(action)

        @property
        def heads(self):
            return super().heads._replace(
                cont=lambda n: torch.full((len(n.best),), 0.5),
                policy=lambda s: Independent(Normal(s.best, 0.1), 1),
            )

    model = Copy()
    found = MCTS(PUCT(), 60, 1.0, samples=4).search(model, Peaks(torch.tensor([[0.5]])))
    first = found.candidates[0, :, 0]
    assert (first - 0.5).abs().max() < 0.5
    # Rewards of the second step are -(a - first)^2 with a near `first`: tiny, as its own draws are.
    depth_two = found.tree.before[:, 0, 0] > 0
    assert depth_two.any() and (found.tree.reward[0, depth_two] > -0.25).all()


# -- batches, masks, noise ------------------------------------------------------------------------


@both
def test_permuting_the_batch_permutes_the_plan(selection):
    model, order = Grid(), torch.tensor([3, 0, 2, 4, 1])
    planner = MCTS(selection, 60, heads=lent(model, 4))
    state = GridState(torch.tensor([0, 4, 5, 9, 14]))
    plan, moved = planner.plan(model, state), planner.plan(model, tree.take(state, order))
    assert torch.equal(plan.actions[order], moved.actions)
    for name, value in plan.extra.items():
        assert torch.equal(value[order], moved.extra[name]), name


@both
def test_forbidden_actions_are_never_tried(selection):
    model = Bandit()
    planner = MCTS(selection, 20, heads=lent(model, 4))
    mask = torch.tensor([[True, True, False, True], [False, True, False, False]])
    plan = planner.plan(model, begin(model, [[0.0], [0.0]]), mask=mask)
    assert plan.actions.tolist() == [[3], [1]]
    assert (plan.extra["visits"][~mask] == 0).all()
    assert (plan.extra["search_policy"][~mask] == 0).all()
    assert plan.extra["search_policy"][1, 1] == 1


def test_heads_are_lent_by_a_critic_and_an_actor():
    """What is worth what is known to the networks only; halving looks at each move once."""
    model, draw = Grid(), generator(3)
    critic = nn.Embedding(20, 1, _weight=torch.randn(20, 1, generator=draw))
    actor = nn.Embedding(20, 4, _weight=torch.zeros(20, 4))
    heads = model.heads._replace(
        value=lambda s: critic(s.cell)[:, 0],
        policy=lambda s: Categorical(logits=actor(s.cell)),
        reward=lambda s, a, n: torch.zeros(len(n.cell)),
    )
    cells = open_cells(model)
    plan = MCTS(Gumbel(), 4, 1.0, heads=heads).plan(model, GridState(torch.tensor(cells)))
    after = model.map.next_cell[cells]
    worth = np.where(model.map.ends, 0, critic.weight.detach()[:, 0])[after]
    assert plan.score.tolist() == pytest.approx(worth.max(1).tolist())
    assert not plan.score.requires_grad
    with torch.no_grad():
        actor.weight[:, 2] = 20.0  # so sure that all simulations go down
    sure = MCTS(PUCT(), 4, 1.0, heads=heads).plan(model, GridState(torch.tensor(cells)))
    assert sure.extra["visits"].tolist() == [[0, 0, 4, 0]] * len(cells)


def test_dirichlet_noise_is_mixed_into_the_allowed_prior():
    prior = np.tile([0.6, 0.3, 0.1, 0.0], (20_000, 1))
    drawn, _ = PUCT(noise=0.25).begin(prior, 1, lambda: np.random.default_rng(0))
    assert (drawn[:, 3] == 0).all()
    np.testing.assert_allclose(drawn.sum(1), 1, rtol=1e-6)
    noise = (drawn[:, :3] - 0.75 * prior[:, :3]) / 0.25
    np.testing.assert_allclose(noise.mean(0), 1 / 3, atol=0.01)
    # A Dirichlet of n entries of alpha has variance (1 / n)(1 - 1 / n) / (n alpha + 1).
    np.testing.assert_allclose(noise.var(0), (2 / 9) / (3 * 0.3 + 1), rtol=0.03)


def test_gumbel_noise_draws_from_the_prior():
    """One simulation of one slot: the argmax of Gumbel noise + log prior is a draw (Gumbel-max)."""
    model, prior = Bandit(), torch.tensor([0.5, 0.25, 0.2, 0.05])
    heads = model.heads._replace(policy=lambda s: Categorical(prior.expand(len(s.pulled), 4)))
    planner = MCTS(Gumbel(considered=1, noise=1.0), 1, heads=heads)
    plan = planner.plan(model, begin(model, [[0.0]] * 20_000), generator=generator())
    share = plan.actions[:, 0].bincount(minlength=4) / 20_000
    torch.testing.assert_close(share, prior, atol=0.012, rtol=0)


def test_the_temperature_draws_by_visits():
    model = Bandit()
    state = begin(model, [[0.0]] * 20_000)
    planner = MCTS(PUCT(temperature=0.5), 12, heads=lent(model, 4))
    plan = planner.plan(model, state, generator=generator())
    visits = plan.extra["visits"][0].float()
    share = plan.actions[:, 0].bincount(minlength=4) / 20_000
    torch.testing.assert_close(share, visits**2 / (visits**2).sum(), atol=0.012, rtol=0)
    again = planner.plan(model, state, generator=generator())
    assert torch.equal(plan.actions, again.actions)


def test_objects_are_searched_like_tensors():
    class Words(NamedTuple):
        text: Objects

    class Spelling(Stub):
        """Appends a letter; three letters end it, and 'cab' is worth 1."""

        def predict(self, state, action, *, z=None, generator=None):
            rows = zip(state.text.items, action.tolist(), strict=True)
            return Words(Objects(text + "abc"[a] for text, a in rows))

        @property
        def heads(self):
            def ask(fn):
                return lambda s, *_: torch.tensor([fn(t) for t in s.text.items])

            return Heads(
                "spelling",
                reward=lambda s, a, n: ask(lambda t: float(t == "cab"))(n),
                cont=ask(lambda t: float(len(t) < 3)),
                value=ask(lambda t: 0.0),
                policy=lambda s: Categorical(torch.ones(len(s.text), 3)),
            )

    plan = MCTS(PUCT(), 120, 1.0).plan(Spelling(), Words(Objects(["", "c", "ca"])))
    assert plan.actions[:, 0].tolist() == [2, 0, 1]


# -- what is refused ------------------------------------------------------------------------------


def test_numbers_out_of_range_are_refused():
    with pytest.raises(BadConfig, match="1 or 2 players"):
        MCTS(PUCT(), players=3)
    with pytest.raises(BadConfig, match="1 or more simulations"):
        MCTS(PUCT(), 0)
    with pytest.raises(BadConfig, match="players=2, not a negative discount"):
        MCTS(PUCT(), discount=-1.0)
    for wrong in ({"temperature": -1}, {"noise": 1.5}, {"alpha": 0}, {"c1": -1}, {"c2": 0}):
        with pytest.raises(BadConfig, match=f"PUCT {next(iter(wrong))} must be"):
            PUCT(**wrong)
    for wrong in ({"considered": 0}, {"noise": -1}, {"c_visit": -1}, {"c_scale": math.nan}):
        with pytest.raises(BadConfig, match=f"Gumbel {next(iter(wrong))} must be"):
            Gumbel(**wrong)
    with pytest.raises(BadConfig, match="draws needs a count"):
        draws(0)


def test_missing_heads_and_other_spaces_are_refused():
    model = Bandit()
    state = begin(model, [[0.0]])
    with pytest.raises(MissingHead, match="MCTS needs policy; toy/bandit has reward"):
        MCTS(PUCT()).plan(model, state)
    with pytest.raises(BadConfig, match="plan for objectives with CEM"):
        MCTS(PUCT(), heads=lent(model, 4)).plan(model, state, lambda rollout: None)
    with pytest.raises(ShapeMismatch, match=r"logits of the policy must have shape \(\*, 4\)"):
        MCTS(PUCT(), heads=lent(model, 5)).plan(model, state)
    hill = Hill()
    with pytest.raises(SpaceMismatch, match="Leave the mask out"):
        MCTS(PUCT()).plan(hill, Peaks(torch.zeros(1, 1)), mask=torch.ones(1, 16) > 0)
    hill.actions = None
    with pytest.raises(SpaceMismatch, match="acts in None. Nothing can be planned there"):
        MCTS(PUCT()).plan(hill, Peaks(torch.zeros(1, 1)))


def test_masks_that_do_not_fit_are_refused():
    model = Bandit()
    planner, state = MCTS(PUCT(), heads=lent(model, 4)), begin(model, [[0.0], [0.0]])
    with pytest.raises(ShapeMismatch, match="mask must be bool"):
        planner.plan(model, state, mask=torch.ones(2, 4))
    with pytest.raises(ShapeMismatch, match="mask must have shape"):
        planner.plan(model, state, mask=torch.ones(2, 3) > 0)
    with pytest.raises(BadConfig, match=r"no action to take in rows \[1\]"):
        planner.plan(model, state, mask=torch.tensor([[True] * 4, [False] * 4]))


def test_outcomes_of_another_number_are_refused():
    model = Lottery()
    calls = []

    def chance(state, action):
        calls.append(1)
        return Outcomes(torch.full((len(action), len(calls)), 1 / len(calls)))

    with pytest.raises(ShapeMismatch, match="probability of the outcomes must have shape"):
        MCTS(PUCT(), heads=lent(model, 3), chance=chance).plan(model, begin(model, [[0.0, 0.0]]))


def test_values_that_are_not_finite_are_refused():
    model = Bandit()
    heads = lent(model, 4)._replace(value=lambda s: torch.full((len(s.pulled),), torch.nan))
    with pytest.raises(NonFinite, match=r"not finite in rows \[0, 1\]"):
        MCTS(PUCT(), heads=heads).plan(model, begin(model, [[0.0], [0.0]]))


@pytest.mark.parametrize("name", ["bandit", "grid", "lottery", "clock"])
def test_every_discrete_oracle_can_be_searched(name):
    model = toy.ORACLES[name]()
    world = toy.WORLDS[name](num_envs=3)
    obs = {k: torch.from_numpy(v) for k, v in world.reset(seed=0)[0].items()}
    state = model.observe(None, None, model.encode(obs))
    heads = lent(model, model.actions.n, value=True)
    plan = MCTS(Gumbel(), 12, heads=heads).plan(model, state, generator=generator())
    assert plan.actions.shape == (3, 1) and torch.isfinite(plan.score).all()
