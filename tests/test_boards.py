"""Board games: known counts of positions, hand-worked moves, OpenSpiel's rules, opponents."""

import numpy as np
import pytest
import torch
from conformance import assert_conforms

from reverie import envs
from reverie.core.errors import MissingExtra, SpaceMismatch, UnknownName
from reverie.envs.boards import BOARDS, connect_four, lines, symmetries, tic_tac_toe
from reverie.envs.twenty48 import Twenty48
from reverie.evaluate.match import match
from reverie.evaluate.opponents import Legal, OneAhead, Perfect, minimax, opponents


class AnyLegal:
    """Random legal moves for numpy observations."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def __call__(self, obs):
        legal = obs["legal"]
        return np.where(legal > 0, self.rng.random(legal.shape), -1).argmax(1)


@pytest.mark.parametrize("name", BOARDS)
def test_boards_are_worlds_as_others_are(name):
    """With random moves replaced by legal ones, as the spaces alone do not know the rules."""

    def make(n):
        env = BOARDS[name](n)
        pick, step = AnyLegal(), env.step

        def legal_step(actions):
            seen = env._see()
            if np.shape(actions) != (n,) or env._over.any() or "legal" not in seen:
                return step(actions)
            return step(pick(seen))

        env.step = legal_step
        return env

    assert_conforms(make, steps=300 if name == "twenty48" else 60)


def expand(env, stones):
    """All legal continuations of positions: their stones, and how many games ended, and how."""
    games = len(stones)
    big = env(games)
    big.reset()
    big._stones = stones
    game, move = np.nonzero(big._see()["legal"])
    after = env(len(game))
    after.reset()
    after._stones = stones[game].copy()
    _, reward, over, _, _ = after.step(move)
    return (
        after._stones[~over],
        int((reward > 0).sum()),
        int((over & (reward == 0)).sum()),
        len(game),
    )


def test_every_game_of_tic_tac_toe_is_counted():
    """255,168 games: 1440, 5328, 47952, 72576, 81792 won after 5 to 9 moves, 46080 drawn."""
    stones, won, drawn, moves = np.zeros((1, 2, 9), bool), [], 0, []
    for _ in range(9):
        stones, wins, draws, count = expand(tic_tac_toe, stones)
        won.append(wins)
        moves.append(count)
        drawn += draws
    assert moves == [9, 72, 504, 3024, 15120, 54720, 148176, 200448, 127872]
    assert won == [0, 0, 0, 0, 1440, 5328, 47952, 72576, 81792] and drawn == 46080


def test_positions_of_connect_four_are_counted():
    """7^n sequences until a column can be full: 7^7 - 7 of seven moves."""
    stones, moves = np.zeros((1, 2, 42), bool), []
    for _ in range(6):
        stones, wins, _, count = expand(connect_four, stones)
        moves.append(count)
        assert wins == 0
    env = connect_four(len(stones))
    env.reset()
    env._stones = stones
    assert [*moves, int(env._see()["legal"].sum())] == [*(7**n for n in range(1, 7)), 7**7 - 7]


@pytest.mark.parametrize(
    ("moves", "winner"),
    [
        ("0 1 0 1 0 1 0", 0),
        ("0 0 1 1 2 2 3", 0),
        ("0 1 1 2 2 3 2 3 3 6 3", 0),
        ("6 0 1 0 1 0 2 0", 1),
    ],
)
def test_connect_four_is_won_up_across_and_aslant(moves, winner):
    env = connect_four(1)
    env.reset()
    for ply, move in enumerate(map(int, moves.split())):
        _, reward, over, _, _ = env.step(np.array([move]))
        last = ply == len(moves.split()) - 1
        assert bool(over[0]) == last and reward[0] == float(last)
    assert ply % 2 == winner


def test_the_board_is_shown_as_whoever_is_to_move_has_it():
    env = tic_tac_toe(1)
    env.reset()
    seen, *_ = env.step(np.array([4]))
    assert np.flatnonzero(seen["vector"][0]).tolist() == [9 + 4]  # a stone of the other
    seen, *_ = env.step(np.array([0]))
    assert np.flatnonzero(seen["vector"][0]).tolist() == [4, 9 + 0]
    assert np.flatnonzero(seen["legal"][0] == 0).tolist() == [0, 4]


def test_an_illegal_move_is_refused_with_those_that_are_allowed():
    env = tic_tac_toe(2)
    env.reset()
    env.step(np.array([4, 0]))
    with pytest.raises(SpaceMismatch, match=r"Move 0 .* in game 1.* are \[1, 2, 3, 4, 5, 6, 7, 8"):
        env.step(np.array([0, 0]))
    env = connect_four(1)
    env.reset()
    for _ in range(6):
        env.step(np.array([3]))
    with pytest.raises(SpaceMismatch, match="Move 3 was asked for in game 0"):
        env.step(np.array([3]))
    env = Twenty48(1)
    env.reset(seed=0)
    env.tiles[0] = [[1, 2, 1], [2, 1, 2], [0, 0, 0]]
    with pytest.raises(SpaceMismatch, match="changes nothing"):
        env.step(np.array([2]))


def test_symmetries_of_boards():
    turns = symmetries(3, 3, falling=False)
    assert len({tuple(t) for t in turns.tolist()}) == 8
    winning = {frozenset(line) for line in lines(3, 3, 3).tolist()}
    for turn in turns:
        assert {frozenset(turn[list(line)].tolist()) for line in winning} == winning
    mirror = symmetries(6, 7, falling=True)
    assert mirror.shape == (2, 42) and mirror[1, :7].tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert len(lines(6, 7, 4)) == 69  # 24 across, 21 up, 24 aslant


def test_boards_by_name():
    assert envs.make("board/connect_four", 2, time_limit=3).time_limit == 3
    with pytest.raises(UnknownName, match="Did you mean board/tic_tac_toe"):
        envs.make("board/tic_tac_to")


# -- 2048 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "action", "after", "reward"),
    [
        ([1, 1, 1], 0, [2, 1, 0], 4),
        ([1, 1, 2], 0, [2, 2, 0], 4),  # what was merged does not merge again
        ([0, 3, 3], 0, [4, 0, 0], 16),
        ([1, 1, 1], 1, [0, 1, 2], 4),
        ([2, 0, 2], 1, [0, 0, 3], 8),
    ],
)
def test_tiles_slide_and_merge(before, action, after, reward, monkeypatch):
    monkeypatch.setattr(Twenty48, "_appear", lambda self, rows: None)
    for upright in (False, True):
        env = Twenty48(1)
        env.reset()
        board = np.zeros((3, 3), np.int64)
        board[0] = before
        env.tiles[0] = board.T if upright else board
        _, earned, _, _, _ = env.step(np.array([action + 2 * upright]))
        found = env.tiles[0].T if upright else env.tiles[0]
        assert found[0].tolist() == after and not found[1:].any() and earned[0] == reward


def test_one_tile_appears_and_a_tenth_are_fours():
    env = Twenty48(4000, seed=1)
    obs, _ = env.reset(seed=1)
    assert ((env.tiles > 0).sum((1, 2)) == 2).all()
    assert obs["vector"].sum() == 4000 * 9  # one-hot
    fours = (env.tiles == 2).sum() / (env.tiles > 0).sum()
    assert fours == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 8000) ** 0.5)


@pytest.mark.parametrize(("low", "over"), [(3, True), (4, False)])
def test_the_game_is_over_when_nothing_moves(low, over):
    """The right column falls; what appears above it touches a 6 and a 4 and merges with neither."""
    env = Twenty48(1)
    env.reset(seed=0)
    env.tiles[0] = [[5, 6, 4], [6, 5, low], [5, 6, 0]]
    obs, _, ended, _, _ = env.step(np.array([3]))
    assert bool(ended[0]) == over == (obs["legal"][0].sum() == 0)


# -- OpenSpiel -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four"])
def test_our_rules_are_those_of_openspiel(name):
    pytest.importorskip("pyspiel", reason="needs open_spiel: pip install 'reverie[spiel]'")
    ours, theirs = envs.make(f"board/{name}", 8), envs.make(f"spiel/{name}", 8)
    pick, (mine, _), (other, _) = AnyLegal(), ours.reset(), theirs.reset()
    for _ in range(150):
        np.testing.assert_array_equal(mine["legal"], other["legal"])
        move = pick(mine)
        (mine, *found), (other, *wanted) = ours.step(move), theirs.step(move)
        for a, b in zip(found[:3], wanted[:3], strict=True):
            np.testing.assert_array_equal(a, b)
        if found[1].any():
            mask = {"reset_mask": found[1]}
            mine, other = ours.reset(options=mask)[0], theirs.reset(options=mask)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openspiel_has_no_hidden_cards_here_and_says_what_is_missing(monkeypatch):
    import sys

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyspiel", None)
        with pytest.raises(MissingExtra, match=r"pip install 'reverie\[spiel\]'"):
            envs.make("spiel/tic_tac_toe")
    pytest.importorskip("pyspiel", reason="needs open_spiel: pip install 'reverie[spiel]'")
    with pytest.raises(SpaceMismatch, match="see everything and take turns"):
        envs.make("spiel/kuhn_poker")
    with pytest.raises(UnknownName, match="OpenSpiel has no game 'chess_but_wrong'"):
        envs.make("spiel/chess_but_wrong")
    env = envs.make("spiel/tic_tac_toe")
    env.reset()
    env.step(np.array([4]))
    with pytest.raises(SpaceMismatch, match="Move 4 was asked for in game 0"):
        env.step(np.array([4]))


# -- opponents -------------------------------------------------------------------------------------


def see(mine, others, cells=9, moves=None):
    vector = torch.zeros(1, 2, cells)
    vector[0, 0, mine], vector[0, 1, others] = 1.0, 1.0
    legal = 1 - vector.sum(1)
    return {"vector": vector.flatten(1), "legal": legal if moves is None else legal[:, :moves]}


def choices(agent, obs, times=40):
    found = set()
    for seed in range(times):
        luck = torch.Generator().manual_seed(seed)
        found.add(int(agent.act(None, obs, torch.ones(1), generator=luck)[1].action))
    return found


def test_one_ahead_wins_before_it_blocks_and_blocks_before_it_plays():
    agent, greedy = opponents("tic_tac_toe")["one ahead"], opponents("tic_tac_toe")["takes wins"]
    assert choices(agent, see([0, 1], [3, 4])) == {2}
    assert choices(agent, see([0, 8], [3, 4])) == {5}
    assert choices(greedy, see([0, 8], [3, 4])) == {1, 2, 5, 6, 7}
    four = OneAhead(6, 7, 4, falling=True)
    assert choices(four, see([35, 36, 37], [28, 29, 30], 42, 7)) == {3}  # 38 lies in column 3


def test_perfect_play_is_what_minimax_says():
    values, best = minimax()
    assert len(values) == 5478 and values[(0,) * 9] == 0  # positions of the game, a draw
    assert choices(Perfect(), see([], [0]), 200) == {4}  # only the centre holds a corner
    assert choices(Perfect(), see([0, 1], [3, 4])) == {2}
    assert best[0].all()  # every first move draws


def test_matches_are_counted_from_both_seats():
    env = envs.make("board/tic_tac_toe", 50)
    one, two = match(env, Perfect(), Legal(), games=200, seed=0)
    assert one.losses == two.wins == 0 and one.wins == two.losses > 0.9
    one, two = match(env, Legal(), Perfect(), games=200, seed=0)
    assert one.wins == two.losses == 0 and two.wins > 0.6
    one, two = match(env, Perfect(), Perfect(), games=100, seed=0)
    assert one.draws == two.draws == 1.0
    assert one.games == 100


# -- the coin --------------------------------------------------------------------------------------


def test_a_coin_that_is_played_right_is_worth_less_than_the_safe_choice():
    """2.5 if declined; tossed, seen, and claimed on heads only: 4 half of the time."""
    env = BOARDS["coin"](2000)
    obs, _ = env.reset(seed=0)
    assert (obs["vector"] == [1, 0, 0]).all()
    obs, reward, over, _, _ = env.step(np.ones(2000, dtype=np.int64))
    heads = obs["vector"][:, 1] == 1
    assert (reward == 0).all() and not over.any()
    assert heads.mean() == pytest.approx(0.5, abs=0.05)
    assert (heads ^ (obs["vector"][:, 2] == 1)).all()
    _, reward, over, _, _ = env.step(heads.astype(np.int64))
    assert over.all() and reward.mean() == pytest.approx(2.0, abs=4 * 2 / 2000**0.5)
    env.reset()
    env.step(np.ones(2000, dtype=np.int64))
    assert set(env.step(np.ones(2000, dtype=np.int64))[1]) == {4.0, -1.0}
    env.reset()
    _, reward, over, _, _ = env.step(np.zeros(2000, dtype=np.int64))
    assert over.all() and (reward == 2.5).all()
