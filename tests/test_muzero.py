"""MuZero: targets by hand, pitfalls of the field, rules in the search, self-play end to end."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn

from reverie import envs
from reverie.core.check import check_world_model
from reverie.core.errors import BadConfig, BadData, SpaceMismatch
from reverie.core.types import Act, Batch, Box, Discrete
from reverie.data.collect import collect
from reverie.data.sample import gather
from reverie.data.store import Store
from reverie.envs.boards import InARow
from reverie.models.muzero import Consistency, MuZero, MuZeroConfig, small
from reverie.models.muzero_nets import Siamese, halved, stretch
from reverie.models.muzero_stochastic import StochasticConfig, StochasticMuZero
from reverie.models.search_targets import Goal, n_step, summed, taken, targets
from reverie.nn.likelihood import UnitGaussian
from reverie.nn.support import Support, squeeze, unsqueeze
from reverie.planners.mcts import MCTS, Outcomes
from reverie.planners.selection import PUCT, Gumbel
from reverie.progress import Silent
from reverie.recipes import muzero as recipes
from reverie.recipes.self_play import Blunders, Growing, Searcher, surprise
from reverie.recipes.turned import Turned, turned
from reverie.train import train

BOARD = {"vector": Box((18,), 0.0, 1.0), "legal": Box((9,), 0.0, 1.0)}


def segment(reward, *, terminated=(), truncated=(), seams=(), **extra):
    """One row of (1, T) with ends and seams at the given steps; observations count upwards."""
    steps = len(reward)
    flags = {}
    for name, at in (("terminated", terminated), ("truncated", truncated), ("seam", seams)):
        flags[name] = torch.zeros(1, steps, dtype=torch.bool)
        flags[name][0, list(at)] = True
    first = torch.zeros(1, steps + 1, dtype=torch.bool)
    first[0, [0, *(seam + 1 for seam in seams)]] = True
    return Batch(
        {"vector": torch.arange(steps + 1.0).view(1, -1, 1)},
        torch.zeros(1, steps, dtype=torch.int64),
        torch.tensor([reward]),
        flags["terminated"],
        flags["truncated"],
        ~flags["seam"],
        first,
        {name: torch.tensor([value]) for name, value in extra.items()},
    )


def aims(batch, unroll, steps, fade):
    return targets(batch, Discrete(2), Goal(unroll, steps, fade), lambda: torch.zeros(1, 1))


# -- numbers ---------------------------------------------------------------------------------------


def test_the_value_transform_by_hand_and_back():
    x = torch.tensor([0.0, 3.0, 8.0, -99.0])
    torch.testing.assert_close(squeeze(x), torch.tensor([0.0, 1.003, 2.008, -9.099]))
    many = torch.linspace(-50_000, 50_000, 2001)
    torch.testing.assert_close(unsqueeze(squeeze(many)), many, rtol=1e-4, atol=1e-3)


def test_a_number_between_two_bins_is_weighed_on_both():
    support = Support(3)  # bins -3..3
    target = unsqueeze(torch.tensor([1.25]))
    raw = torch.full((7,), -30.0)
    raw[4], raw[5] = math.log(0.75), math.log(0.25)  # of bins 1 and 2
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert support.loss(raw, target).item() == pytest.approx(entropy, abs=1e-5)
    torch.testing.assert_close(support.mean(raw), target, rtol=1e-4, atol=1e-5)
    beyond = support.loss(torch.zeros(2, 7), torch.tensor([[1e6], [-1e6]]))
    torch.testing.assert_close(beyond, torch.full((2,), math.log(7.0)))


def test_latents_reach_from_0_to_1_and_equal_numbers_are_no_nan():
    found = stretch(torch.tensor([[2.0, 4.0, 3.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]))


def test_half_of_the_gradient_enters_the_dynamics():
    x = torch.tensor([3.0], requires_grad=True)
    y = halved(x)
    y.square().sum().backward()
    assert y.item() == 3.0 and x.grad is not None and x.grad.item() == 3.0  # not 6


def test_later_steps_count_one_kth():
    batch = segment([0.0] * 4, weight=[2.0, 0.0, 0.0, 0.0])
    lost = {"value": torch.tensor([[1.0, 10.0, 100.0]]), "reward": torch.tensor([[10.0, 100.0]])}
    found = summed(batch, lost, {"value": 0.25, "reward": 1.0})
    assert found.total.item() == pytest.approx(2 * (0.25 * (1 + 55) + 55))
    assert found.terms["reward"].item() == pytest.approx(55)


# -- targets ---------------------------------------------------------------------------------------


def test_n_step_returns_by_hand():
    batch = segment([1.0, 2.0, 4.0, 8.0], terminated=[3], root_value=[10.0, 20.0, 30.0, 40.0])
    found = n_step(batch.reward, batch.extra["root_value"], batch.terminated, batch.mask, 0.5, 2)
    # 1 + .5 2 + .25 30 | 2 + .5 4 + .25 40 | 4 + .5 8 | 8
    assert found.tolist() == [[9.5, 14.0, 8.0, 8.0]]


@pytest.mark.parametrize("plies", [5, 6, 7, 8, 9])
def test_in_a_game_of_two_who_wins_has_1_and_the_other_minus_1(plies):
    """The reward is the winner's, who moves last; the values before it alternate."""
    reward = [0.0] * (plies - 1) + [1.0, 0.0]  # and the seam
    batch = segment(reward, terminated=[plies - 1], seams=[plies], root_value=[0.3] * (plies + 1))
    found = aims(batch, plies, 9, -1.0)
    wanted = [(-1.0) ** (plies - 1 - k) for k in range(plies)]
    assert found.value[0, :plies].tolist() == wanted
    assert found.reward[0, :, 0].tolist() == reward[:plies]


