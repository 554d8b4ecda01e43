"""The page of a run: films against hand-worked worlds, honest words, and a page that is whole."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reverie import checkpoint
from reverie.core.errors import BadCheckpoint, BadData, MissingHead, SpaceMismatch
from reverie.core.model import WorldModel
from reverie.core.types import Box, Card, Discrete, Heads
from reverie.data.episode import Episode
from reverie.data.store import Store
from reverie.evaluate import curves, figures, film, report
from reverie.evaluate.control import Control
from reverie.evaluate.statistics import Interval
from reverie.models import world_models_2018

PIXELS = {"image": Box((3, 8, 6), 0, 255, "uint8")}
VECTOR = {"vector": Box((2,), -100, 100)}


class State(NamedTuple):
    x: Tensor  # (B,) grey level of the picture
    seen: Tensor  # (B,) how many frames were observed in this episode


class Counter(WorldModel[State]):
    """A world in which a grey picture gets brighter by the action; `drift` is the model's error."""

    card = Card(
        "counter", "Counter", "oracle", "x", "none", "none", "none", (), ("decode",), "none"
    )

    def __init__(self, drift: float = 0, observations=PIXELS, **heads) -> None:
        super().__init__()
        self.observations, self.actions = observations, Discrete(3)
        self.drift, self._heads = drift, heads

    def encode(self, obs):
        return next(iter(obs.values())).float().flatten(1)[:, 0]

    def observe(self, state, action, h, *, first=None, generator=None):
        before = torch.zeros_like(h) if state is None else state.seen
        if first is not None:
            before = before * ~first
        return State(h, before + 1)

    def predict(self, state, action, *, z=None, generator=None):
        return State(state.x + action + self.drift, state.seen)

    def _decode(self, s):
        (name, space), *_ = self.observations.items()
        shape = (-1, *[1] * len(space.shape))
        return {name: s.x.view(shape).expand(-1, *space.shape)}

    @property
    def heads(self):
        return Heads("Counter", **{"decode": self._decode, **self._heads})


def counting(actions, start=10, space=PIXELS) -> Episode:
    """An episode of the world in which `Counter` with drift 0 is right."""
    level = start + np.concatenate([[0], np.cumsum(actions)])
    (name, box), *_ = space.items()
    shape = (-1, *[1] * len(box.shape))
    frames = np.broadcast_to(level.reshape(shape), (len(level), *box.shape)).astype(box.dtype)
    ended = np.zeros(len(actions), bool)
    ended[-1] = True
    reward = np.asarray(actions, np.float32)
    flags = np.zeros(len(actions), bool)
    return Episode({name: frames}, np.asarray(actions, np.int64), reward, ended, flags)


# --- films ----------------------------------------------------------------------------------------


def test_a_right_model_dreams_what_happened():
    frames = film.dream_beside_reality(Counter(), counting([1, 2, 0, 1, 2, 2]), 4)
    assert frames.shape == (4, 3, 8, 12)
    assert frames.dtype == np.uint8
    assert frames[:, 0, 0, 0].tolist() == [13, 14, 16, 18]  # 10 + 1 + 2, then + 0, 1, 2, 2
    assert (frames[..., :6] == frames[..., 6:]).all()


def test_a_wrong_model_drifts_by_its_error_each_step():
    frames = film.dream_beside_reality(Counter(drift=3), counting([1, 1, 1, 1]), 3).astype(int)
    assert (frames[..., 6:] - frames[..., :6])[:, 0, 0, 0].tolist() == [3, 6, 9]


def test_a_store_gives_its_last_episode_and_a_short_one_is_dreamed_whole(tmp_path):
    with Store.create(tmp_path / "s", PIXELS, Discrete(3)) as store:
        with pytest.raises(BadData, match="is empty"):
            film.dream_beside_reality(Counter(), store, 4)
        store.append(counting([0, 0, 0]))
        store.append(counting([2, 2], start=50))
        assert film.dream_beside_reality(Counter(), store, 9)[:, 0, 0, 0].tolist() == [52, 54]


