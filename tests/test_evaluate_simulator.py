"""The verdict follows what was measured; the knee of the history is where theory puts it."""

import re

import numpy as np
import pytest
import torch
from damaged import Blind, Lent, Wrapped, store_of

from reverie.core.errors import BadConfig, BadData, MissingHead
from reverie.envs import rules
from reverie.envs.kalman import LinearGaussian
from reverie.envs.oracle import TwoRooms
from reverie.envs.toy import WORLDS
from reverie.evaluate import imagination, simulator
from reverie.evaluate.fork import fork
from reverie.evaluate.measure import Measure
from reverie.evaluate.statistics import Interval

# Position is seen, velocity is not: two observations tell it, one cannot.
SURE = rules.LinearSystem(Q=1e-10 * np.eye(2), R=np.array([[1e-8]]))


def measure(name, value, **baselines):
    around = Interval(value, value - 0.05, value + 0.05)
    beside = {who: Interval(x, x - 0.05, x + 0.05) for who, x in baselines.items()}
    return Measure(name, "imagination", "A.", "1", "higher", around, baselines=beside)


@pytest.mark.parametrize(
    ("measures", "begins"),
    [
        ([], "forecaster: nothing that it foresees was measured"),
        ([measure("controllability", 0.2)], "forecaster: its futures hardly depend"),
        ([measure("controllability", 0.36)], "forecaster"),  # its interval reaches below a third
        ([measure("controllability", 0.7)], "action-conditioned simulator: .* not measured"),
        (
            [measure("controllability", 0.7), measure("counterfactual", 0.6)],
            "action-conditioned simulator: .* not make the true difference .*0.60",
        ),
        (
            [measure("controllability", 0.7), measure("counterfactual", 0.9)],
            "counterfactual simulator: .*0.70 .*0.90",
        ),
        (
            [measure("controllability", 0.1, oracle=0.15), measure("counterfactual", 0.9)],
            "undecided: even the true model",
        ),
    ],
)
def test_the_verdict_is_by_measured_control(measures, begins):
    found = simulator.verdict(measures)
    assert re.match(begins, found) and "\n" not in found


def test_the_true_model_is_a_simulator_and_a_blind_one_is_not():
    forks = fork(
        lambda n, s: WORLDS["two_rooms"](n, seed=s, observe=("vector",)),
        pairs=30,
        context=2,
        horizon=5,
    )

    def judged(model):
        return simulator.verdict(imagination.measures(model, forks.one, forks=forks))

    assert judged(TwoRooms()).startswith("counterfactual simulator")
    assert judged(Blind(TwoRooms())).startswith("forecaster")


@pytest.fixture(scope="module")
def carts(tmp_path_factory):
    path = tmp_path_factory.mktemp("carts") / "s"
    return store_of(path, "linear_gaussian", 24, system=SURE)


def test_the_knee_is_at_the_observability_index(carts):
    found = simulator.knee(LinearGaussian(SURE), carts)
    assert tuple(found.value) == (2, 2, 2)
    errors = [point.value for point in found.curve]
    assert len(errors) == 4 and errors[0] > 0.3 and errors[1] < 0.01
    assert [point.value for point in found.baseline_curves["copy"]] == [1, 1, 1, 1]


def test_a_world_that_shows_all_needs_one_observation(tmp_path):
    store = store_of(tmp_path / "s", "two_rooms", 8, observe=("vector",), time_limit=12)
    found = simulator.knee(TwoRooms(), store, horizon=3)
    assert tuple(found.value) == (1, 1, 1)
    only = Lent(TwoRooms(), decode=None)
    assert simulator.knee(only, store).value.value == 1


class Forgetful(Wrapped):
    """Makes nothing of what it saw before the last observation."""

    def observe(self, state, action, h, **kwargs):
        return super().observe(None, None, h)


def test_who_forgets_gains_nothing_from_history(carts):
    found = simulator.knee(Forgetful(LinearGaussian(SURE)), carts)
    errors = [point.value for point in found.curve]
    assert found.value.value == 1
    assert errors == pytest.approx([errors[0]] * 4, rel=1e-3)


def test_bad_questions_are_refused(carts, tmp_path):
    model = LinearGaussian(SURE)
    with pytest.raises(BadConfig, match=r"contexts must rise .* \[4, 2\]"):
        simulator.knee(model, carts, contexts=(4, 2))
    with pytest.raises(MissingHead, match="knee needs decode"):
        simulator.knee(Lent(model, decode=None, embed=None), carts)
    with pytest.raises(BadData, match="only 0 of the 24 episodes"):
        simulator.knee(model, carts, contexts=(1, 100))
    still = Lent(model, decode=None, embed=lambda s: torch.zeros(len(s.mean), 2))
    with pytest.raises(BadData, match="nothing moves"):
        simulator.knee(still, carts)
