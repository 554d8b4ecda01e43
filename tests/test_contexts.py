"""Replay contexts: what the table holds is what the step path reaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reverie.core.registry import recipe
from reverie.core.types import Box, Discrete
from reverie.data.episode import Episode
from reverie.data.sample import Sampler
from reverie.data.store import Store
from reverie.data.strategy import Draw
from reverie.learner import GradientLearner
from reverie.models.dreamer import SCHOOLS, DreamerV1
from reverie.models.rssm import Begun, State
from reverie.progress import Silent
from reverie.recipes.contexts import Contexts
from reverie.train import train

STEPS = 9  # of both episodes: rows 0..9 and 10..19


class These:
    """Draws what it is told to."""

    def __init__(self, *rows):
        self.rows = list(rows)

    def draw(self, rng, count, n):
        return Draw(np.array(self.rows.pop(0)), np.ones(n, np.float32))

    def state_dict(self):
        return {"left": len(self.rows)}

    def load_state_dict(self, state):
        pass


@pytest.fixture
def store(tmp_path):
    """Two episodes of noise."""
    rng = np.random.default_rng(0)
    with Store.create(tmp_path / "data", {"vector": Box((3,), -9.0, 9.0)}, Discrete(2)) as made:
        for _ in range(2):
            made.append(
                Episode(
                    obs={"vector": rng.normal(size=(STEPS + 1, 3)).astype(np.float32)},
                    action=rng.integers(2, size=STEPS),
                    reward=np.zeros(STEPS, np.float32),
                    terminated=np.arange(STEPS) == STEPS - 1,
                    truncated=np.zeros(STEPS, bool),
                )
            )
    return Store.open(tmp_path / "data")


@pytest.fixture
def model(store):
    """Thin and Gaussian."""
    torch.manual_seed(0)
    return DreamerV1(SCHOOLS["dreamer_v1"].small().design, store.observations, store.actions)


def quiet(model, monkeypatch):
    """Take the randomness away: the latent is its mean."""
    monkeypatch.setattr(
        type(model.design.latent),
        "noise",
        lambda self, lead, generator, like: torch.zeros(*lead, self.size),
    )


def stepped(model, store, rows):
    """States along rows of one episode, one observation after another."""
    state, found = None, []
    for row in rows:
        obs = {"vector": torch.from_numpy(store.columns["obs.vector"][row : row + 1].copy())}
        action = torch.tensor([int(store.columns["action"][row - 1])])
        state = model.observe(state, action, model.encode(obs))
        found.append(state)
    return found


def sampled(store, contexts, length, *rows):
    """The contexts over a sampler that draws such segments."""
    sampler = Sampler(store, len(rows[0]), length, strategy=These(*rows), prefetch=0)
    return contexts.over(sampler)


def test_a_context_is_the_state_that_the_step_path_reaches(store, model, monkeypatch):
    quiet(model, monkeypatch)
    contexts = Contexts(model)
    (part,) = (contexts.around(p) for p in model.parts())
    drawn = sampled(store, contexts, 4, [10, 0], [14, 3], [15, 6])
    path = stepped(model, store, range(10, 20))
    with torch.no_grad():
        part.loss(next(drawn), None)
        begun = contexts.begun(torch.tensor([14]))
        torch.testing.assert_close(begun.state.memory, path[3].memory)
        torch.testing.assert_close(begun.state.z, path[3].z)
        assert begun.action.tolist() == [[float(store.columns["action"][13] == i) for i in (0, 1)]]
        found = part.loss(next(drawn), None).states  # rows 14..18, entered where 10..14 ended
        for t in range(5):
            torch.testing.assert_close(found.memory[0, t], path[4 + t].memory[0])
            torch.testing.assert_close(found.z[0, t], path[4 + t].z[0])
        found = part.loss(next(drawn), None).states  # the third window goes on from the second
        torch.testing.assert_close(found.memory[0, 4], path[9].memory[0])


def test_what_was_never_inferred_begins_from_nothing(store, model, monkeypatch):
    quiet(model, monkeypatch)
    contexts = Contexts(model)
    (part,) = (contexts.around(p) for p in model.parts())
    drawn = sampled(store, contexts, 4, [13], [2])
    for _ in range(2):
        batch = next(drawn)
        with torch.no_grad():
            with_table = part.loss(batch, None)
            without = model.parts()[0].loss(batch, None)
        torch.testing.assert_close(with_table.states.memory, without.states.memory)
        torch.testing.assert_close(with_table.total, without.total)


def test_nothing_comes_over_from_the_episode_before(store, model, monkeypatch):
    quiet(model, monkeypatch)
    contexts = Contexts(model)
    (part,) = (contexts.around(p) for p in model.parts())
    drawn = sampled(store, contexts, 4, [7], [10])  # rows 7..11 cross the seam before row 10
    with torch.no_grad():
        part.loss(next(drawn), None)
        assert not torch.cat(contexts.begun(torch.tensor([10])).state, -1).any()
        found = part.loss(next(drawn), None).states
    path = stepped(model, store, range(10, 15))
    torch.testing.assert_close(found.memory[0, 4], path[4].memory[0])


def test_no_gradient_flows_into_the_past(store, model):
    contexts = Contexts(model)
    parts = [contexts.around(part) for part in model.parts()]
    learner = GradientLearner(parts)
    drawn = sampled(store, contexts, 4, [10], [14], [14])
    for _ in range(3):
        learner.update(next(drawn))
    begun = contexts.begun(torch.tensor([14]))
    assert not begun.state.memory.requires_grad
    assert begun.state.memory.any()


def test_a_loss_without_contexts_is_what_it_was(store, model):
    batch = next(Sampler(store, 2, 4, prefetch=0))
    size = model.design
    nothing = Begun(
        State(torch.zeros(2, size.memory), torch.zeros(2, size.latent.size)), torch.zeros(2, 2)
    )
    torch.manual_seed(0)
    plain = model.parts()[0].loss(batch, None).total
    torch.manual_seed(0)
    assert torch.equal(model.parts()[0].loss(batch, nothing).total, plain)


def test_a_run_of_a_papers_size_goes_on_with_its_table(tmp_path):
    quick = {"updates": 6, "batch": 2, "length": 4, "prefill": 20, "episodes": 1, "time_limit": 6}
    whole = recipe("dreamer_v3")(**quick, size="1M", evaluate_every=6)
    train(whole, tmp_path / "whole", progress=Silent())
    update, done = GradientLearner.update, []

    def stop(self, batch):
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return update(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientLearner, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            cut = recipe("dreamer_v3")(**quick, size="1M", evaluate_every=6)
            train(cut, tmp_path / "cut", progress=Silent(), save_every_s=0)
    again = recipe("dreamer_v3")(**quick, size="1M", evaluate_every=6)
    train(again, tmp_path / "cut", progress=Silent())
    pairs = zip(whole.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)  # the table came back with the checkpoint
