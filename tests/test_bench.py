"""A bench: the same data and the same seconds for all, and the same starts to be judged on."""

import contextlib
import io
import json
import re
import time
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console

from reverie import envs
from reverie.bench import schools, show
from reverie.bench.board import leaderboard
from reverie.bench.boardpage import board_page
from reverie.bench.budget import seconds_of
from reverie.bench.contender import Contender, Phase, fit
from reverie.bench.entry import Entry
from reverie.bench.run import bench
from reverie.bench.schools import enter
from reverie.bench.task import facts, gather
from reverie.bench.tasks import TASKS, task_of
from reverie.core.errors import BadConfig, MissingHead, NonFinite, SpaceMismatch, UnknownName
from reverie.core.types import Box, Discrete
from reverie.data.collect import collect
from reverie.data.store import Store
from reverie.envs.cartpole import CartPole
from reverie.envs.oracle import TwoRooms
from reverie.envs.toy import TwoRooms as World
from reverie.evaluate.control import Control, control
from reverie.evaluate.scrambled import Scrambled
from reverie.progress import Silent


def world(num_envs, seed):
    observe = ("image", "goal", "vector")
    return World(num_envs, observe=observe, seed=seed, time_limit=25)


TINY = replace(
    task_of("two_rooms"),
    world=world,
    shifted=None,
    transitions=300,
    held=8,
    episodes=5,
    num_envs=5,
    horizon=4,
    context=3,
)


class Counts:
    """A learner that counts and can be slow or wrong."""

    def __init__(self, model, value=1.0, pause=0.002):
        self.model, self.value, self.pause = model, value, pause

    def update(self, batch):
        time.sleep(self.pause)
        with torch.no_grad():
            self.model.seen += 1
        return {"loss": self.value}


class Batches:
    def __next__(self):
        return None

    def close(self):
        self.closed = True


