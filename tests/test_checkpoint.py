"""Checkpoints and model files: exact, atomic, never unpickled, and clear when they do not fit."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import pickle
import random
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from toy_run import Layer, Sizes, Tiny, TinyConfig, make_tiny

from reverie import checkpoint
from reverie.core import registry
from reverie.core.errors import BadCheckpoint, StorageFull, UnknownName


def same(a, b):
    """Equal in value and in type, all the way down; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def trained_adam():
    layer = nn.Linear(2, 1)
    adam = torch.optim.Adam(layer.parameters(), lr=0.1 + 0.2)
    layer(torch.ones(1, 2)).sum().backward()
    adam.step()
    return adam


TREES = {
    "scalars": {"i": 2**127 + 1, "f": 0.1 + 0.2, "s": "ü/~$", "b": True, "n": None},
    "not_finite": {"nan": math.nan, "inf": math.inf, "minus": -math.inf},
    "empty": {"d": {}, "l": [], "t": (), "tensor": torch.empty(0, 3), "scalar": torch.tensor(3)},
    "nested": [{"a": (1, [torch.ones(2), (None,)])}, torch.zeros(1, dtype=torch.int64)],
    "keys": {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}, "a~1b": torch.full((1,), 2.0)},
    "strange_keys": {0: "zero", "0": "text", 1.5: {"x": torch.ones(1)}, (1, 2): None},
    "dollars": {"$tensor": "not one", "x": {"$items": 3, "$": {}}},
    "types": {
        str(t): torch.ones(2, dtype=t)
        for t in (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64)
    },
    "arrays": {
        str(np.dtype(t)): np.ones((2, 2), t)
        for t in (np.bool_, np.uint8, np.uint32, np.int64, np.float64)
    },
    "python_random": random.Random(3).getstate(),
    "numpy_random": np.random.RandomState(3).get_state(),
    "numpy_generator": np.random.default_rng(3).bit_generator.state,
    "torch_random": torch.Generator().manual_seed(3).get_state(),
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_as_it_was(tmp_path, name):
    checkpoint.write_tree(tmp_path / "x.safetensors", {"tree": TREES[name]})
    assert same(checkpoint.read_tree(tmp_path / "x.safetensors"), {"tree": TREES[name]})


def test_an_optimizer_comes_back_as_it_was(tmp_path):
    state = trained_adam().state_dict()
    checkpoint.write_tree(tmp_path / "x.safetensors", state)
    back = checkpoint.read_tree(tmp_path / "x.safetensors")
    assert same(back, state)
    trained_adam().load_state_dict(back)


