"""The toy worlds and their true models against closed forms, brute force and hand-made numbers."""

import itertools
import time

import numpy as np
import pytest
import torch
from conformance import assert_conforms

from reverie.core.errors import BadConfig, ShapeMismatch, SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Box
from reverie.envs import rules
from reverie.envs.kalman import LinearGaussian
from reverie.envs.oracle import Grid, Lottery
from reverie.envs.toy import ORACLES, WORLDS
from reverie.imagine import rollout


def tensors(obs):
    return {name: torch.as_tensor(value) for name, value in obs.items()}


@pytest.mark.parametrize("name", WORLDS)
def test_worlds_conform(name):
    assert_conforms(lambda n: WORLDS[name](n, time_limit=25))


@pytest.mark.parametrize("name", ORACLES)
def test_worlds_and_true_models_have_the_same_spaces(name):
    options = {"observe": ["vector"]} if name in {"two_rooms", "sprites"} else {}
    world, model = WORLDS[name](1, **options), ORACLES[name]()
    assert isinstance(model, WorldModel) and model.card.name == f"toy/{name}"
    assert model.observations.keys() == world.single_observation_space.keys()
    for key, space in model.observations.items():
        assert space.shape == world.single_observation_space[key].shape
    if isinstance(model.actions, Box):
        assert model.actions.shape == world.single_action_space.shape
    else:
        assert model.actions.n == world.single_action_space.n


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clock", {}),
        ("grid", {"text": "..P\n.#.\nG.."}),
        ("two_rooms", {"observe": ["vector"]}),
        ("sprites", {"observe": ["vector"]}),
    ],
)
def test_true_models_predict_their_worlds(name, options):
    """Observation, reward and end of every step, from every state that chance reaches."""
    world = WORLDS[name](64, **options)
    model = Grid(options["text"]) if name == "grid" else ORACLES[name]()
    world.action_space.seed(0)
    obs, _ = world.reset(seed=0)
    for _ in range(world.time_limit):
        state = model.observe(None, None, model.encode(tensors(obs)))
        action = world.action_space.sample()
        obs, reward, terminated, truncated, _ = world.step(action)
        after = model.predict(state, torch.as_tensor(action))
        shown = model.heads.decode(after)["vector"]
        np.testing.assert_allclose(shown, obs["vector"], atol=1e-4)
        found = model.heads.reward(state, torch.as_tensor(action), after)
        assert (np.abs(found.numpy() - reward) > 1e-5).mean() < 0.02  # a float32 on the very rim
        if model.heads.cont is not None:
            np.testing.assert_array_equal(model.heads.cont(after) == 0, terminated)
        if (terminated | truncated).any():
            obs, _ = world.reset(options={"reset_mask": terminated | truncated})


def test_actions_outside_of_the_space_are_refused():
    world = WORLDS["grid"](2)
    world.reset()
    with pytest.raises(SpaceMismatch, match=r"integers in Discrete\(n=4\)"):
        world.step(np.array([0, 4]))
    with pytest.raises(SpaceMismatch, match="they are float64"):
        world.step(np.array([0.0, 1.0]))
    with pytest.raises(ShapeMismatch, match=r"shape \(2,\), but have \(2, 1\)"):
        world.step(np.zeros((2, 1), dtype=np.int64))


# -- clock ---------------------------------------------------------------------------------------


def test_clock_played_right_reads_t_everywhere():
    world = WORLDS["clock"](2)
    obs, _ = world.reset()
    for t in range(8):
        assert (obs["vector"] == t).all()
        obs, reward, terminated, truncated, _ = world.step(np.array([t, (t + 1) % 8]))
        assert reward.tolist() == [10 * t, -1]
        assert terminated.all() == terminated.any() == (t == 7) and not truncated.any()


# -- linear-Gaussian -----------------------------------------------------------------------------