def test_a_value_that_a_search_gave_is_the_others_when_it_is_an_odd_number_of_plies_away():
    batch = segment([0.0] * 6, root_value=[0.0, 0.0, 0.0, 0.5, 0.0, 0.0])
    assert aims(batch, 2, 1, -1.0).value[0].tolist() == [0.0, 0.0, -0.5]
    assert aims(batch, 2, 2, -1.0).value[0].tolist() == [0.0, 0.5, 0.0]
    assert aims(batch, 2, 3, -1.0).value[0].tolist() == [-0.5, 0.0, 0.0]


def test_after_the_worlds_end_rewards_and_values_are_0_and_no_policy_is_asked():
    batch = segment(
        [1.0, 2.0, 9.0, 9.0, 9.0], terminated=[1], seams=[2], root_value=[7.0, 7.0, 7.0, 7.0, 7.0]
    )
    found = aims(batch, 4, 3, 1.0)
    assert found.value.tolist() == [[3.0, 2.0, 0.0, 0.0, 0.0]]
    assert found.known.tolist() == [[1.0, 1.0, 1.0, 1.0, 1.0]]
    assert found.acted.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]]
    assert found.reward[..., 0].tolist() == [[1.0, 2.0, 0.0, 0.0]]
    assert found.lasting.tolist() == [[1.0, 1.0, 1.0, 1.0]]
    assert found.seen.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_after_a_cut_nothing_is_known_and_the_last_value_stands_in():
    batch = segment(
        [1.0, 2.0, 9.0, 9.0, 9.0], truncated=[1], seams=[2], root_value=[7.0, 30.0, 5.0, 5.0, 5.0]
    )
    found = aims(batch, 4, 3, 1.0)
    assert found.value.tolist() == [[31.0, 30.0, 0.0, 0.0, 0.0]]
    assert found.known.tolist() == found.acted.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]]
    assert found.lasting.tolist() == [[1.0, 1.0, 0.0, 0.0]]


def test_a_segment_that_begins_after_the_end_teaches_nothing():
    found = aims(segment([1.0, 2.0, 3.0], seams=[0], root_value=[1.0, 2.0, 3.0]), 2, 1, 1.0)
    assert not found.known.any() and not found.acted.any() and not found.lasting.any()


def test_without_a_search_the_policy_is_what_was_done():
    batch = segment([0.0, 0.0, 0.0])._replace(action=torch.tensor([[1, 0, 1]]))
    found = targets(batch, Discrete(2), Goal(1, 1, 1.0), lambda: torch.full((1, 3), 4.0))
    assert found.policy.tolist() == [[[0.0, 1.0], [1.0, 0.0]]]
    assert found.value.tolist() == [[4.0, 4.0]]