def test_the_model_sees_all_before_the_start_and_nothing_after():
    lent = {"cont": lambda s: s.seen / 100, "reward": lambda s, a, n: n.x - s.x}
    made = film.film(Counter(drift=1, **lent), counting([1, 2, 1, 0, 2]), 2, dreams=3)
    assert (made.start, made.steps, made.ended) == (3, 2, True)
    np.testing.assert_allclose(made.cont, np.full((3, 2), 0.04))  # obs[0] .. obs[3]
    np.testing.assert_allclose(made.dream_reward, [[1, 3]] * 3)
    assert made.reward.tolist() == [0, 2]
    assert made.dream["image"].shape == (3, 3, 3, 8, 6)


def test_pixels_out_of_range_are_cut():
    frames = film.dream_beside_reality(Counter(drift=200), counting([1, 1, 1]), 3)
    assert frames[:, 0, 0, -1].tolist() == [211, 255, 255]


def test_what_cannot_be_filmed_is_refused():
    with pytest.raises(MissingHead, match="film of a dream needs decode"):
        film.film(Counter(decode=None), counting([1]))
    with pytest.raises(MissingHead, match="Counter draws vector, and none of it is an image"):
        film.dream_beside_reality(Counter(0, VECTOR), counting([1], space=VECTOR), 1)
    with pytest.raises(SpaceMismatch, match="reads observation 'image'"):
        film.film(Counter(), counting([1], space=VECTOR))
    silent = counting([1])
    silent = Episode(silent.obs, None, None, silent.terminated, silent.truncated)
    with pytest.raises(SpaceMismatch, match="recorded without"):
        film.film(Counter(), silent)
    with pytest.raises(BadData, match="0 steps"):
        film.film(Counter(), counting([1]), 0)


def test_a_reconstruction_is_what_the_model_keeps():
    seen = {"image": np.full((2, 3, 8, 6), 7, np.uint8)}
    assert (film.reconstruct(Counter(), seen)["image"] == 7).all()


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "value", "colour"),
    [
        (1, 9, [9, 9, 9]),
        (3, 9, [9, 9, 9]),
        (6, 9, [9, 9, 9]),
        (2, 1, [240, 240, 240]),  # both layers are on: the brighter colour of each channel
    ],
)
def test_any_picture_has_colours(channels, value, colour):
    frames = np.full((5, channels, 2, 2), value, np.uint8)
    frames[:, : max(0, channels - 3)] = 1 if channels == 2 else 100
    assert film.rgb(frames)[0, :, 0, 0].tolist() == colour


def test_floats_are_shares_of_white():
    assert film.rgb(np.full((1, 2, 2), 0.5, np.float32))[:, 0, 0].tolist() == [128] * 3


def test_difference_is_the_mean_over_colours():
    a, b = np.zeros((3, 1, 1), np.uint8), np.array([30, 0, 0], np.uint8).reshape(3, 1, 1)
    assert film.difference(a, b).ravel().tolist() == [10] * 3
    assert film.difference(a, b, 100).ravel().tolist() == [255] * 3


def test_a_gif_keeps_frames_order_and_small_bright_things(generator):
    frames = torch.randint(80, 100, (6, 3, 32, 32), generator=generator).numpy().astype(np.uint8)
    frames[:, :, 5, 5] = np.array([255, 230, 40])
    frames[:, :, 0, 0] = np.arange(6)[:, None] * 40
    image = Image.open(io.BytesIO(film.gif(frames, fps=10, hold=1)))
    assert (image.n_frames, image.info["loop"]) == (6, 0)
    for i in range(6):
        image.seek(i)
        assert image.info["duration"] == (1100 if i == 5 else 100)
        shown = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(shown[5, 5] - [255, 230, 40]).max() <= 12
        assert np.abs(shown[0, 0] - i * 40).max() <= 16


