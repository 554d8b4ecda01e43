"""The one loop: exact after any stop, and clear about what goes wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_run import FileSampler, make_run, make_tiny, rows

from reverie import checkpoint, metrics
from reverie import train as train_module
from reverie.core.errors import BadCheckpoint, BadConfig, NonFinite, StorageFull
from reverie.core.model import Part
from reverie.core.types import Loss, Optim
from reverie.metrics import Meter, MetricLog, Reading
from reverie.progress import Silent
from reverie.train import GradientLearner, Run, Stage, describe, train

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(make_run(folder), folder, progress=Silent())
    return folder


def assert_same_result(folder: Path, whole: Path) -> None:
    assert rows(folder) == rows(whole)
    name = checkpoint.MODEL_FILE
    assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert (folder / "data.bin").read_bytes() == (whole / "data.bin").read_bytes()


def with_stage(run: Run, index: int, **changes: Any) -> Run:
    def stages(folder: Path) -> tuple[Stage, ...]:
        made = list(run.stages(folder))
        made[index] = replace(made[index], **changes)
        return tuple(made)

    return replace(run, stages=stages)


def stage_of(run: Run, index: int) -> Stage:
    return run.stages(Path())[index]


class Calling:
    """A learner (or anything) that first calls something at one update."""

    def __init__(self, inner: Any, at: int, call: Callable[[], Any]) -> None:
        self.inner, self.at, self.call, self.count = inner, at, call, 0

    def update(self, batch):
        self.count += 1
        if self.count == self.at:
            self.call()
        return self.inner.update(batch)

    def __getattr__(self, name):
        return getattr(self.inner, name)


# --- exact resume


def test_killed_at_any_moment_it_goes_on_bit_for_bit(tmp_path):
    """kill -9 right after random times and right before random file operations."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "toy_run.py"), str(tmp_path), "1"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert min(killed.values()) >= 2, killed
    for name in ("warm", "timed", "operation"):
        assert_same_result(tmp_path / name, tmp_path / "whole")


def interrupt(times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("index", [0, 2, 3])
def test_ctrl_c_inside_an_update_saves_after_it(tmp_path, whole, index):
    run = make_run(tmp_path)
    make = stage_of(run, index).learner
    run = with_stage(run, index, learner=lambda: Calling(make(), 5, interrupt))
    with pytest.raises(KeyboardInterrupt, match="Run the same command again to go on"):
        train(run, tmp_path, progress=Silent())
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert (saved["index"], saved["update"]) == (index, 5)
    assert rows(tmp_path) == rows(whole)[: len(rows(tmp_path))]
    train(make_run(tmp_path), tmp_path, progress=Silent())
    assert_same_result(tmp_path, whole)


def test_a_second_ctrl_c_stops_at_once_without_saving(tmp_path, whole):
    run = make_run(tmp_path)
    make = stage_of(run, 0).learner
    run = with_stage(run, 0, learner=lambda: Calling(make(), 5, lambda: interrupt(2)))
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path, progress=Silent())
    assert checkpoint.load(tmp_path / "checkpoint")["update"] == 0
    train(make_run(tmp_path), tmp_path, progress=Silent())
    assert_same_result(tmp_path, whole)


@pytest.mark.parametrize("where", ["prepare", "evaluate", "finish"])
def test_ctrl_c_beside_the_updates_stops_at_once_and_saves_what_is_whole(tmp_path, whole, where):
    run, index = make_run(tmp_path), {"prepare": 0, "evaluate": 0, "finish": 3}[where]
    inner = getattr(stage_of(run, index), where)
    torch_draws = [False]

    def interrupted(*arguments):
        torch.randn(3)
        interrupt()
        torch_draws.append(True)
        return inner(*arguments)

    with pytest.raises(KeyboardInterrupt):
        train(with_stage(run, index, **{where: interrupted}), tmp_path, progress=Silent())
    assert not torch_draws[-1]
    if where != "prepare":
        saved = checkpoint.load(tmp_path / "checkpoint")
        assert (saved["index"], saved["update"]) == {"evaluate": (0, 10), "finish": (3, 20)}[where]
    train(make_run(tmp_path), tmp_path, progress=Silent())
    assert_same_result(tmp_path, whole)


def test_ctrl_c_is_python_s_own_again_afterwards(whole):
    before = signal.getsignal(signal.SIGINT)
    train(make_run(whole), whole, progress=Silent())
    assert signal.getsignal(signal.SIGINT) is before


