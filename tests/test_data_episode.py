import numpy as np
import pytest

from reverie.core.errors import BadData
from reverie.data.episode import Episode


def fields(steps=3, **changes):
    made = {
        "obs": {"vector": np.zeros((steps + 1, 2), np.float32)},
        "action": np.zeros((steps, 1), np.float32),
        "reward": np.zeros(steps, np.float32),
        "terminated": np.zeros(steps, bool),
        "truncated": np.zeros(steps, bool),
    }
    return {**made, **changes}


def test_its_length_is_the_number_of_transitions():
    assert len(Episode(**fields(3))) == 3
    assert len(Episode(**fields(1, action=None, reward=None))) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"obs": {}}, "has no modality"),
        ({"obs": {"vector": np.zeros((3, 2), "f4")}}, "obs['vector'] needs 4 rows"),
        ({"obs": {"vector": [[0.0]] * 4}}, "but it has list"),
        ({"action": np.zeros((4, 1), "f4")}, "action needs 3 rows"),
        ({"action": np.zeros((3, 1), "f8")}, "Actions are float32 or int64"),
        ({"reward": np.zeros(3)}, "reward must be (3,) float32"),
        ({"reward": np.zeros((3, 1), "f4")}, "reward must be (3,) float32"),
        ({"terminated": np.array([True, False, False])}, "may be terminated, but step 0 of 3"),
        ({"truncated": np.array([False, True, True])}, "may be truncated, but step 1 of 3"),
        ({"truncated": np.zeros(3)}, "truncated must be (3,) bool"),
        ({"extra": {"value": np.zeros(4)}}, "extra['value'] needs 3 rows"),
        ({"info": {"seed": np.int64(3)}}, "Episode.info must be JSON"),
    ],
)
def test_what_breaks_the_convention_is_refused(changes, sentence):
    with pytest.raises(BadData) as caught:
        Episode(**fields(**changes))
    assert sentence in str(caught.value)


def test_an_episode_without_steps_is_refused():
    with pytest.raises(BadData, match="has none. Drop it"):
        Episode(**fields(0))
