import threading

import numpy as np
import pytest
import torch

from reverie.core.errors import BadCheckpoint, BadConfig, BadData, SpaceMismatch
from reverie.core.types import Box, Discrete, check_batch
from reverie.data.episode import Episode
from reverie.data.sample import Buffers, Sampler
from reverie.data.store import Store
from reverie.data.strategy import Prioritized, Recent, Uniform

ACTIONS = Discrete(1000)


def clock(index, steps):
    """The clock world: o[t] = t, a[t] = t, r[t] = 10 t; episodes 1,000 apart. Off by one fails."""
    t = np.arange(steps + 1) + 1000 * index
    return Episode(
        obs={
            "vector": t[:, None].astype("f4"),
            "image": np.full((steps + 1, 1, 2, 2), index, "u1"),
        },
        action=t[:-1] % 1000,
        reward=10 * t[:-1].astype("f4"),
        terminated=np.arange(steps) == (steps - 1 if index % 2 else -1),
        truncated=np.arange(steps) == (steps - 1 if index % 2 == 0 else -1),
        extra={"value": t[:-1].astype("f4")},
    )


def create(path, lengths, actions=ACTIONS):
    spaces = {"vector": Box((1,)), "image": Box((1, 2, 2), 0, 255, "uint8")}
    store = Store.create(path, spaces, actions, {"value": Box(())})
    for i, steps in enumerate(lengths):
        store.append(clock(i, steps))
    return store