def test_it_trains_outside_the_main_thread(tmp_path, whole):
    thread = threading.Thread(target=lambda: train(make_run(tmp_path), tmp_path, progress=Silent()))
    thread.start()
    thread.join()
    assert rows(tmp_path) == rows(whole)


def test_how_often_it_saves_changes_nothing(tmp_path, whole):
    train(make_run(tmp_path), tmp_path, save_every_s=0.0, progress=Silent())
    assert_same_result(tmp_path, whole)
    assert len(checkpoint.checkpoints(tmp_path / "checkpoint")) == 2


def test_a_torn_checkpoint_costs_only_time(tmp_path, whole):
    run = make_run(tmp_path)
    make = stage_of(run, 2).learner
    run = with_stage(run, 2, learner=lambda: Calling(make(), 9, interrupt))
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path, save_every_s=0.0, progress=Silent())
    newest = checkpoint.checkpoints(tmp_path / "checkpoint")[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    train(make_run(tmp_path), tmp_path, progress=Silent())
    assert_same_result(tmp_path, whole)


def test_a_finished_stage_never_runs_again(tmp_path, whole):
    def never(*arguments):
        raise AssertionError("a finished stage was entered")

    run = make_run(tmp_path)
    make = stage_of(run, 2).learner
    run = with_stage(run, 2, learner=lambda: Calling(make(), 5, interrupt))
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path, progress=Silent())
    run = make_run(tmp_path)
    run = with_stage(run, 0, learner=never, sampler=never, collector=never, prepare=never)
    train(with_stage(run, 1, finish=never), tmp_path, progress=Silent())
    assert_same_result(tmp_path, whole)


def test_a_finished_run_is_left_alone_and_its_weights_are_there(whole):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    run = make_run(whole)
    train(run, whole, progress=Silent())
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before
    kept = make_tiny(99)
    checkpoint.load_weights(whole, model=kept, behavior=torch.nn.Linear(3, 2))
    assert all(torch.equal(v, kept.state_dict()[k]) for k, v in run.model.state_dict().items())
    assert not run.model.training


# --- the schedule


class Counting:
    """Its metric is the number of the update, and nothing else changes."""

    def __init__(self) -> None:
        self.count = 0

    def update(self, batch):
        assert batch is None
        self.count += 1
        often = {"rare": 10.0} if self.count % 3 == 0 else {}
        return {"count": torch.tensor(float(self.count)), **often}

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Recording:
    """A collector that remembers when it was called."""

    def __init__(self, calls: list[int]) -> None:
        self.calls = calls

    def collect(self, update):
        self.calls.append(update)
        return {"n": len(self.calls)}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def counting_run(**stage: Any) -> Run:
    return Run("counting", 0, make_tiny(), lambda _: (Stage("only", 7, Counting, **stage),))


def test_rows_are_means_and_everything_comes_when_it_is_due(tmp_path):
    calls: list[int] = []
    run = counting_run(
        collector=lambda: Recording(calls),
        collect_every=3,
        evaluate=lambda update: {"at": update},
        evaluate_every=5,
        finish=lambda _: {"end": 1},
        log_every=4,
    )
    train(run, tmp_path, progress=Silent())
    assert calls == [0, 3, 6]
    only = {"stage": "only"}
    assert [json.loads(row) for row in rows(tmp_path)] == [
        {**only, "update": 0, "collect/n": 1.0},
        {**only, "update": 3, "collect/n": 2.0},
        {**only, "update": 4, "count": 2.5, "rare": 10.0},  # (1 + 2 + 3 + 4) / 4
        {**only, "update": 5, "evaluate/at": 5.0},
        {**only, "update": 6, "collect/n": 3.0},
        {**only, "update": 7, "count": 6.0, "rare": 10.0},  # (5 + 6 + 7) / 3
        {**only, "update": 7, "finish/end": 1.0},
    ]


def test_evaluating_disturbs_nothing(tmp_path, whole):
    run = with_stage(make_run(tmp_path), 0, evaluate_every=3)
    train(run, tmp_path, progress=Silent())

    def learned(folder):
        return [row for row in rows(folder) if "evaluate" not in row]

    assert learned(tmp_path) == learned(whole)
    assert len(rows(tmp_path)) > len(rows(whole))


def test_another_seed_is_another_run(tmp_path, whole):
    train(replace(make_run(tmp_path), seed=12), tmp_path, progress=Silent())
    assert rows(tmp_path)[1] != rows(whole)[1]