def batch_posterior(system, actions, seen):
    """Mean and covariance of x[T] given y[0..T]: one big Gaussian, conditioned at once."""
    steps, d, p = len(seen), len(system.A), len(system.C)
    # x[t] = powers[t] x0 + sum_k A^(t-1-k) (B u[k] + w[k])
    power = [np.linalg.matrix_power(system.A, t) for t in range(steps)]
    mean = np.zeros((steps, d))
    cov = np.zeros((steps, d, steps, d))
    for t in range(steps):
        mean[t] = power[t] @ system.mean
        mean[t] += sum(power[t - 1 - k] @ system.B @ actions[k] for k in range(t))
        for s in range(steps):
            cov[t, :, s] = power[t] @ system.cov @ power[s].T
            for k in range(min(t, s)):
                cov[t, :, s] += power[t - 1 - k] @ system.Q @ power[s - 1 - k].T
    cov = cov.reshape(steps * d, steps * d)
    sees = np.kron(np.eye(steps), system.C)
    gain = cov @ sees.T @ np.linalg.inv(sees @ cov @ sees.T + np.kron(np.eye(steps), system.R))
    full = mean.reshape(-1) + gain @ (seen.reshape(-1) - sees @ mean.reshape(-1))
    return full[-d:], (cov - gain @ sees @ cov)[-d:, -d:], p


def test_the_oracle_is_the_kalman_filter():
    model, random = LinearGaussian(), np.random.default_rng(0)
    actions, seen = random.normal(size=(2, 9, 1)), random.normal(size=(2, 10, 1))
    state = model.observe(None, None, torch.as_tensor(seen[:, 0]).float())
    for t in range(9):
        h = torch.as_tensor(seen[:, t + 1]).float()
        state = model.observe(state, torch.as_tensor(actions[:, t]).float(), h)
    for row in range(2):
        mean, cov, _ = batch_posterior(model.system, actions[row], seen[row])
        np.testing.assert_allclose(state.mean[row], mean, atol=1e-5)
        np.testing.assert_allclose(state.cov[row], cov, atol=1e-6)
    np.testing.assert_allclose(model.system.filtered(10)[-1], state.cov[0], atol=1e-6)


def test_imagined_beliefs_spread_as_the_hidden_state_does(generator):
    """Law of total variance: var of imagined means + their covariance = prior covariance."""
    model, n = LinearGaussian(), 40_000
    start = model.observe(None, None, torch.full((n, 1), 0.4))
    end = rollout(model, start, torch.zeros(n, 6, 1), generator=generator).states
    system, cov = model.system, start.cov[0].numpy().astype(float)
    for _ in range(6):
        cov = system.A @ cov @ system.A.T + system.Q
    found = np.cov(end.mean[:, -1].numpy().T) + end.cov[0, -1].numpy()
    np.testing.assert_allclose(found, cov, rtol=0.03, atol=1e-5)


def test_riccati_gains_equal_a_dense_least_squares_optimum():
    """Without noise the best pushes solve one linear system in all pushes at once."""
    s, horizon = rules.LinearSystem(), 12
    moved = np.zeros((horizon, 2, horizon))  # x[t] = free[t] + moved[t] u
    free = np.stack([np.linalg.matrix_power(s.A, t) @ s.mean for t in range(horizon)])
    for t, k in itertools.product(range(horizon), repeat=2):
        if k < t:
            moved[t, :, k] = (np.linalg.matrix_power(s.A, t - 1 - k) @ s.B)[:, 0]
    hessian = np.einsum("tik,ij,tjl->kl", moved, s.W, moved) + s.U[0, 0] * np.eye(horizon)
    slope = np.einsum("tik,ij,tj->k", moved, s.W, free)
    pushes = np.linalg.solve(hessian, -slope)
    gains, costs = s.riccati(horizon)
    x, total = s.mean, 0.0
    for t in range(horizon):
        u = -gains[t] @ x
        np.testing.assert_allclose(u[0], pushes[t], atol=1e-10)
        total += x @ s.W @ x + u @ s.U @ u
        x = s.A @ x + s.B @ u
    np.testing.assert_allclose(total, s.mean @ costs[0] @ s.mean)


def test_the_lqg_optimum_is_what_the_world_pays():
    world, model, n = WORLDS["linear_gaussian"](3000, time_limit=40), LinearGaussian(), 3000
    gains = torch.as_tensor(world.system.riccati(40)[0]).float()
    obs, _ = world.reset(seed=0)
    state, action, total, pushed = None, None, np.zeros(n), 0.0
    for t in range(40):
        state = model.observe(state, action, torch.as_tensor(obs["vector"]))
        action = -state.mean @ gains[t].T
        pushed += (action.abs() > 1).float().mean().item() / 40
        obs, reward, *_ = world.step(action.numpy())
        total += reward
    error = total.std() / n**0.5
    assert abs(total.mean() - world.system.optimal_return(40)) < 3 * error < 0.1
    assert pushed < 0.01  # the limit on actions hardly ever binds