def check_clock(batch, lengths):
    """Every transition that the mask keeps is one of the clock world's; every seam is masked."""
    seen = batch.obs["vector"][..., 0]
    before, after = seen[:, :-1], seen[:, 1:]
    mask = batch.mask
    assert torch.equal(mask, after == before + 1)
    assert torch.equal(batch.action[mask].float(), before[mask] % 1000)
    assert torch.equal(batch.reward[mask], 10 * before[mask])
    assert torch.equal(batch.extra["value"][mask], before[mask])
    assert torch.equal(batch.first, seen % 1000 == 0)
    assert torch.equal(~mask, batch.first[:, 1:])
    episode = (before // 1000).long()
    last = before % 1000 == torch.tensor(lengths)[episode] - 1
    assert torch.equal(batch.terminated, mask & last & (episode % 2 == 1))
    assert torch.equal(batch.truncated, mask & last & (episode % 2 == 0))
    assert torch.equal(batch.obs["image"][..., 0, 0, 0].float(), seen // 1000)


LENGTHS = [1, 7, 3, 12, 2, 9]


def equal(a, b):
    return all(torch.equal(a.obs[n], b.obs[n]) for n in a.obs) and torch.equal(a.action, b.action)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("length", [1, 4, 20])
def test_packed_segments_keep_time(tmp_path, length, prefetch):
    store = create(tmp_path / "s", LENGTHS)
    sampler = Sampler(store, 8, length, prefetch=prefetch)
    for _ in range(20):
        batch = next(sampler)
        check_clock(batch, LENGTHS)
        check_batch(batch, store.observations, store.actions)
        assert batch.obs["image"].dtype == torch.uint8 and batch.action.dtype == torch.int64
        assert all(x.is_contiguous() for x in (*batch.obs.values(), batch.action, batch.mask))


def test_unpacked_segments_stay_inside_episodes(tmp_path):
    sampler = Sampler(create(tmp_path / "s", LENGTHS), 64, 3, packed=False)
    starts = set()
    for _ in range(20):
        batch = next(sampler)
        check_clock(batch, LENGTHS)
        assert batch.mask.all()
        starts |= set(batch.obs["vector"][:, 0, 0].int().tolist())
    # by hand: every start that leaves three steps in its episode
    assert starts == {*range(1000, 1005), 2000, *range(3000, 3010), *range(5000, 5007)}


def test_uniform_draws_every_segment_alike(tmp_path):
    store = create(tmp_path / "s", [3, 2])  # 7 rows: 5 segments of 2 transitions
    sampler = Sampler(store, 100, 2)
    counts = np.zeros(7)
    for _ in range(100):
        seen = next(sampler).obs["vector"][:, 0, 0]
        np.add.at(counts, (seen % 1000 + 4 * (seen >= 1000)).int().numpy(), 1)
    assert counts[5:].sum() == 0
    assert np.abs(counts[:5] - 2000).max() < 5 * np.sqrt(10_000 * 0.2 * 0.8)


def test_single_observations(tmp_path):
    store = create(tmp_path / "s", LENGTHS)
    batch = next(Sampler(store, 500, 0, modalities=["vector"]))
    assert set(batch.obs) == {"vector"}
    assert batch.obs["vector"].shape == (500, 1, 1)
    assert batch.action.shape == batch.mask.shape == (500, 0)
    assert len(batch.obs["vector"].unique()) == store.rows


def test_the_same_seed_gives_the_same_batches(tmp_path):
    store = create(tmp_path / "s", LENGTHS)
    a, b, c = (Sampler(store, 8, 4, seed=s, prefetch=p) for s, p in ((3, 0), (3, 4), (4, 0)))
    ours = [next(a) for _ in range(10)]
    assert all(equal(x, next(b)) for x in ours)
    assert not any(equal(x, next(c)) for x in ours)


def test_gathering_is_done_by_another_thread(tmp_path, monkeypatch):
    threads = set()
    real = np.take

    def take(*args, **kwargs):
        threads.add(threading.current_thread().name)
        return real(*args, **kwargs)

    monkeypatch.setattr(np, "take", take)
    sampler = Sampler(create(tmp_path / "s", LENGTHS), 8, 4)
    next(sampler)
    sampler.close()
    assert threads == {"reverie-sampler_0"}


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("strategy", [Uniform, lambda: Recent(10), Prioritized])
def test_a_resumed_sampler_goes_on_exactly(tmp_path, strategy, prefetch):
    """While the store grows and priorities change; batches that were ahead are not lost."""

    def run(store, sampler, steps, out):
        for k in steps:
            out.append(next(sampler))
            if isinstance(sampler.strategy, Prioritized):
                sampler.update(sampler.last.index, sampler.last.index % 3 + 0.5)
            if k % 3 == 0:
                store.append(clock(len(store), 2 + k % 5))

    def make(store):
        return Sampler(store, 4, 3, strategy=strategy(), prefetch=prefetch, seed=7)

    whole, halves = [], []
    store = create(tmp_path / "a", LENGTHS)
    run(store, make(store), range(20), whole)
    store = create(tmp_path / "b", LENGTHS)
    sampler = make(store)
    run(store, sampler, range(9), halves)
    state, episodes = sampler.state_dict(), len(store)
    run(store, sampler, range(9, 13), [])  # what a crash undoes
    sampler.close()
    store.close()
    store = Store.open(tmp_path / "b", writable=True)
    store.truncate(episodes)
    sampler = make(store)
    sampler.load_state_dict(state)
    run(store, sampler, range(9, 20), halves)
    assert len(whole) == len(halves) == 20
    assert all(equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_anothers_state_is_refused(tmp_path):
    store = create(tmp_path / "s", LENGTHS)
    sampler = Sampler(store, 4, 3, seed=1)
    next(sampler)
    state = sampler.state_dict()
    with pytest.raises(BadCheckpoint, match="has seed 2, but the checkpoint has 1"):
        Sampler(store, 4, 3, seed=2).load_state_dict(state)
    with pytest.raises(BadCheckpoint, match="Priorities were asked for"):
        Sampler(store, 4, 3, seed=1, strategy=Prioritized()).load_state_dict(state)
    store.truncate(1)
    with pytest.raises(BadCheckpoint, match="but the stores hold 0. Resume with the data"):
        Sampler(store, 4, 3, seed=1).load_state_dict(state)


# --- several stores -------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_several_stores_are_one(tmp_path, packed):
    stores = [create(tmp_path / "a", [5]), create(tmp_path / "b", [0 + 4, 6])]
    sampler = Sampler(stores, 64, 2, packed=packed)
    seen = set()
    for _ in range(20):
        batch = next(sampler)
        first = batch.obs["vector"][..., 0]
        assert torch.equal(batch.mask, first[:, 1:] == first[:, :-1] + 1)
        assert torch.equal(batch.action[batch.mask].float(), first[:, :-1][batch.mask] % 1000)
        seen |= set(sampler.last.index.tolist())
    # by hand: 6 rows and 12 rows give 4 and 10 packed segments; 4 + (3 + 5) unpacked
    assert seen == set(range(14 if packed else 12))


def test_stores_that_differ_are_refused(tmp_path):
    a, b = create(tmp_path / "a", [5]), create(tmp_path / "b", [5], actions=Discrete(2000))
    with pytest.raises(SpaceMismatch, match=r"has actions Discrete\(n=2000\) and"):
        Sampler([a, b], 4, 2)
    a.add_observations({"z": Box(())}, lambda r: {"z": r["vector"][:, 0]})
    c = create(tmp_path / "c", [5])
    Sampler([a, c], 4, 2, modalities=["vector"])
    with pytest.raises(SpaceMismatch, match=r"Observations \['z'\] were asked for, but"):
        Sampler([a, c], 4, 2)


# --- bad input ------------------------------------------------------------------------------------


def test_no_data_is_refused_until_there_is_some(tmp_path):
    store = create(tmp_path / "s", [])
    sampler = Sampler(store, 4, 3)
    with pytest.raises(BadData, match="has none \\(0 episodes, 0 steps\\). Collect more"):
        next(sampler)
    store.append(clock(0, 2))
    with pytest.raises(BadData, match="Segments of 3 transitions .* has none \\(1 episodes, 2"):
        next(sampler)
    store.append(clock(1, 2))
    check_clock(next(sampler), [2, 2])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 0}, "Sampler.batch must be at least 1, but it is 0"),
        ({"length": -1}, "Sampler.length must be at least 0"),
        ({"seed": -1}, "Sampler.seed must be at least 0"),
        ({"prefetch": -1}, "Sampler.prefetch must be at least 0"),
        ({"stores": []}, "Sampler.stores must be at least 1"),
        ({"strategy": "best"}, "there are 'uniform', 'recent' and objects"),
    ],
)
def test_bad_numbers_are_refused(tmp_path, changes, sentence):
    store = create(tmp_path / "s", [5])
    with pytest.raises(BadConfig) as caught:
        Sampler(**{"stores": store, "batch": 2, "length": 2, **changes})
    assert sentence in str(caught.value)