def test_run_json_says_what_was_run(whole):
    about = describe(whole)
    versions = about.pop("versions")
    assert versions["torch"] == torch.__version__
    assert about == {
        "name": "toy",
        "seed": 11,
        "environment": None,
        "config": {"updates": 20},
        "stages": {"vision": 20, "look": 0, "memory": 20, "evolve": 20},
    }


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_tensorboard_shows_the_rows_also_after_a_resume(tmp_path, whole):
    run = make_run(tmp_path)
    make = stage_of(run, 0).learner
    run = with_stage(run, 0, learner=lambda: Calling(make(), 14, lambda: interrupt(2)))
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path, progress=Silent())  # three rows that are cut off
    train(make_run(tmp_path), tmp_path, progress=Silent())
    assert scalars(tmp_path).keys() == scalars(whole).keys()
    wanted: dict[str, list[tuple[int, float]]] = {}
    for row in map(json.loads, rows(whole)):
        for name in row.keys() - {"stage", "update", "finish/nothing"}:
            wanted.setdefault(f"{row['stage']}/{name}", []).append((row["update"], row[name]))
    found = scalars(tmp_path)
    for tag, points in wanted.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in points]
        assert [v for _, v in found[tag]] == pytest.approx([v for _, v in points], rel=1e-6)


# --- what goes wrong


class Poisoned(FileSampler):
    """Its 8th batch holds a NaN."""

    count = 0

    def __next__(self):
        self.count += 1
        batch = super().__next__()
        if self.count == 8:
            batch.obs["vector"][1, 1] = float("nan")
        return batch


def test_a_loss_that_is_not_finite_stops_the_run_with_all_that_helps(tmp_path):
    data = tmp_path / "data.bin"
    run = with_stage(make_run(tmp_path), 0, sampler=lambda: Poisoned(data, 1))
    with pytest.raises(NonFinite) as caught:
        train(run, tmp_path, save_every_s=0.0, progress=Silent())
    kept = checkpoint.checkpoints(tmp_path / "checkpoint")[-1]
    bad = tmp_path / "nonfinite_vision_8.safetensors"
    assert str(caught.value).startswith(
        "Stage 'vision' asks for finite numbers, but vision/total is nan at update 8. Its batch is "
        f"in {bad}, whose obs.vector holds NaN or infinity; the last good checkpoint is {kept}."
    )
    saved = checkpoint.load(tmp_path / "checkpoint")
    assert saved["update"] == 7
    assert all(torch.isfinite(w).all() for w in saved["weights"]["model"].values())
    batch = checkpoint.read_tree(bad)
    assert batch["obs"]["vector"].isnan().nonzero()[:, :2].unique(dim=0).tolist() == [[1, 1]]
    assert batch["mask"].shape == (4, 2)
    assert batch["action"] is None


def test_a_gradient_that_is_not_finite_stops_it_too(tmp_path):
    model = make_tiny()
    zero = torch.zeros(3)

    def loss(batch, states):  # 0, but its slope is infinite: inf * 0 is NaN
        return Loss((model.memory(zero) - model.memory.bias).square().sum().sqrt(), {})

    def learner():
        return GradientLearner([Part("memory", model.memory, loss, Optim("memory"))])

    run = Run("bad", 0, model, lambda _: (Stage("only", 5, learner),))
    with pytest.raises(NonFinite, match=r"memory/grad_norm is nan at update 1. This stage"):
        train(run, tmp_path, progress=Silent())


class Late:
    """Stands for a CUDA event: says when it was waited for."""

    waited = 0

    def synchronize(self):
        Late.waited += 1


def test_on_a_gpu_metrics_are_read_late_but_the_first_bad_update_is_exact(monkeypatch):
    def read(update, batch, values):
        return Reading(update, batch, {}, list(values), torch.tensor([*values.values()]), Late())

    def fail(update, name, value, batch):
        raise NonFinite(f"{update} {name} {batch}")

    monkeypatch.setattr(metrics, "_read", read)
    meter = Meter(fail)
    for update in range(1, 5):
        meter.push(update, f"batch {update}", {"a": float(update)})
    assert Late.waited == 0
    assert meter.means() == {"a": 2.5}
    assert Late.waited == 4
    meter.push(5, "batch 5", {"a": 1.0, "b": float("inf")})
    for update in (6, 7, 8):
        meter.push(update, f"batch {update}", {"a": float("nan"), "b": 0.0})
    with pytest.raises(NonFinite, match="5 b batch 5"):
        meter.push(9, "batch 9", {"a": 1.0, "b": 0.0})
    meter = Meter(fail)
    meter.push(1, "batch 1", {"a": float("nan")})
    with pytest.raises(NonFinite, match="1 a batch 1"):
        meter.state_dict()  # a checkpoint reads all first