# -- grid ----------------------------------------------------------------------------------------


def test_grid_values_equal_brute_force_over_all_plans():
    """All 4^7 plans from the start; the best one reaches the goal in 7 steps: 10 - 6 = 4."""
    model = ORACLES["grid"]()
    plans = torch.tensor(list(itertools.product(range(4), repeat=7)))
    start = model.encode({"vector": torch.zeros(len(plans), 2)})
    cells = rollout(model, start, plans).states.cell
    total, alive = torch.zeros(len(plans)), torch.ones(len(plans))
    for t in range(7):
        before, after = (type(start)(cells[:, t + i]) for i in (0, 1))
        total += alive * model.heads.reward(before, plans[:, t], after)
        alive = alive * model.heads.cont(after)
    assert total.max() == 4 == model.map.values(7)[0] == model.heads.value(start)[0]
    assert model.map.values(6)[0] == -6


def test_grid_value_under_slips_by_hand():
    """Start beside the goal: q = 1 - slip + slip/4 to reach it, else -1 and again."""
    q = 0.6 + 0.4 / 4
    np.testing.assert_allclose(rules.GridMap("SG.", 0.4).values(500)[0], 10 - (1 - q) / q)
    np.testing.assert_allclose(rules.GridMap("SG.").values(3, 0.5)[0], 10)
    np.testing.assert_allclose(rules.GridMap("S.G").values(3, 0.5)[0], -1 + 0.5 * 10)


def test_grid_slips_as_often_as_it_says():
    """From the middle of a cross of floor, moving up: 1 - slip + slip/4 go up."""
    text = "...\n.S.\n..G"
    world, model, n = WORLDS["grid"](40_000, text=text, slip=0.4), Grid(text, slip=0.4), 40_000
    obs, _ = world.reset(seed=0)
    state = model.encode(tensors(obs))
    seen = world.step(np.zeros(n, dtype=np.int64))[0]["vector"]
    imagined = model.heads.decode(model.predict(state, torch.zeros(n, dtype=torch.int64)))
    for place in (seen, imagined["vector"].numpy()):
        for move, share in zip(rules.MOVES, (0.7, 0.1, 0.1, 0.1), strict=True):
            assert abs((place == np.array([1, 1]) + move).all(1).mean() - share) < 0.01
    sure = model.predict(
        type(state)(state.cell[:2]),
        torch.zeros(2, dtype=torch.int64),
        z=torch.tensor([[0.39, 0.99], [0.41, 0.99]]),
    )
    assert model.heads.decode(sure)["vector"].tolist() == [[1, 0], [0, 1]]


def test_grid_success_is_the_goal_alone_and_walls_stop():
    world = WORLDS["grid"](2, text="GSP\n###")
    world.reset()
    obs, reward, terminated, _, infos = world.step(np.array([2, 2]))  # into the wall
    assert obs["vector"].tolist() == [[0, 1]] * 2 and reward.tolist() == [-1, -1]
    _, reward, terminated, _, infos = world.step(np.array([3, 1]))
    assert reward.tolist() == [10, -10] and terminated.all()
    assert infos["success"].tolist() == [True, False]


@pytest.mark.parametrize("text", ["S.G\n..", "S.x", "...", "GG"])
def test_a_bad_map_is_refused(text):
    with pytest.raises(BadConfig, match="Mend the map"):
        rules.GridMap(text)


# -- two rooms -----------------------------------------------------------------------------------

HALF = 2**0.5  # 2 pixels along a diagonal: sqrt(2) on each axis