def test_an_unknown_modality_is_refused(tmp_path):
    with pytest.raises(SpaceMismatch, match=r"\['depth'\] were asked for, but .* \['image', 'vec"):
        Sampler(create(tmp_path / "s", [5]), 2, 2, modalities=("depth",))


# --- strategies -----------------------------------------------------------------------------------


def frequencies(strategy, count, n=200_000):
    draw = strategy.draw(np.random.default_rng(0), count, n)
    assert draw.index.min() >= 0 and draw.index.max() < count
    counts = np.bincount(draw.index, minlength=count)
    np.testing.assert_allclose(np.bincount(draw.index, draw.weight, count) * count / n, 1, rtol=0.1)
    return counts / n


def test_recent_halves_with_age():
    found = frequencies(Recent(half_life=2), 6)
    wanted = 0.5 ** (np.arange(5, -1, -1) / 2)
    np.testing.assert_allclose(found, wanted / wanted.sum(), atol=0.005)


def test_prioritized_draws_in_proportion():
    strategy = Prioritized(exponent=1.0, floor=1e-9)
    np.testing.assert_allclose(frequencies(strategy, 5), 0.2, atol=0.005)
    strategy.update(np.arange(5), np.array([1.0, 2.0, 3.0, 4.0, 0.5]))
    # a new segment gets the highest priority so far, 4
    wanted = np.array([1, 2, 3, 4, 0.5, 4]) / 14.5
    np.testing.assert_allclose(frequencies(strategy, 6), wanted, atol=0.005)
    half = Prioritized(exponent=0.5, floor=1e-9)
    frequencies(half, 2)
    half.update(np.array([0, 1]), np.array([1.0, 9.0]))
    np.testing.assert_allclose(frequencies(half, 2), [0.25, 0.75], atol=0.005)


def test_prioritized_forgets_what_a_store_forgot():
    strategy = Prioritized(exponent=1.0)
    strategy.draw(np.random.default_rng(0), 100, 1)
    strategy.update(np.arange(100), np.full(100, 50.0))
    np.testing.assert_allclose(frequencies(strategy, 3), 1 / 3, atol=0.005)


@pytest.mark.parametrize(
    ("index", "priority", "sentence"),
    [
        ([0], [np.nan], "must be finite and not negative"),
        ([0], [-1.0], "must be finite and not negative"),
        ([9], [1.0], "among 3. Use the index"),
        ([0, 1], [1.0], "Priorities of \\(2,\\) segments"),
    ],
)
def test_bad_priorities_are_refused(index, priority, sentence):
    strategy = Prioritized()
    strategy.draw(np.random.default_rng(0), 3, 1)
    with pytest.raises(BadData, match=sentence):
        strategy.update(np.array(index), np.array(priority))


def test_priorities_need_a_strategy_that_has_them(tmp_path):
    sampler = Sampler(create(tmp_path / "s", [5]), 2, 2)
    next(sampler)
    with pytest.raises(BadConfig, match="the strategy is Uniform. Make the sampler with"):
        sampler.update(sampler.last.index, torch.ones(2))
    with pytest.raises(BadConfig, match="half_life must be positive"):
        Recent(0)
    with pytest.raises(BadConfig, match="floor > 0"):
        Prioritized(floor=0)


def test_buffers_come_back_only_when_nothing_shares_them():
    buffers, shape = Buffers(), (4, 3)
    first = buffers.empty(shape, np.dtype(np.float32))
    address, view = first.data_ptr(), first[1:]
    del first
    second = buffers.empty(shape, np.dtype(np.float32))
    assert second.data_ptr() != address  # a view still shares the first
    del view
    third = buffers.empty(shape, np.dtype(np.float32))
    assert third.data_ptr() == address
    held = third.numpy()
    del third
    assert buffers.empty(shape, np.dtype(np.float32)).data_ptr() != address
    assert held.ctypes.data == address
