"""The card of the true model is perfect, of a scrambled one it is not; what is missing is said."""

import json
import re

import numpy as np
import pytest
import torch

from reverie.agent import BrownianAgent, ForkAgent, RandomAgent
from reverie.core.errors import BadData, SpaceMismatch, UnknownName
from reverie.core.types import Box, Discrete
from reverie.data.store import Store
from reverie.envs import toy
from reverie.envs.oracle import Bandit, Clock, TwoRooms
from reverie.evaluate.card import Beside, measure_of, measures_of, read, report_card
from reverie.evaluate.cardpage import write
from reverie.evaluate.control import Control
from reverie.evaluate.planning import planning
from reverie.evaluate.scrambled import Scrambled
from reverie.evaluate.states import Source, check_fits, gather_states, held_states
from reverie.evaluate.surprise import two_rooms

ACTIONS = Box((2,))


def world(num_envs, seed, **changes):
    return toy.TwoRooms(num_envs, observe=("image", "vector"), seed=seed, **changes)


SOURCE = Source(
    world=world,
    explorer=BrownianAgent(ACTIONS),
    other=RandomAgent(ACTIONS),
    context=3,
    horizon=6,
    episodes=24,
    num_envs=12,
    shifted=lambda n, seed: world(n, seed, door="random"),
)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("states")
    gather_states(folder, SOURCE, seed=5)
    return folder


@pytest.fixture(scope="module")
def held(states):
    return held_states(states, context=3, horizon=6)


@pytest.fixture(scope="module")
def card(held, states):
    def scored(name, wins):
        won = tuple(i < wins for i in range(10))
        return Control(name, tuple(map(float, won)), (50,) * 10, won, 1.0, 2, 0.004, 965.0)

    beside = Beside("vector", TwoRooms(), None, None, two_rooms(30), Store.open(states / "visited"))
    return report_card(
        TwoRooms(),
        held,
        name="the truth",
        environment="toy/two_rooms",
        unit="steps at the goal",
        by="success",
        beside=beside,
        scores=[scored("ours", 10), scored("random <b>", 1)],
    )


class TestStates:
    """Visited, counterfactual and shifted, each of episodes of its own."""

    def test_the_fork_shares_its_past_and_nothing_after(self, states):
        seen, forked = (Store.open(states / kind) for kind in ("visited", "counterfactual"))
        for i in range(len(seen)):
            a, b = seen[i], forked[i]
            assert np.array_equal(a.obs["vector"][:3], b.obs["vector"][:3])
            assert not np.array_equal(a.action[2], b.action[2])
            assert len(b) == 3 - 1 + 6, "one segment fits, and it begins with the shared past"

    def test_other_actions_are_unlike_the_explorers(self, states):
        """A drift keeps its direction from step to step, uniform actions do not."""

        def persistence(kind):
            episodes = list(Store.open(states / kind))
            pairs = [np.stack([e.action[2:-1], e.action[3:]]) for e in episodes]
            a, b = np.concatenate(pairs, 1).reshape(2, -1)
            return np.corrcoef(a, b)[0, 1]

        assert persistence("visited") > 0.8
        assert abs(persistence("counterfactual")) < 0.25

    def test_the_shifted_world_has_other_doors(self, held):
        doors = {kind: segments.batch.obs["vector"][:, 0, 4] for kind, segments in held.items()}
        assert doors["visited"].unique().tolist() == [16.0]
        assert len(doors["shifted"].unique()) == 24

    def test_a_second_call_changes_nothing(self, states):
        before = (states / "visited" / "episodes.bin").read_bytes()
        gather_states(states, SOURCE, seed=99)
        assert (states / "visited" / "episodes.bin").read_bytes() == before

    def test_too_few_long_episodes_are_refused(self, states):
        with pytest.raises(BadData, match="only 0 of the 24 episodes"):
            held_states(states, context=3, horizon=60)


def test_a_fork_agent_leaves_the_first_agent_its_own_numbers():
    first, generator = torch.tensor([True]), torch.Generator()
    fork = ForkAgent(BrownianAgent(ACTIONS), RandomAgent(ACTIONS), at=3)

    def acted(agent):
        generator.manual_seed(1)
        carry, found = agent.initial(1), []
        for t in range(5):
            carry, act = agent.act(carry, {}, first & (t == 0), generator=generator)
            found.append(act.action[0].tolist())
        return found

    alone, forked = acted(BrownianAgent(ACTIONS)), acted(fork)
    assert alone[:3] == forked[:3]
    assert alone[3] != forked[3]
    assert acted(fork) == forked