SLIDES = [  # position, action, door -> position, worked by hand
    ((8, 8), (0.5, -0.5), 16, (9, 7)),
    ((8, 8), (1, 1), 16, (8 + HALF, 8 + HALF)),  # scaled onto the unit disc
    ((13, 5), (1, 0), 16, (14, 5)),  # stopped by the wall's left face
    ((19, 5), (-1, 0), 16, (18, 5)),  # and by its right one
    ((13, 5), (1, 1), 16, (14, 5 + HALF)),  # slides along it
    ((13, 16), (1, 0), 16, (15, 16)),  # through the door
    ((13, 18.5), (1, 0), 16, (15, 18.5)),  # its very edge is open
    ((13, 18.6), (1, 0), 16, (14, 18.6)),
    ((15, 18), (0, 1), 16, (15, 18.5)),  # the door's side, from within
    ((15, 14), (0.5, -1), 16, (15 + 1 / 1.25**0.5, 13.5)),
    ((17, 17), (1, 0), 16, (19, 17)),  # out on the other side
    ((14, 10), (1, 0), 10, (16, 10)),  # another door
    ((14, 10), (0, 1), 16, (14, 12)),  # along the face
    ((2, 2), (-1, -1), 16, (2, 2)),  # corners
    ((29, 30), (1, 0.5), 16, (30, 30)),
]


@pytest.mark.parametrize("xp", ["numpy", "torch"])
def test_two_rooms_geometry_by_hand(xp):
    position, action, door, wanted = (np.array(x, dtype=float) for x in zip(*SLIDES, strict=True))
    if xp == "numpy":
        found = rules.slide(np, position, action, door)
    else:
        found = rules.slide(torch, *map(torch.as_tensor, (position, action, door))).numpy()
    np.testing.assert_allclose(found, wanted)


def test_two_rooms_never_enters_the_wall_and_passes_the_door():
    random = np.random.default_rng(0)
    world = WORLDS["two_rooms"](500, observe=["vector"], door="random", time_limit=400)
    world.reset(seed=0)
    started, crossed = world.position[:, 0] < 16, np.zeros(500, dtype=bool)
    heading = random.normal(size=(500, 2))
    for t in range(400):
        if t % 10 == 0:
            heading = random.normal(size=(500, 2))
        before = world.position
        world.step(heading)
        x, y = world.position.T
        assert (world.position >= 2).all() and (world.position <= 30).all()
        inside = (x > 14) & (x < 18)
        assert (np.abs(y - world.door)[inside] <= 2.5 + 1e-9).all()
        assert (np.square(world.position - before).sum(1) <= 4 + 1e-9).all()
        crossed |= (x < 14) != started
    assert crossed.mean() > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_who_slides_along_the_side_of_the_door_stays_in_it(dtype):
    """Clipping to the door's side rounds; that must not throw the dot out of the wall."""
    door = torch.linspace(6, 26, 1000, dtype=dtype)
    position = torch.stack([torch.full_like(door, 15), door], 1)
    for _ in range(4):
        position = rules.slide(torch, position, torch.tensor([[0.1, 1.0]], dtype=dtype), door)
    assert (position[:, 0] > 15).all() and (position[:, 0] < 16).all()
    torch.testing.assert_close(position[:, 1], door + 2.5)


def test_two_rooms_pictures_by_hand():
    """Dot at the centre of pixel (x 10, y 20); shade 255 exp(-1 / (2 1.3^2)) = 189.7 beside it."""
    world = WORLDS["two_rooms"](1)
    obs, _ = world.reset()
    world.position[0] = (10.5, 20.5)
    image = world._see()["image"][0]
    assert image[0, 20, 9:12].tolist() == [190, 255, 190]
    assert image[0, 19:22, 10].tolist() == [190, 255, 190]
    assert image[0, :, 17:].sum() == 0
    for wall in image[1:]:
        assert set(wall[:, 14:18].reshape(-1).tolist()) == {0, 128}
        assert wall[:, :14].sum() == wall[:, 18:].sum() == 0
        assert np.flatnonzero(wall[:, 14] == 0).tolist() == [13, 14, 15, 16, 17, 18]
    np.testing.assert_array_equal(image[1], obs["goal"][0, 1])
    row, column = np.unravel_index(obs["goal"][0, 0].argmax(), (32, 32))
    np.testing.assert_allclose(world.goal[0], (column + 0.5, row + 0.5), atol=0.51)