@pytest.mark.gpu
def test_on_a_real_gpu_metrics_arrive():
    def fail(update, name, value, batch):
        raise NonFinite(f"{update} {name}")

    meter = Meter(fail)
    for update in range(1, 11):
        value = torch.full((), float(update), device="cuda")
        meter.push(update, None, {"far": value, "near": 1.0})
    assert meter.means() == {"far": 5.5, "near": 1.0}
    meter.push(11, None, {"far": torch.full((), float("nan"), device="cuda")})
    with pytest.raises(NonFinite, match="11 far"):
        meter.drain()


class FullDisk:
    """After some calls of fsync there is no room; then there is again."""

    def __init__(self, n: int) -> None:
        self.n, self.fsync = n, os.fsync

    def __call__(self, handle):
        self.n -= 1
        if self.n == 0:
            raise OSError(errno.ENOSPC, "full")
        self.fsync(handle)


@pytest.mark.parametrize("n", [1, 3, 5, 6, 7, 8, 40, 41, 42, 43])
def test_a_full_disk_stops_the_run_and_nothing_is_lost(tmp_path, whole, n):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", FullDisk(n))
        with pytest.raises(StorageFull, match="what was written before is whole. Free some space"):
            train(make_run(tmp_path), tmp_path, save_every_s=0.0, progress=Silent())
    train(make_run(tmp_path), tmp_path, progress=Silent())
    assert_same_result(tmp_path, whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the kernel's own full disk")
def test_rows_that_find_no_room_stop_the_run_and_are_cut_off(tmp_path, whole):
    write = MetricLog.write

    def to_full_device(self, *arguments):
        if arguments[:2] == ("memory", 6):
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, self._rows.fileno())
            os.close(full)
        write(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricLog, "write", to_full_device)
        with pytest.raises(StorageFull, match=r"full while writing .*metrics.jsonl"):
            train(make_run(tmp_path), tmp_path, progress=Silent())
    train(make_run(tmp_path), tmp_path, progress=Silent())
    assert_same_result(tmp_path, whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 5}, "whose seed is 11, but 5 was asked for"),
        ({"name": "other"}, "whose name is 'toy', but 'other'"),
        ({"environment": "toy/clock"}, "whose environment is None, but 'toy/clock'"),
        ({"config": {"updates": 21}}, r"whose config is {'updates': 20}, but {'updates': 21}"),
        ({"stages": lambda _: ()}, "whose stages is"),
    ],
)
def test_a_folder_belongs_to_one_run(whole, changes, said):
    with pytest.raises(BadCheckpoint, match=f"{said}.*or choose another folder"):
        train(replace(make_run(whole), **changes), whole, progress=Silent())


def test_a_checkpoint_of_another_model_is_refused_by_name_and_shape(whole):
    run = make_run(whole)
    run.model.memory = torch.nn.Linear(4, 3)
    with pytest.raises(BadCheckpoint, match=r"memory.weight has shape \(3, 3\), the model \("):
        train(run, whole, progress=Silent())


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    def second(update):
        train(counting_run(), tmp_path, progress=Silent())

    with pytest.raises(BadConfig, match="Another process is training in"):
        train(counting_run(evaluate=second, evaluate_every=2), tmp_path, progress=Silent())


def test_a_cut_metrics_file_is_noticed(tmp_path):
    train(counting_run(), tmp_path, progress=Silent())
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(BadCheckpoint, match=r"metrics.jsonl has 0 bytes, but the checkpoint"):
        train(counting_run(), tmp_path, progress=Silent())


def test_a_damaged_run_json_is_noticed(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(BadCheckpoint, match=r"run.json is damaged"):
        train(counting_run(), tmp_path, progress=Silent())


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"holds no run.json. Give the folder of a run"):
        describe(tmp_path)


def test_other_package_versions_are_told(tmp_path, caplog, monkeypatch):
    train(counting_run(), tmp_path, progress=Silent())
    monkeypatch.setattr(train_module.metadata, "version", lambda package: "0.0")
    train(counting_run(), tmp_path, progress=Silent())
    assert "begun with other package versions" in caplog.text


def test_stages_that_cannot_run_are_refused():
    with pytest.raises(BadConfig, match="'x' has 5 updates but no learner"):
        Stage("x", 5)
    with pytest.raises(BadConfig, match="log_every of stage 'x' is below 1"):
        Stage("x", log_every=0)


def test_stages_need_names_of_their_own(tmp_path):
    with pytest.raises(BadConfig, match="Give each its own name"):
        train(Run("x", 0, make_tiny(), lambda _: (Stage("a"), Stage("a"))), tmp_path)