def test_actions_after_the_end_are_any(generator):
    batch = segment([0.0] * 3, terminated=[0], seams=[1])
    rows = Batch(*(x if isinstance(x, dict) else x.expand(400, -1) for x in batch))
    found = taken(rows, Discrete(4), 3)
    assert (found[:, 0] == 0).all() and (found[:, 2] == 0).all()
    assert set(found[:, 1].tolist()) == {0, 1, 2, 3}


# -- the model -------------------------------------------------------------------------------------


def board_model(**changes):
    config = MuZeroConfig(
        latent=16, units=32, reward=UnitGaussian(), value=UnitGaussian(), discount=1.0, players=2
    )
    return MuZero(replace(config, **changes), BOARD, Discrete(9)).eval()


def positions(games=32, moves=3):
    """Observations of games after some legal moves."""
    env = envs.make("board/tic_tac_toe", games)
    rng, obs = np.random.default_rng(0), env.reset()[0]
    for _ in range(moves):
        legal = obs["legal"]
        obs = env.step(np.where(legal > 0, rng.random(legal.shape), -1).argmax(1))[0]
    return {name: torch.from_numpy(value) for name, value in obs.items()}


def test_what_is_not_allowed_has_no_logit_and_is_never_visited():
    model, obs = board_model(), positions()
    state = model.observe(None, None, model.encode(obs))
    policy = model.heads.policy(state)
    illegal = obs["legal"] == 0
    assert torch.isneginf(policy.logits[illegal]).all() and policy.logits[~illegal].isfinite().all()
    for selection in (PUCT(noise=0.25, temperature=1.0), Gumbel(noise=1.0)):
        for net in (None, recipes.compiled(model)):
            plan = MCTS(selection, 20, 1.0, players=2, compiled=net).plan(model, state)
            assert (plan.extra["visits"][illegal] == 0).all()
            assert (plan.extra["search_policy"][illegal] == 0).all()
            assert plan.extra["search_policy"].sum(1).allclose(torch.ones(32))


def test_a_finished_game_allows_everything_rather_than_nothing():
    model = board_model()
    obs = {"vector": torch.zeros(2, 18), "legal": torch.zeros(2, 9)}
    assert model.encode(obs).legal.all()


def test_the_compiled_search_is_the_other_one():
    model, obs = board_model(), positions(8)
    state = model.observe(None, None, model.encode(obs))
    slow = MCTS(PUCT(), 25, 1.0, players=2).plan(model, state)
    fast = MCTS(PUCT(), 25, 1.0, players=2, compiled=recipes.compiled(model)).plan(model, state)
    assert torch.equal(slow.extra["visits"], fast.extra["visits"])
    torch.testing.assert_close(slow.extra["root_value"], fast.extra["root_value"])