def test_two_rooms_oracle_draws_the_same_pictures():
    world, model = WORLDS["two_rooms"](20, door="random"), ORACLES["two_rooms"]()
    obs, _ = world.reset(seed=1)
    vector = np.concatenate([world.position, world.goal, world.door[:, None]], 1)
    drawn = model.heads.decode(model.encode({"vector": torch.as_tensor(vector).float()}))
    for name in ("image", "goal"):
        assert np.abs(drawn[name].numpy() - obs[name]).max() <= 0.51


def test_two_rooms_success_is_within_a_pixel_and_a_half():
    world = WORLDS["two_rooms"](3)
    world.reset()
    world.position[:] = world.goal[:] = (8, 8)
    world.position += [[1.5, 0], [1.06, 1.06], [1.07, 1.07]]
    _, reward, terminated, truncated, infos = world.step(np.zeros((3, 2)))
    assert infos["success"].tolist() == [True, True, False] and reward.tolist() == [1, 1, 0]
    assert not terminated.any() and not truncated.any()


@pytest.mark.parametrize(("task", "share"), [("same", 0.0), ("cross", 1.0), ("any", 0.5)])
def test_two_rooms_tasks(task, share):
    world = WORLDS["two_rooms"](4000, task=task, observe=["vector"])
    world.reset(seed=0)
    rooms = world.position[:, 0] > 16, world.goal[:, 0] > 16
    assert abs((rooms[0] != rooms[1]).mean() - share) < (0.03 if share == 0.5 else 1e-9)
    assert abs(rooms[0].mean() - 0.5) < 0.03


def test_two_rooms_refuses_unknown_words():
    for options in ({"observe": ["pixels"]}, {"door": "shut"}, {"task": "far"}, {"observe": []}):
        with pytest.raises(BadConfig, match="Choose of them"):
            WORLDS["two_rooms"](1, **options)


def test_two_rooms_steps_and_renders_tens_of_thousands_a_second():
    world = WORLDS["two_rooms"](1000, time_limit=10**6)
    world.reset()
    action = world.action_space.sample()
    world.step(action)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        world.step(action)
        times.append(time.perf_counter() - began)
    assert 1000 / min(times) > 30_000  # 300,000 on an idle core


# -- errand ---------------------------------------------------------------------------------------


def test_errand_has_the_rules_of_two_rooms_and_one_goal():
    world = WORLDS["errand"](32, observe=["image", "vector"], seed=3)
    model = ORACLES["two_rooms"]()
    obs, _ = world.reset(seed=0)
    earned = np.zeros(32)
    for _ in range(world.time_limit):
        assert (obs["vector"][:, 2:4] == rules.ERRAND).all()
        state = model.encode({"vector": torch.from_numpy(obs["vector"])})
        aim = (np.array(rules.ERRAND) - obs["vector"][:, :2]) / rules.STEP
        action = np.clip(aim, -1, 1).astype(np.float32)
        obs, reward, _, _, info = world.step(action)
        after = model.predict(state, torch.from_numpy(action))
        np.testing.assert_allclose(model.heads.decode(after)["vector"], obs["vector"], atol=1e-4)
        earned += reward
    there = np.linalg.norm(obs["vector"][:, :2] - rules.ERRAND, axis=1) < 0.1
    assert 8 < there.sum() < 32  # who began in its room; the others stand at the wall
    assert (earned[there] > 30).all() and (earned[~there] == 0).all()
    np.testing.assert_array_equal(info["success"], there)