class TestCard:
    """The true model on its own world."""

    def test_the_truth_is_perfect(self, card):
        assert measure_of(card, "embedding_error").value.value == pytest.approx(0, abs=1e-9)
        assert measure_of(card, "useful_horizon").value.value == 7  # H + 1: never useless
        assert measure_of(card, "state_r2").value.value == pytest.approx(1)
        assert measure_of(card, "surprise_teleport").value.value == 1

    def test_shifted_and_counterfactual_states_are_judged_too(self, card):
        for kind in ("visited", "counterfactual", "shifted"):
            found = measure_of(card, "psnr", kind)
            assert found.value.value > found.baselines["copy"].high
        assert "probe_linear" in measures_of(card)
        assert "probe_linear" not in measures_of(card, "shifted")

    def test_the_line_and_the_knee(self, card):
        assert card["simulator"].startswith("action-conditioned simulator: its futures follow")
        assert card["knee"]["value"]["value"] == 1, "the truth needs no past"

    def test_it_is_json_and_comes_back(self, card, tmp_path):
        page = write(tmp_path, card)
        assert json.loads(json.dumps(card, allow_nan=False)) == read(tmp_path)
        assert page == tmp_path / "card.html"
        with pytest.raises(BadData, match="holds no report card"):
            read(tmp_path / "nowhere")

    def test_the_page_needs_no_other_file_and_escapes_names(self, card, tmp_path):
        text = write(tmp_path, card).read_text()
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', text)
        assert "random &lt;b&gt;" in text and "random <b>" not in text
        for words in ("Prediction", "Understanding", "Imagination", "Control", "How much of the"):
            assert f"<h2>{words}" in text
        assert "2 that were solved already count for nobody" in text
        # 9 of 10 starts differ, all to one side: 2 / 2^9.
        assert "-90 points <small>p = 0.0039, McNemar</small>" in text

    def test_an_unknown_metric_is_named_and_no_score(self, card):
        with pytest.raises(UnknownName, match="no metric 'psnrr'. Did you mean psnr"):
            measure_of(card, "psnrr")


def test_shuffled_predictions_are_no_simulator(held):
    found = report_card(Scrambled(TwoRooms()), held, name="scrambled", environment="x")
    assert found["simulator"].startswith("forecaster: its futures hardly depend on the actions")
    assert measure_of(found, "embedding_error").value.low > 1, "worse than copying"


def test_a_model_that_cannot_be_asked_says_so(held):
    """The clock reads another vector; the bandit has no embedding to judge."""
    with pytest.raises(BadData, match=r"Nothing can be measured of 'clock'.* of shape \(1,\)"):
        report_card(Clock(), held, name="clock", environment="toy/two_rooms")


def test_visited_states_are_needed(held):
    with pytest.raises(BadData, match=r"got \['shifted'\]"):
        report_card(TwoRooms(), {"shifted": held["shifted"]}, name="x", environment="x")


def test_a_model_of_another_world_is_refused():
    seen = {"vector": Box((5,)), "image": Box((3, 32, 32), 0, 255, "uint8")}
    check_fits(TwoRooms(), seen, ACTIONS, "the world")
    with pytest.raises(SpaceMismatch, match=r"reads 'vector' as .*shape=\(1,\).* as .*\(5,\)"):
        check_fits(Clock(), seen, Discrete(8), "the world")
    with pytest.raises(SpaceMismatch, match="shows only image"):
        check_fits(TwoRooms(), {"image": seen["image"]}, ACTIONS, "the world")
    with pytest.raises(SpaceMismatch, match=r"acts in .*, but the world takes Discrete\(n=2\)"):
        check_fits(TwoRooms(), seen, Discrete(2), "the world")


def test_any_model_that_knows_what_is_good_can_be_made_to_act():
    """The best arm of the bandit is found in its true model."""
    agent = planning(Bandit())
    first = torch.ones(3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    _, act = agent.act(None, {"vector": torch.zeros(3, 1)}, first, generator=generator)
    best = Bandit()._means.argmax()
    assert (act.action == best).all()