def test_a_strip_grows_by_whole_factors_and_its_cells_are_equal():
    frames = np.stack([np.full((3, 8, 6), 50 * i, np.uint8) for i in range(4)])
    image = Image.open(io.BytesIO(film.strip(frames, height=20)))
    assert image.height == 24
    assert image.width % 4 == 0
    middles = np.asarray(image)[12, image.width // 8 :: image.width // 4]
    assert middles.tolist() == [[50 * i, 50 * i, 50 * i, 255] for i in range(4)]


# --- curves ---------------------------------------------------------------------------------------


def write_rows(path: Path, rows, tail: str = "") -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n" + tail)
    return path


def test_metrics_are_read_by_stage_and_torn_lines_are_counted(tmp_path):
    rows = [
        {"stage": "a", "update": 10, "seconds": 4.0, "p/x": 1.5, "p/y": None},
        {"stage": "a", "update": 20, "seconds": 6.0, "p/x": 1.0, "p/y": 2},
        {"stage": "b", "update": 1, "seconds": 9.5, "best": 3.0},
        {"stage": "b", "update": 1, "seconds": 10.0, "finish/real": 7.0},
    ]
    log = curves.read(write_rows(tmp_path / "m", rows, 'nonsense\n[1]\n{"stage": "b", "upd'))
    assert log.torn == 3
    assert log.seconds == {"a": 6.0, "b": 4.0}
    assert log.stages[0].series == {"p/x": ([10, 20], [1.5, 1.0]), "p/y": ([20], [2.0])}
    assert log.stages[1].last == {"real": 7.0}
    shown = "".join(curves.show(log, {"a": 20, "b": 5, "c": 3}, log.seconds))
    assert "20 updates, 6.0 s" in shown
    assert "1 of 5 updates" in shown
    assert "At the end: real 7" in shown
    assert "3 lines were torn" in shown
    assert "Stage &#x27;c&#x27; has not logged anything yet." in shown


def test_numbers_that_belong_together_share_a_plot():
    x = [1.0, 2.0]
    series = {name: (x, [1.0, 2.0]) for name in ("best", "mean", "worst", "sigma")}
    main, aside = curves.plots(curves.Curves("c", 2, 1.0, series))
    assert [re.search('aria-label="(.*?) against', plot)[1] for plot in main] == [
        "best, mean, worst",
        "sigma",
    ]
    assert not aside


def test_a_total_of_one_term_is_not_drawn_twice_and_steps_stand_aside():
    x, y = [1.0, 2.0], [3.0, 1.0]
    series = {"v/error": (x, y), "v/total": (x, y), "v/lr": (x, y), "v/grad_norm": (x, y)}
    main, aside = curves.plots(curves.Curves("v", 2, 1.0, series))
    assert (len(main), len(aside)) == (1, 2)
    assert "error against" in main[0]


def test_many_points_become_a_mean_in_a_band():
    x = np.arange(6000.0)
    line = curves.thinned(x, np.where(x % 2 == 0, 1.0, 3.0))
    np.testing.assert_allclose(line.y, 2.0)
    assert (line.low, line.high) == ((1.0,) * curves.BINS, (3.0,) * curves.BINS)
    assert line.x[0] == 24.5  # the mean of 0 .. 49


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.24, "0.2 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_as_people_say_them(seconds, said):
    assert curves.duration(seconds) == said


# --- plots ----------------------------------------------------------------------------------------


def test_plots_are_whole_svg_and_leave_colours_to_the_page():
    bars = [
        figures.Bar("ours <1>", 5, 4, 6, "real", (1.0, 9.0)),
        figures.Bar("random", -2, -3, -1, "muted"),
    ]
    plots = [
        figures.scores(bars, "points & more", width=350),
        figures.lines([figures.Line([1, 2], [0.1, 10], [0.05, 5], [1, 20])], "t", log_y=True),
        figures.lines([figures.Line([1], [2])], "one point"),
        figures.lines(
            [figures.Line([0.1, 1], [1, 2], [0, 1], [2, 3], "a", "dream", dots=True)],
            "t",
            xticks=[0.1, 1],
        ),
    ]
    for plot in plots:
        ElementTree.fromstring(plot)
        assert not re.search(r"(fill|stroke): #", plot)
        assert "DejaVu" not in plot
    assert plots[0] == figures.scores(bars, "points & more", width=350)


def test_labels_on_a_crowded_axis_move_down_a_line():
    assert figures._staggered([0.1, 1, 1.15, 1.3], 280) == ["0.1", "1", "\n1.15", "1.3"]
    assert figures._staggered([0.1, 1, 10], 280) == ["0.1", "1", "10"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (1234.4, "1,234"), (0.01234, "0.0123"), (-99.96, "-100"), (3.2e-5, "3.2e-05")],
)
def test_numbers_as_people_write_them(value, said):
    assert figures.number(value) == said