def test_only_the_predicted_side_learns_to_be_consistent():
    siamese = Siamese(4, 8, 8)
    predicted = torch.rand(5, 4, requires_grad=True)
    seen = torch.rand(5, 4, requires_grad=True)
    siamese(predicted, seen).sum().backward()
    assert predicted.grad is not None and predicted.grad.abs().sum() > 0 and seen.grad is None
    aligned = Siamese(4, 4, 4)
    aligned.project = aligned.predict = nn.Sequential()  # the identity
    x = torch.rand(3, 4)
    torch.testing.assert_close(aligned(x, 3 * x), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(aligned(x, -x), torch.full((3,), 2.0))


def test_consistency_is_part_of_the_loss_when_it_is_passed_and_only_then():
    batch = segment([0.0] * 7)
    for extra, names in ((None, set()), (Consistency(), {"consistency"})):
        model = MuZero(MuZeroConfig(consistency=extra), {"vector": Box((1,))}, Discrete(2))
        found = model.loss(batch).terms
        assert set(found) == {"policy", "value", "reward"} | names


def test_box_actions_are_searched_by_samples_and_learned_by_their_weights():
    config = MuZeroConfig(latent=8, units=16, unroll=2, reward=Support(3), value=Support(3))
    model = MuZero(config, {"vector": Box((3,))}, Box((2,)))
    assert check_world_model(model)
    obs = {"vector": torch.rand(4, 3)}
    plan = MCTS(Gumbel(), 8, samples=5).plan(model, model.observe(None, None, model.encode(obs)))
    candidates = plan.extra["candidates"].detach()
    assert candidates.shape == (4, 5, 2) and plan.actions.shape == (4, 1, 2)
    steps = 3
    extra = {
        "candidates": candidates[:, None].expand(4, steps, 5, 2),
        "search_policy": torch.eye(5)[torch.zeros(4, steps, dtype=torch.int64)],
        "root_value": torch.zeros(4, steps),
    }
    batch = segment([0.0] * steps)
    rows = Batch(*(x if isinstance(x, dict) else x.expand(4, -1) for x in batch))
    rows = rows._replace(
        obs={"vector": obs["vector"][:, None].expand(4, steps + 1, 3)},
        action=torch.zeros(4, steps, 2),
        extra=extra,
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)

    def likely():
        state = model.observe(None, None, model.encode(obs))
        return model.heads.policy(state).log_prob(candidates[:, 0]).mean().item()

    before = likely()
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(rows).total.backward()
        optimizer.step()
    assert likely() > before + 1


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(SpaceMismatch, match="MuZero needs actions to search among"):
        MuZero(MuZeroConfig(), BOARD, None)
    with pytest.raises(SpaceMismatch, match="'legal' must be one number for each Discrete action"):
        MuZero(MuZeroConfig(), BOARD, Discrete(7))
    with pytest.raises(SpaceMismatch, match="'legal' must be one number for each Discrete action"):
        MuZero(MuZeroConfig(), BOARD, Box((9,)))
    with pytest.raises(SpaceMismatch, match="reads vectors and pictures"):
        MuZero(MuZeroConfig(), {"legal": BOARD["legal"]}, Discrete(9))
    with pytest.raises(BadConfig, match="players=2, not a negative discount"):
        MuZeroConfig(discount=-1.0)
    with pytest.raises(BadConfig, match="1 or 2 players"):
        MuZeroConfig(players=3)
    model = small()
    obs = {name: torch.zeros(1, *space.shape) for name, space in model.observations.items()}
    with pytest.raises(SpaceMismatch, match="got no action"):
        model.predict(model.observe(None, None, model.encode(obs)), None)


# -- chance ----------------------------------------------------------------------------------------


def chancy(**changes):
    thin = MuZeroConfig(latent=8, units=16, unroll=2, reward=Support(3), value=Support(3))
    config = replace(StochasticConfig(thin, codes=3), **changes)
    return StochasticMuZero(config, {"vector": Box((1,))}, Discrete(2))


def test_codes_come_as_often_as_sigma_says(generator):
    model = chancy()
    with torch.no_grad():
        model.expectation[-1].bias[:3] = torch.tensor([2.0, 0.0, -1.0])
        state = model.observe(None, None, model.encode({"vector": torch.zeros(4000, 1)}))
        action = torch.zeros(4000, dtype=torch.int64)
        likely, codes = model.chances(state, action)
        drawn = model.predict(state, action, generator=generator).latent
        for code in range(3):
            wanted = model.predict(state, action, z=codes[:, code]).latent[:1]
            share = float((drawn == wanted).all(1).float().mean())
            p = float(likely[0, code])
            assert share == pytest.approx(p, abs=4 * (p * (1 - p) / 4000) ** 0.5)
        entropy = -(likely[0] * likely[0].log()).sum()
        torch.testing.assert_close(model.heads.aleatoric(state, action)[0], entropy)


def test_the_code_is_hard_and_its_gradient_goes_straight_to_who_named_it():
    model = chancy(chance_weight=0.0, commitment_weight=0.0)
    found = model.loss(segment([0.0, 1.0, 0.0, 1.0]))
    assert {"after value", "chance", "commitment"} < set(found.terms)
    found.total.backward()
    assert model.names[-1].weight.grad.abs().sum() > 0
    assert model.looks.join[-1].weight.grad.abs().sum() > 0


def test_a_search_meets_every_code():
    model = chancy()
    state = model.observe(None, None, model.encode({"vector": torch.zeros(2, 1)}))
    setup = recipes.stochastic_muzero(env="board/coin", codes=3)
    chance = setup.agent._search.chance
    assert chance is not None  # the recipe's search has chance nodes
    probe = MCTS(PUCT(), 60, chance=lambda s, a: Outcomes(*model.chances(s, a)))
    trees = probe.search(model, state).tree
    opened = trees.chance[0, 0]
    times = trees.times[0, opened[opened >= 0]]
    met = times[times.sum(1) >= 10]  # of the actions that were tried often
    assert len(met) and met.shape[1] == 3 and (met > 0).all()


def test_chance_needs_two_codes_and_no_consistency():
    with pytest.raises(BadConfig, match="2 codes or more"):
        chancy(codes=1)


# -- self-play -------------------------------------------------------------------------------------


def tiny(**changes):
    few = {"updates": 12, "prefill": 20, "num_envs": 4, "batch": 8, "latent": 8, "units": 16}
    few |= {"simulations": 4, "episodes": 5, "evaluate_every": 6, "steps_per_update": 2.0}
    return recipes.muzero(**{**few, **changes})


def results(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_board_is_learned_from_self_play_and_a_killed_run_resumes_exactly(tmp_path):
    options = {"env": "board/tic_tac_toe", "search": "gumbel", "reanalyse": 0.5}
    train(tiny(**options), tmp_path / "whole", progress=Silent())
    whole = results(tmp_path / "whole")
    assert whole[-1].keys() >= {"finish/second, perfect, draws", "finish/first, random, wins"}

    class Killed(Silent):
        def task(self, name, total, done=0):
            if name == "self_play" and done == 0:
                raise KeyboardInterrupt
            return super().task(name, total, done)

    with pytest.raises(KeyboardInterrupt):
        train(tiny(**options), tmp_path / "cut", progress=Killed())
    train(tiny(**options), tmp_path / "cut", progress=Silent())
    assert results(tmp_path / "cut") == whole


def test_one_player_with_priorities_and_supports(tmp_path):
    run = tiny(env="CartPole-v1", time_limit=15, consistency=1.0)
    train(run, tmp_path, progress=Silent())
    last = results(tmp_path)[-1]
    assert last["stage"] == "judge" and 8 <= last["finish/muzero"] <= 15
    with Store.open(tmp_path / "data") as store:
        episode = store[0]
        assert episode.extra["search_policy"].shape == (len(episode), 2)
        np.testing.assert_allclose(episode.extra["search_policy"].sum(1), 1, atol=1e-5)


def test_sampled_actions_are_stored_and_learned_from(tmp_path):
    train(tiny(env="Pendulum-v1", time_limit=12, search="gumbel"), tmp_path, progress=Silent())
    with Store.open(tmp_path / "data") as store:
        assert store[0].extra["candidates"].shape == (12, 16, 1)


def played(name, games=8):
    """A store's batch of whole random games, with what a search would have written."""
    env = envs.make(name, games)
    actions = envs.spaces(env)[1].n

    class Any:
        def initial(self, batch):
            return None

        def act(self, carry, obs, first, *, explore=False, generator=None):
            legal = obs["legal"]
            luck = torch.rand(legal.shape, generator=generator) * legal
            policy = luck / luck.sum(1, keepdim=True)
            extra = {"search_policy": policy, "root_value": policy[:, 0]}
            return None, recipes_act(luck.argmax(1), extra)

    from reverie.core.types import Act as recipes_act

    return collect(env, Any(), episodes=games, seed=0), actions


@pytest.mark.parametrize("name", ["board/tic_tac_toe", "board/connect_four"])
def test_a_turned_game_is_a_game(name, tmp_path):
    """Replaying the turned moves from an empty board shows the turned observations."""
    episodes, actions = played(name)
    extra = {"search_policy": Box((actions,), 0.0, 1.0), "root_value": Box((), -9.0, 9.0)}
    with Store.create(tmp_path / "s", *envs.spaces(envs.make(name)), extra) as store:
        store.extend(episodes)
        steps = min(len(episode) for episode in episodes)
        batch = gather(store, store.starts, steps)
    turn = turned(name)
    assert turn is not None
    seen = set()
    for _ in range(20):
        found = turn(batch)
        env = envs.make(name, len(episodes))
        obs, _ = env.reset()
        for t in range(steps):
            np.testing.assert_array_equal(found.obs["vector"][:, t], obs["vector"])
            np.testing.assert_array_equal(found.obs["legal"][:, t], obs["legal"])
            policy, action = found.extra["search_policy"][:, t], found.action[:, t]
            assert (policy[obs["legal"] == 0] == 0).all()
            assert (policy.argmax(1) == action).all()
            obs, reward, _, _, _ = env.step(action.numpy())
            np.testing.assert_array_equal(found.reward[:, t], reward)
        seen |= {tuple(row) for row in found.action.tolist()}
    assert len(seen) > 2 * len(episodes) - 4


def test_other_worlds_are_not_turned():
    assert turned("CartPole-v1") is None and isinstance(turned("board/tic_tac_toe"), Turned)


def test_the_surprise_is_how_far_the_value_was_from_what_followed():
    model = MuZero(MuZeroConfig(steps=2, discount=0.5), {"vector": Box((1,))}, Discrete(2))
    batch = segment([1.0, 2.0, 4.0], root_value=[10.0, 20.0, 30.0])
    assert surprise(model, batch).tolist() == [10 - (1 + 1 + 7.5)]


def test_a_reward_that_is_not_finite_stops_the_run_before_it_is_kept(tmp_path, monkeypatch):
    run = tiny(env="board/tic_tac_toe", search="gumbel")
    monkeypatch.setattr(
        InARow, "_move", lambda self, a: (np.full(len(a), np.nan), np.ones(len(a), bool))
    )
    with pytest.raises(BadData, match="reward"):
        train(run, tmp_path, progress=Silent())
    with Store.open(tmp_path / "data") as store:
        assert len(store) == 0


def test_recipes_refuse_shares_out_of_range():
    with pytest.raises(BadConfig, match="reanalyse and blunders are shares in 0..1"):
        recipes.muzero(reanalyse=2.0)
    with pytest.raises(BadConfig, match="'blunders': -0.1"):
        recipes.muzero(blunders=-0.1)


DEFAULTS = {name: each.default for name, each in signature(recipes.muzero).parameters.items()}


class Corner:
    """Plays cell 8, whatever happens."""

    def initial(self, batch):
        del batch

    def act(self, carry, obs, first, *, explore=False, generator=None):
        return None, Act(torch.full((len(first),), 8), {})


def test_blunders_are_made_as_often_as_was_asked_and_only_while_it_explores():
    setup = recipes.setup_of(
        recipes.filled({**DEFAULTS, "env": "board/tic_tac_toe", "simulations": 2, "play": 2})
    )
    with closing(envs.make("board/tic_tac_toe", 2000)) as env:
        obs = {name: torch.from_numpy(x) for name, x in env.reset()[0].items()}
    first = torch.ones(2000, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)

    def share(blunders, *, explore=True):
        agent = Searcher(setup.model, setup.search, setup.search, setup.compiled, blunders)
        act = agent.act(None, obs, first, explore=explore, generator=generator)[1]
        return float((act.action == 8).float().mean())

    assert share(None) == 0.0  # of equal priors the first cell comes first
    assert share(Blunders(1.0, Corner())) == 1.0
    assert share(Blunders(1.0, Corner()), explore=False) == 0.0
    assert share(Blunders(0.25, Corner())) == pytest.approx(0.25, abs=0.03)


def test_games_are_collected_until_there_are_so_many_steps(tmp_path):
    arguments = recipes.filled(
        {"env": "board/tic_tac_toe", "search": "gumbel", "seed": 0, "time_limit": None}
        | {"prefill": 50, "num_envs": 4, "simulations": 2, "steps_per_update": 3.0}
        | {"play": 2, "reanalyse": 0.0, "consistency": 0.0, "symmetries": True, "device": "cpu"}
    )
    setup = recipes.setup_of(arguments)
    growing = Growing(setup, tmp_path / "data")
    growing.collect(0)
    assert 50 <= growing.store.steps < 50 + 4 * 9 and len(growing.store) % 4 == 0
    before = growing.state_dict()
    growing.collect(10)
    assert growing.store.steps >= 80
    growing.load_state_dict(before)
    assert len(growing.store) == before["episodes"]
    growing.close()