def test_views_and_shared_tensors_are_written_as_they_look(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    tree = {"row": base[1], "column": base[:, 2], "same": base, "again": base, "t": base.T}
    tree["of_model"] = nn.Parameter(torch.ones(2))
    checkpoint.write_tree(tmp_path / "x.safetensors", tree)
    back = checkpoint.read_tree(tmp_path / "x.safetensors")
    assert all(torch.equal(back[name], tree[name].detach()) for name in tree)


def test_numpy_scalars_become_numbers(tmp_path):
    tree = {"f": np.float64(0.1), "i": np.int64(3), "b": np.bool_(1)}
    checkpoint.write_tree(tmp_path / "x", tree)
    assert same(checkpoint.read_tree(tmp_path / "x"), {"f": 0.1, "i": 3, "b": True})


def test_the_order_in_memory_is_kept(tmp_path):
    image = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    tree = {
        "last": image.contiguous(memory_format=torch.channels_last),
        "turned": image[0, 0].T,
        "sliced": image[:, :, 1],
        "spread": torch.ones(1, 2).expand(3, 2),
    }
    checkpoint.write_tree(tmp_path / "x", tree)
    back = checkpoint.read_tree(tmp_path / "x")
    assert same(back, tree)
    assert back["last"].stride() == tree["last"].stride() == (60, 1, 15, 3)
    assert back["turned"].stride() == (1, 5)
    assert back["sliced"].is_contiguous()
    assert back["spread"].is_contiguous()


def test_other_tools_can_read_the_file(tmp_path):
    checkpoint.write_tree(tmp_path / "x.safetensors", {"w": {"a.b": torch.ones(2)}, "n": [1, 2]})
    assert torch.equal(load_file(tmp_path / "x.safetensors")["w/a.b"], torch.ones(2))
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        text = json.loads(file.metadata()["reverie"])
    assert text == {"version": 1, "tree": {"w": {"a.b": {"$tensor": "w/a.b"}}, "n": [1, 2]}}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", lambda: 0])
def test_what_cannot_be_kept_is_refused_by_its_path(tmp_path, value):
    with pytest.raises(TypeError, match=r"'a/1' is a \w+. Give tensors"):
        checkpoint.write_tree(tmp_path / "x", {"a": [0, value]})
    assert list(tmp_path.iterdir()) == []


class Bomb:
    """Unpickling it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_reading_runs_no_code(tmp_path, write):
    with open(tmp_path / "1.safetensors", "wb") as file:
        write(Bomb(tmp_path / "boom"), file)
    with pytest.raises(BadCheckpoint, match="torn or damaged"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "boom").exists()


# --- folders of checkpoints


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path):
    for number in range(5):
        checkpoint.save(tmp_path / "c", {"number": number})
    assert [path.name for path in checkpoint.checkpoints(tmp_path / "c")] == [
        "00000004.safetensors",
        "00000005.safetensors",
    ]
    assert checkpoint.load(tmp_path / "c") == {"number": 4}


def test_no_checkpoint(tmp_path):
    with pytest.raises(BadCheckpoint, match="holds no checkpoint. Give the folder"):
        checkpoint.load(tmp_path / "nowhere")


def test_a_torn_newest_gives_way_to_the_one_before(tmp_path, caplog):
    for number in range(2):
        path = checkpoint.save(tmp_path, {"number": number, "x": torch.ones(100)})
    whole = path.read_bytes()
    for size in (0, 7, 8, 50, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert checkpoint.load(tmp_path)["number"] == 0
        assert "is torn or damaged" in caplog.text
        assert "The checkpoint before it is used." in caplog.text
    for path in checkpoint.checkpoints(tmp_path):
        path.write_bytes(whole[:50])
    with pytest.raises(BadCheckpoint, match=r"00000001.safetensors is torn"):
        checkpoint.load(tmp_path)


def test_another_version_is_refused_not_skipped(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {})
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    checkpoint.save(tmp_path, {})
    monkeypatch.undo()
    with pytest.raises(BadCheckpoint, match="layout version 2; this Reverie reads 1"):
        checkpoint.load(tmp_path)


def test_a_foreign_file_is_refused(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "1.safetensors")
    with pytest.raises(BadCheckpoint, match="not one that Reverie wrote"):
        checkpoint.load(tmp_path)


# --- a full disk


OPERATIONS = ("open", "pwrite", "fsync", "replace", "open", "fsync")  # of one checkpoint


class Full:
    """The disk is full, or broken, at the n-th operation."""

    def __init__(self, monkeypatch, n, code=errno.ENOSPC):
        self.n, self.code, self.seen = n, code, []
        for name in set(OPERATIONS):
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name, operation):
        def wrapped(*arguments, **options):
            self.seen.append(name)
            if len(self.seen) == self.n:
                if name == "pwrite":  # half of it had room
                    descriptor, data, offset = arguments
                    operation(descriptor, data[: len(data) // 2], offset)
                raise OSError(self.code, "full")
            return operation(*arguments, **options)

        return wrapped


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("n", range(1, 7))
def test_a_full_disk_loses_nothing(tmp_path, n, code):
    checkpoint.save(tmp_path, {"number": 1})
    with pytest.MonkeyPatch.context() as patch:
        Full(patch, n, code)
        with pytest.raises(StorageFull, match="disk is full while writing .* Free some space"):
            checkpoint.save(tmp_path, {"number": 2, "x": torch.ones(1000)})
    assert list(tmp_path.glob("*.tmp")) == []
    assert checkpoint.load(tmp_path)["number"] == (1 if n <= 4 else 2)  # 5: it is in place already
    checkpoint.save(tmp_path, {"number": 3})
    assert checkpoint.load(tmp_path)["number"] == 3


def test_all_operations_are_covered_above(tmp_path, monkeypatch):
    full = Full(monkeypatch, 100)
    checkpoint.save(tmp_path, {})
    assert tuple(full.seen) == OPERATIONS


def test_other_errors_of_the_disk_stay_themselves(tmp_path, monkeypatch):
    Full(monkeypatch, 3, errno.EIO)
    with pytest.raises(OSError, match="full") as caught:
        checkpoint.save(tmp_path, {})
    assert not isinstance(caught.value, StorageFull)


def test_what_a_killed_writer_left_is_swept_away(tmp_path):
    (tmp_path / "00000001.safetensors.77.tmp").write_bytes(b"half")
    checkpoint.save(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.safetensors"]


# --- models


def random_tiny(**config):
    return make_tiny(3, TinyConfig(sizes=Sizes(**config)))


def test_a_model_is_built_again_from_its_name_and_config(tmp_path, monkeypatch):
    model, behavior = random_tiny(layers=(7, 7, 7), scale=0.1 + 0.2), nn.Linear(3, 2)
    checkpoint.save_model(tmp_path, model, {"behavior": behavior})
    monkeypatch.setattr(registry, "model", {"tiny": Tiny}.__getitem__)
    back = checkpoint.load_model(tmp_path)
    assert back.config == model.config
    assert isinstance(back.config.sizes.layers, tuple)
    assert back.observations == model.observations
    assert back.actions == model.actions
    assert not back.training
    assert same(dict(back.state_dict()), dict(model.state_dict()))
    other = nn.Linear(3, 2)
    checkpoint.load_weights(tmp_path, behavior=other)
    assert torch.equal(other.weight, behavior.weight)


def test_an_unregistered_model_needs_its_class(tmp_path):
    checkpoint.save_model(tmp_path, random_tiny())
    with pytest.raises(UnknownName, match="tiny"):
        checkpoint.load_model(tmp_path)
    assert isinstance(checkpoint.load_model(tmp_path, Tiny), Tiny)


def test_weights_of_another_model_are_refused_by_names_and_shapes(tmp_path):
    checkpoint.save_model(tmp_path, random_tiny(layers=(5, 5)))
    with pytest.raises(
        BadCheckpoint,
        match=r"is of another model than this Tiny: .*vision.0.weight has shape \(5, 3\), the model"
        r" \(9, 3\).*Build the model with the config",
    ):
        checkpoint.load_weights(tmp_path, model=random_tiny(layers=(9, 9)))
    changed = random_tiny()
    changed.added, changed.value = nn.Linear(1, 1), nn.Identity()
    with pytest.raises(BadCheckpoint, match=r"added.bias is missing.*value.bias is not in"):
        checkpoint.load_weights(tmp_path, model=changed)


def test_nothing_is_loaded_when_anything_is_wrong(tmp_path):
    checkpoint.save_model(tmp_path, random_tiny())
    model = make_tiny(9)
    model.value = nn.Linear(4, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(BadCheckpoint):
        checkpoint.load_weights(tmp_path, model=model)
    assert same(before, dict(model.state_dict()))


def test_many_differences_are_shortened(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"; 3.weight is missing and 12 more. Build"):
        checkpoint.load_state(nn.ModuleList(nn.Linear(1, 1) for _ in range(10)), {}, "'x'")


@dataclass(frozen=True)
class LaterConfig:
    inputs: int = 3
    depth: int = 1


class Later(Tiny):
    def __init__(self, config: LaterConfig, observations, actions):
        super().__init__(TinyConfig(config.inputs), observations, actions)


class Untyped(Tiny):
    def __init__(self, config, observations, actions):
        super().__init__(config, observations, actions)


def test_a_config_that_the_class_does_not_take(tmp_path):
    checkpoint.save_model(tmp_path, random_tiny())
    with pytest.raises(BadCheckpoint, match="config that this Later does not take"):
        checkpoint.load_model(tmp_path, Later)
    with pytest.raises(BadCheckpoint, match="Untyped takes no dataclass"):
        checkpoint.load_model(tmp_path, Untyped)


def test_a_model_without_config_takes_weights_only(tmp_path):
    model = random_tiny()
    del model.config
    checkpoint.save_model(tmp_path, model)
    with pytest.raises(BadCheckpoint, match="'tiny' that has no config"):
        checkpoint.load_model(tmp_path, Tiny)
    checkpoint.load_weights(tmp_path, model=make_tiny(8))


def test_what_is_not_in_the_file(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"holds no model.safetensors. A run writes it"):
        checkpoint.load_model(tmp_path)
    checkpoint.save_model(tmp_path, random_tiny())
    with pytest.raises(BadCheckpoint, match="holds model, but 'behavior' was asked for"):
        checkpoint.load_weights(tmp_path, behavior=nn.Linear(1, 1))


def test_a_full_disk_keeps_the_old_model(tmp_path):
    checkpoint.save_model(tmp_path, make_tiny(1))
    with pytest.MonkeyPatch.context() as patch:
        Full(patch, 2)
        with pytest.raises(StorageFull):
            checkpoint.save_model(tmp_path, make_tiny(2))
    back = checkpoint.load_model(tmp_path, Tiny)
    assert same(dict(back.state_dict()), dict(make_tiny(1).state_dict()))


def test_named_tuples_and_ordered_dicts_are_kept_as_plain_ones(tmp_path):
    tree = {"o": OrderedDict(a=1), "t": Layer(3, bias=True)}
    checkpoint.write_tree(tmp_path / "x", tree)
    assert same(checkpoint.read_tree(tmp_path / "x"), {"o": {"a": 1}, "t": (3, True)})