# --- words ----------------------------------------------------------------------------------------


def test_the_verdict_is_no_stronger_than_the_intervals():
    ours = Interval(10, 8, 12)
    others = {"random": Interval(2, 1, 3), "sweep": Interval(7, 6, 8), "best": Interval(20, 19, 21)}
    assert report._verdict(ours, others) == (
        "The interval lies above that of “random” (2), lies below that of “best” (20) "
        "and touches that of “sweep” (7)."
    )
    assert "says little by itself" in report._verdict(ours, {})


# --- pages ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, what they refer to, and the text that people read."""

    VOID = frozenset(("meta", "img", "source", "br", "path", "use", "rect"))

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def pictures(self, kind: str) -> list[Image.Image]:
        start = f"data:image/{kind};base64,"
        data = [link.removeprefix(start) for link in self.links if link.startswith(start)]
        return [Image.open(io.BytesIO(base64.b64decode(one, validate=True))) for one in data]


def control(name: str, mean: float, n: int = 20) -> dict:
    returns = tuple(mean + float(i % 5) for i in range(n))
    return Control(name, returns, (4,) * n, (True,) * n, 1.0).to_json()


def evaluation(**more) -> dict:
    return {
        "environment": "doom/take_cover",
        "unit": "tics survived",
        "scores": [control("ours", 800), control("random", 280), control("blind sweep", 799)],
        **more,
    }


def doom_like(steps: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (steps + 1, 3, 64, 64), dtype=np.uint8)
    flags = np.zeros(steps, bool)
    ended = flags.copy()
    ended[-1] = True
    reward = np.ones(steps, np.float32)
    return Episode({"image": frames}, rng.integers(3, size=steps), reward, ended, flags)