def test_errand_draws_both_dots_where_they_are():
    world = WORLDS["errand"](16, observe=["image", "vector"], seed=3)
    obs, _ = world.reset(seed=1)
    image = obs["image"].astype(float)
    assert image.shape == (16, 3, 64, 64)
    centre = (np.arange(64) + 0.5) / 2
    for channel, column in ((0, slice(0, 2)), (1, slice(2, 4))):
        shade = image[:, channel] - image[:, 2] * (channel == 1)  # without the wall
        top = shade.reshape(16, -1).argmax(1)
        found = np.stack([centre[top % 64], centre[top // 64]], 1)
        np.testing.assert_allclose(found, obs["vector"][:, column], atol=0.5)
    with pytest.raises(BadConfig, match="Errand observe takes"):
        WORLDS["errand"](1, observe=["goal"])


# -- sprites -------------------------------------------------------------------------------------


def test_shapes_fly_straight_and_the_rim_mirrors_them():
    place, velocity = np.array([[25.5, 10.0]]), np.array([[1.0, -0.5]])
    place, velocity = rules.bounce(np, place, velocity)  # to 26.5, mirrored at 26
    assert place.tolist() == [[25.5, 9.5]] and velocity.tolist() == [[-1.0, -0.5]]
    place, velocity = rules.bounce(np, place, velocity)
    assert place.tolist() == [[24.5, 9.0]]


def test_shapes_are_equal_in_area_and_stand_out_in_every_channel():
    cover = rules.draw_shape(np, np.full((4, 2), 16.0), np.arange(4))
    np.testing.assert_allclose(cover.sum((1, 2)), 78, atol=2)  # brightness does not tell them
    centre = (cover * (np.arange(32) + 0.5)).sum((1, 2)) / cover.sum((1, 2))
    np.testing.assert_allclose(centre, 16)
    colour, ground = rules.draw_colours(np.random.default_rng(0), 500)
    away = np.minimum(abs(colour - 108), abs(colour - 148))
    assert away.min() > 60 and 0.4 < (colour > 128).mean() < 0.6
    assert ground.min() >= 108 and ground.max() <= 148


# -- bandit and lottery --------------------------------------------------------------------------


def test_bandit_means():
    world, model = WORLDS["bandit"](40_000), ORACLES["bandit"]()
    for arm, mean in enumerate((0.1, -0.4, 0.9, 0.5)):
        obs, _ = world.reset(seed=arm)
        action = np.full(40_000, arm)
        _, reward, terminated, truncated, _ = world.step(action)
        assert abs(reward.mean() - mean) < 0.01 and abs(reward.std() - 0.5) < 0.01
        assert terminated.all() and not truncated.any()
        state = model.encode(tensors(obs))
        after = model.predict(state, torch.as_tensor(action))
        assert model.heads.reward(state, torch.as_tensor(action), after)[0] == pytest.approx(mean)
        assert model.heads.reward(after, torch.as_tensor(action), after)[0] == 0
    assert model.heads.value(state)[0] == pytest.approx(0.9)


def test_lottery_means_in_the_world_and_in_its_model(generator):
    world, model, n = WORLDS["lottery"](40_000), Lottery(), 40_000
    for arm, mean in enumerate((1.0, 0.8 * 2 - 0.2 * 10, 0.0)):
        obs, _ = world.reset(seed=arm)
        action = np.full(n, arm)
        _, reward, terminated, _, _ = world.step(action)
        state = model.encode(tensors(obs))
        after = model.predict(state, torch.as_tensor(action), generator=generator)
        prize = model.heads.reward(state, torch.as_tensor(action), after)
        assert abs(reward.mean() - mean) < 0.08 and abs(prize.mean().item() - mean) < 0.08
        assert terminated.all() and (model.heads.cont(after) == 0).all()
        again = model.predict(after, torch.as_tensor((action + 1) % 3), generator=generator)
        assert torch.equal(again.x, after.x)  # what was drawn stays


def test_lottery_fools_whoever_plans_with_the_likeliest_or_the_mean_outcome():
    model, arms = Lottery(), torch.arange(3)
    state = model.encode({"vector": torch.zeros(3, 2)})
    draws = torch.linspace(0.0005, 0.9995, 1000)
    outcomes = [model.predict(state, arms, z=z.expand(3)) for z in draws]
    prizes = torch.stack([model.heads.reward(state, arms, after) for after in outcomes])
    x = torch.stack([after.x for after in outcomes])
    assert prizes.mean(0).argmax() == 0
    np.testing.assert_allclose(prizes.mean(0), rules.LOTTERY_MEANS, atol=1e-5)
    likeliest = outcomes[0]._replace(x=x.mode(0).values)
    assert model.heads.reward(state, arms, likeliest).argmax() != 0
    mean = outcomes[0]._replace(x=x.mean(0))
    np.testing.assert_allclose(model.heads.reward(state, arms, mean), [1.0, 1.2, 3.0], atol=1e-4)


def test_no_episode_of_two_rooms_begins_at_its_goal():
    env = WORLDS["two_rooms"](4000, observe=("vector",), seed=0)
    x = env.reset(seed=3)[0]["vector"]
    assert np.hypot(*(x[:, :2] - x[:, 2:4]).T).min() > rules.REACH