class Knows(TwoRooms):
    """The true model, as if it had learned: it counts its updates in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))


def contender(value=1.0, prepare=None, shares=(0.25, 0.75)):
    model = Knows()
    phases = tuple(
        Phase(f"phase {i}", share, lambda: Counts(model, value), Batches, prepare)
        for i, share in enumerate(shares)
    )
    return Contender(model, phases)


class Blind(Scrambled):
    """The truth in other rows."""

    def __init__(self):
        super().__init__(TwoRooms())
        self.register_buffer("seen", torch.zeros(()))


def knows(observations, actions, store, seed):
    """A school that knows the truth."""
    return contender()


def blind(observations, actions, store, seed):
    """A school whose foresight is scrambled."""
    model = Blind()
    return Contender(model, (Phase("only", 1.0, lambda: Counts(model), Batches),))


@pytest.fixture(scope="module", autouse=True)
def _two_schools():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schools, "SCHOOLS", {**schools.SCHOOLS, "knows": knows, "blind": blind})
        yield


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """The folder of a bench of both, and its leaderboard."""
    out = tmp_path_factory.mktemp("bench")
    return out, bench(TINY, ["blind", "knows"], seconds=0.2, out=out)


class TestFit:
    """The clock is the budget."""

    def test_phases_get_their_share_and_moments_their_snapshot(self):
        began = time.perf_counter()
        taken = fit(contender(), 0.6, moments=(0.25, 0.5, 1.0))
        assert 0.6 <= time.perf_counter() - began < 1.5
        assert [round(s.seconds / 0.6, 1) for s in taken] == pytest.approx(
            [0.25, 0.5, 1.0], abs=0.15
        )
        seen = [int(s.weights["seen"]) for s in taken]
        assert seen == sorted(seen) and [s.updates for s in taken] == seen
        assert seen[0] < seen[1] < seen[2], "weights of a moment are not those of a later one"

    def test_what_a_phase_prepares_is_on_its_own_time(self):
        slow = contender(prepare=lambda progress: time.sleep(0.3), shares=(1.0,))
        quick = contender(shares=(1.0,))
        few, many = (fit(c, 0.4)[0].updates for c in (slow, quick))
        assert few < many / 2

    def test_a_loss_that_is_not_finite_stops_it(self):
        with pytest.raises(
            NonFinite, match="loss of phase 'phase 0' is not finite after 1 updates"
        ):
            fit(contender(float("nan")), 0.2)

    def test_a_budget_that_makes_no_sense_is_refused(self):
        with pytest.raises(BadConfig, match=r"above 0 s .* got 0 s"):
            fit(contender(), 0)
        with pytest.raises(BadConfig, match=r"shares that sum to 1 .* \[0.25, 0.5\]"):
            fit(contender(shares=(0.25, 0.5)), 1)
        with pytest.raises(BadConfig, match="moments must rise to 1.0"):
            fit(contender(), 1, moments=(0.5,))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("1.5m", 90)]
)
def test_budgets_are_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "0s", "5 minutes", "1e3s"])
def test_what_is_no_time_is_no_budget(text):
    with pytest.raises(BadConfig, match="such as 90s, 5m or 1h"):
        seconds_of(text)


class TestBench:
    """End to end on models that know the answer."""

    def test_it_ranks_who_knows_above_who_is_blind(self, benched):
        _, board = benched
        assert [row["name"] for row in board["rows"]] == ["knows", "blind"]
        first, last = board["rows"]
        assert first["control"]["value"] > last["control"]["value"]
        assert first["scrambled"]["value"] < 1
        assert first["prediction"]["embedding_error"]["value"]["value"] < 1e-9
        assert last["prediction"]["embedding_error"]["value"]["value"] > 1
        names = [row["name"] for row in board["baselines"]]
        assert names[:2] == ["random", "planning in the true model"]

    def test_metrics_are_ranked_against_control_the_better_the_higher(self, benched):
        rho = {row["metric"]: row for row in benched[1]["correlation"]}
        assert rho["psnr"]["points"] == 10, "five moments of each"
        assert rho["psnr"]["rho"]["value"] > 0.5
        assert rho["embedding_error"]["rho"]["value"] > 0.5, "lower is better, turned round"

    def test_it_is_shown_and_kept(self, benched):
        out, board = benched
        assert json.loads((out / "leaderboard.json").read_text()) == board
        page = (out / "leaderboard.html").read_text()
        assert page == board_page(board)
        assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', page)
        assert (out / "models" / "knows-0" / "card.html").exists()
        console = Console(width=300, record=True, file=io.StringIO())
        console.print(show.table(board))
        assert re.search(r"knows +│ 1 \[", console.export_text())

    def test_the_first_place_is_worth_what_the_intervals_allow(self, benched):
        def said(ours, others):
            board = json.loads(json.dumps(benched[1]))
            for row in (*board["rows"], *board["baselines"]):
                row["control"] = dict(zip(("value", "low", "high"), others, strict=True))
                row["scrambled"] = row["control"]
            board["rows"][0]["control"] = dict(zip(("value", "low", "high"), ours, strict=True))
            return board_page(board)

        clear, unclear = said((0.9, 0.8, 1), (0.2, 0.1, 0.3)), said((0.9, 0.2, 1), (0.2, 0.1, 0.3))
        assert "No other touches it. It is above random actions. Its planner needs" in clear
        assert "It cannot be told from blind. It is not above random actions for sure." in unclear
        assert "does as well with shuffled predictions" in unclear

    def test_what_is_there_is_not_done_again(self, benched, monkeypatch):
        out, board = benched

        def never(*_, **__):
            raise AssertionError("done twice")

        monkeypatch.setattr("reverie.bench.judging.control", never)
        monkeypatch.setattr("reverie.bench.entry.fit", never)
        monkeypatch.setattr("reverie.bench.task.collect", never)
        assert bench(TINY, ["blind", "knows"], seconds=0.2, out=out) == board
        with pytest.raises(AssertionError, match="done twice"):
            bench(TINY, ["knows"], seconds=0.2, out=out, seeds=(1,))

    def test_a_fit_of_another_budget_is_not_taken_for_this_one(self, benched):
        out, _ = benched
        entry = Entry("knows", 0, out / "models" / "knows-0", TINY, out / "data" / "train")
        with pytest.raises(BadConfig, match="knows, seed 0 .* learned for 0.2 s, but 0.3 s were"):
            entry.fit(0.3, Silent())

    def test_another_bench_in_its_folder_is_refused(self, benched):
        with pytest.raises(BadConfig, match="another bench: budget 0.2, not 0.3"):
            bench(TINY, ["knows"], seconds=0.3, out=benched[0])

    def test_unknown_names_are_refused_before_anything_is_done(self, tmp_path):
        with pytest.raises(UnknownName, match="no model 'know'. Did you mean knows"):
            bench(TINY, ["know"], seconds=0.2, out=tmp_path / "x")
        with pytest.raises(BadConfig, match="needs models and seeds"):
            bench(TINY, [], seconds=0.2, out=tmp_path / "x")
        assert not (tmp_path / "x").exists()
        with pytest.raises(UnknownName, match="no task 'two_room'. Did you mean two_rooms"):
            task_of("two_room")

    def test_an_unknown_metric_is_no_order(self, benched):
        out, _ = benched
        with pytest.raises(UnknownName, match="no metric 'psnrr'. Did you mean psnr"):
            bench(TINY, ["knows"], seconds=0.2, out=out, by="psnrr")
        data = out / "data" / "train"
        entries = [Entry(n, 0, out / "models" / f"{n}-0", TINY, data) for n in ("blind", "knows")]
        board = leaderboard(TINY, entries, {}, by="embedding_error")
        assert [row["name"] for row in board["rows"]] == ["knows", "blind"]

    def test_a_model_of_another_world_is_refused(self, tmp_path):
        with pytest.raises(SpaceMismatch, match=r"64, 64.*found \['vector'\]"):
            bench(
                replace(TINY, reads=("vector",)), ["world_models_2018"], seconds=0.2, out=tmp_path
            )


class Kept(Entry):
    """An entry whose files are given."""

    files: ClassVar[dict] = {}
    fitted: ClassVar[dict] = {}

    @property
    def about(self):
        return self.fitted

    def kept(self, name):
        return self.files[self.seed][name]


def test_several_seeds_make_intervals_over_seeds(tmp_path):
    """Three seeds that win 0, 5 and 10 of 10: the mean is a half, and nobody knows it well."""

    def scored(wins):
        won = tuple(i < wins for i in range(10))
        return Control("x", tuple(map(float, won)), (9,) * 10, won, 1.0).to_json()

    def psnr(value):
        low_high = {"value": value, "low": value - 1, "high": value + 1}
        return {
            "psnr": dict(name="psnr", group="prediction", what="", unit="dB", better="higher")
            | {"value": low_high, "curve": [], "baselines": {}, "baseline_curves": {}}
        }

    card = {"model": {"title": "T"}, "parameters": 7, "simulator": "s", "missing": [], "states": {}}
    files = {
        seed: {
            "moments.json": [
                {"seconds": 1, "updates": 2, "control": scored(wins), "prediction": psnr(20 + seed)}
            ],
            "card.json": {**card, "control": [scored(wins), scored(0)]},
        }
        for seed, wins in enumerate((0, 5, 10))
    }
    Kept.files, Kept.fitted = files, {"budget": 1, "seconds": 1, "updates": 2}
    entries = [Kept("x", seed, tmp_path, TINY, tmp_path) for seed in range(3)]
    board = leaderboard(TINY, entries, {})
    (row,) = board["rows"]
    assert row["control"]["value"] == pytest.approx(0.5)
    assert row["control"]["low"] < 0.1 and row["control"]["high"] > 0.9
    assert row["scrambled"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert row["prediction"]["psnr"]["value"] == {"value": 21.0, "low": 19.0, "high": 23.0}
    assert board["correlation"] == []
    assert any("at least 5 values for an interval, but got 3" in s for s in board["missing"])


class TestTasks:
    """Those that are shipped."""

    def test_they_are_there(self):
        assert set(TASKS) == {"two_rooms", "cartpole", "pusht", "doom"}
        assert {name: task_of(name).name for name in TASKS} == {name: name for name in TASKS}
        assert task_of("two_rooms").transitions == 20_000

    def test_models_learn_from_other_episodes_than_they_are_judged_on(self, tmp_path):
        gather(TINY, tmp_path, seed=0)
        train = Store.open(tmp_path / "train")
        held = Store.open(tmp_path / "held" / "visited")
        assert 300 <= train.steps < 300 + 5 * 50
        starts = {
            tuple(store[i].obs["vector"][0]) for store in (train, held) for i in range(len(store))
        }
        assert len(starts) == len(train) + len(held)

    def test_planning_in_the_true_pole_balances_it(self):
        """Random actions last about 22 steps of at most 200."""
        env = envs.make("CartPole-v1", 5, observe="vector", time_limit=200)
        with contextlib.closing(env):
            found = control("truth", env, task_of("cartpole").plan(CartPole()), episodes=5, seed=0)
        assert found.score.value > 150

    def test_the_longer_pole_falls_by_other_rules(self):
        """The heavier and longer one turns more slowly under the same push."""
        task = task_of("cartpole")
        spins = []
        for world in (task.world, task.shifted):
            env = world(2, 0)
            env.reset(seed=1)
            obs = env.step(np.array([1, 1]))[0]["vector"]
            spins.append(np.abs(obs[:, 3]).mean())
            env.close()
        assert spins[1] < 0.8 * spins[0]

    def test_facts_say_what_a_school_must_know(self, tmp_path):
        gather(TINY, tmp_path, seed=0)
        assert facts(Store.open(tmp_path / "train"))["ends"] is False


class TestWorldModels2018:
    """The first school in the bench."""

    def test_it_enters_and_leaves_the_data_as_they_were(self, tmp_path):
        gather(TINY, tmp_path, seed=0)
        with Store.open(tmp_path / "train", writable=True) as store:
            seen = {"image": store.observations["image"]}
            left = {"latent": Box((64,), -9, 9)}  # by a training that was killed
            store.add_observations(
                left, lambda rows: {"latent": np.zeros((len(rows["image"]), 64), np.float32)}
            )
            entered = enter("world_models_2018")(seen, store.actions, store, 0)
            (taken,) = fit(entered, 1.0)
            assert "latent" not in store.observations
        assert taken.updates >= 2
        assert all(torch.isfinite(w).all() for w in taken.weights.values() if w.is_floating_point())

    def test_a_world_without_pictures_is_refused(self, tmp_path):
        gather(TINY, tmp_path, seed=0)
        with (
            Store.open(tmp_path / "train") as store,
            pytest.raises(SpaceMismatch, match="World Models"),
        ):
            enter("world_models_2018")(
                {"vector": store.observations["vector"]}, Discrete(2), store, 0
            )


# -- schools --------------------------------------------------------------------------------------


POLE = replace(task_of("cartpole"), transitions=400, num_envs=5, held=4, shifted=None)


@pytest.fixture(scope="module")
def pole(tmp_path_factory):
    """A store of a few falls."""
    path = tmp_path_factory.mktemp("pole") / "data"
    with contextlib.closing(POLE.world(5, 0)) as env:
        observations, actions = envs.spaces(env)
        with Store.create(path, observations, actions) as store:
            for episode in collect(env, POLE.explorer(actions), episodes=20, seed=0):
                store.append(episode)
    return path


@pytest.mark.parametrize("name", sorted(schools.able(POLE)))
def test_every_school_learns_from_the_pole_s_data_and_plans(name, pole, tmp_path):
    """A model without memory reads the numbers, the others pictures; all can be asked to survive
    but those that foretell neither rewards nor ends."""
    entry = Entry(name, 0, tmp_path / name, POLE, pole)
    assert entry.reads == (("vector",) if name in {"muzero", "pets", "tdmpc2"} else ("image",))
    entry.fit(0.3, Silent())
    model = entry.models()[-1][1]
    assert tuple(model.observations) == entry.reads
    assert entry.about["updates"] > 0
    if name in {"lewm", "pldm"}:
        with pytest.raises(MissingHead):
            POLE.plan(model)
        return
    with contextlib.closing(POLE.world(5, 1)) as env:
        score = control(name, env, POLE.plan(model), episodes=5, seed=1)
    assert min(score.returns) >= 1


def test_pets_stays_out_where_there_are_only_pictures():
    assert "pets" in schools.able(task_of("cartpole"))
    assert set(schools.SCHOOLS) - set(schools.able(task_of("two_rooms"))) <= {"pets"}
    assert "pets" not in schools.able(task_of("two_rooms"))