def about(folder: Path, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    value = {
        "name": "tiny.recipe",
        "seed": 7,
        "environment": "doom/take_cover",
        "config": {"vision": {"lr": 0.001}},
        "stages": {"vision": 20, "controller": 2},
        "versions": {"torch": "2.0"},
        **more,
    }
    (folder / "run.json").write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that has everything."""
    folder = about(tmp_path_factory.mktemp("runs") / "whole")
    torch.manual_seed(0)
    model = world_models_2018.small()
    checkpoint.save_model(folder, model, {"behavior": torch.nn.Linear(3, 2)})
    for name, seeds in (("data", (0, 1)), ("played", (2, 3, 4))):
        with Store.create(folder / name, model.observations, model.actions) as store:
            for seed in seeds:
                store.append(doom_like(5 + seed, seed))
    rows = [
        {"stage": "vision", "update": 10 * i, "seconds": 2.0 * i, "vision/kl": 1 / i}
        for i in (1, 2)
    ]
    rows.append(
        {"stage": "controller", "update": 2, "seconds": 5.0, "best": 2, "mean": 1, "worst": 0}
    )
    write_rows(folder / "metrics.jsonl", rows)
    sweep = [
        {
            "temperature": tau,
            "dream": {"value": 9, "low": 8, "high": 10},
            "real": control("", 5)["score"],
        }
        for tau in (1.0, 0.1)
    ]
    more = {"dream": {"value": 900, "low": 890, "high": 910}, "temperature": sweep, "task": "Live."}
    (folder / "evaluation.json").write_text(json.dumps(evaluation(**more)))
    assert report.write(folder) == folder / "report.html"
    return folder


def test_a_page_needs_no_other_file(whole):
    page = Page(whole / "report.html")
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", page.source)
    assert '<meta name="viewport"' in page.source
    assert "prefers-color-scheme: dark" in page.source


def test_a_page_says_what_was_reached_and_beside_whom(whole):
    text = Page(whole / "report.html").text
    assert "802 tics survived" in text  # 800 + the mean of 0..4
    assert "Mean of 20 whole episodes of “ours” in doom/take_cover, 95% interval" in text
    assert "lies above that of “random” (282) and touches that of “blind sweep” (801)" in text
    for word in ("ours", "random", "blind sweep", "the same agent in its dream", "Live."):
        assert word in text
    assert "2.84 times" in text  # 802 / 282
    assert "100%" in text


def test_a_page_shows_its_sections_in_order(whole):
    page = Page(whole / "report.html")
    titles = re.findall("<h2>(.*?)</h2>", page.source)
    assert titles == [
        "How well it acts",
        "What was run",
        "How it learned",
        "What it sees",
        "Its dream beside reality",
        "Temperature",
    ]
    text = page.text
    for fact in ("reverie train tiny.recipe --seed 7", "vision.lr", "World Models", "behavior 8"):
        assert fact in text
    assert "2 episodes, 11 steps" in text
    assert re.findall("<h3>(.*?)<", page.source) == ["vision", "controller"]
    assert 'class="note"' not in page.source


def test_every_picture_is_whole_and_is_explained_in_two_sentences(whole):
    page = Page(whole / "report.html")
    gifs = page.pictures("gif")
    assert [(image.size, image.n_frames) for image in gifs] == [((64, 64), 9), ((128, 64), 9)]
    for image in page.pictures("png"):
        image.load()
    captions = re.findall("<figcaption>(.*?)</figcaption>", page.source, flags=re.S)
    assert len(captions) == page.tags.count("figure") == 8
    for caption in captions:
        assert len(re.findall(r"[.](?:\s|$)", caption)) == 2, caption


def test_a_page_is_the_same_when_it_is_made_again(whole):
    before = (whole / "report.html").read_bytes()
    report.write(whole)
    assert (whole / "report.html").read_bytes() == before


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(
        BadCheckpoint, match=r"nowhere holds no run \(no run.json\). Give the folder"
    ):
        report.write(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(BadCheckpoint, match="run.json is damaged"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_what_is_missing_is_said_and_nothing_is_broken(tmp_path):
    page = Page(report.write(about(tmp_path)))
    assert "not scored yet" in page.text
    assert "has not been evaluated yet" in page.text
    assert "Nothing was logged yet" in page.text
    assert page.text.count("holds no model.safetensors") == 2
    assert page.text.count("This run keeps no episodes in data/.") == 2
    assert not {"img", "svg"} & set(page.tags)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "evaluation.json is damaged"),
        ("[]", "evaluation.json is damaged (it holds no JSON object)"),
        ("{}", "evaluation.json holds no scores"),
        ('{"scores": {"ours": 3}}', "evaluation.json holds no scores"),
        ('{"scores": [{"name": "x"}]}', "no value with its interval for the score of x"),
        (
            json.dumps(evaluation(temperature=[{"temperature": 0}])),
            "evaluation.json has a temperature 0",
        ),
    ],
)
def test_a_damaged_evaluation_is_said(tmp_path, text, sentence):
    (about(tmp_path) / "evaluation.json").write_text(text)
    assert sentence in Page(report.write(tmp_path)).text


def test_data_of_another_world_and_a_torn_model_are_said(tmp_path):
    with Store.create(about(tmp_path) / "data", VECTOR, Discrete(3)) as store:
        store.append(counting([1, 2], space=VECTOR))
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    assert Page(report.write(tmp_path)).text.count("is torn or damaged") == 3
    page = Page(report.write(tmp_path, model=Counter()))
    assert page.text.count("reads observation 'image'") == 2


def test_a_world_of_vectors_is_drawn_as_curves(tmp_path):
    with Store.create(about(tmp_path) / "data", VECTOR, Discrete(3)) as store:
        store.append(counting([1, 2, 0, 1], space=VECTOR))
    page = Page(report.write(tmp_path, model=Counter(0, VECTOR)))
    assert "vector 0 against" in page.source
    assert "vector 1 against" in page.source
    assert "Counter draws vector, and none of it is an image" in page.text
    assert "training may have drawn from them" in page.text


def test_names_cannot_break_the_page(tmp_path):
    folder = about(tmp_path, name="<script>alert(1)</script>", config={"<b>": "&"})
    scores = [control("<i>ours", 5), control('"q"', 4)]
    (folder / "evaluation.json").write_text(json.dumps(evaluation(scores=scores)))
    page = Page(report.write(folder))
    assert not {"script", "b", "i"} & set(page.tags)
    assert "<i>ours" in page.text
