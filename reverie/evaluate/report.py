"""One page about one run: `write(folder)` makes `report.html`, a single file that needs no other.

The page shows what is there, for any school and any recipe: models are asked through the contract
alone, metrics are plotted under the names they have. What is missing or damaged is one sentence
in its place. Read `write` first: it is the page's table of contents. Imports core, checkpoint,
data and its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reverie import checkpoint
from reverie.core.errors import BadData, ReverieError
from reverie.core.model import WorldModel
from reverie.evaluate import curves, gallery, page
from reverie.evaluate import film as films
from reverie.evaluate.figures import Bar, number, scores
from reverie.evaluate.folder import RunFolder, count, interval, open_run, score
from reverie.evaluate.statistics import Interval, ratio_interval

NAME = "report.html"
WHOLE = 240  # at most so many frames of a whole episode
_WIDTHS = (350, 760)  # pixels of the two drawings of a wide plot


def write(folder: str | Path, *, model: WorldModel | None = None) -> Path:
    """Make the page of a run from whatever its folder holds.

    Args:
        folder: of a run; finished or under way.
        model: in place of the one in the folder, for models that are not registered.

    Returns:
        The path of `report.html` in that folder; a page that was there is replaced.

    Raises:
        BadCheckpoint: if the folder holds no run, or its `run.json` is damaged.
        StorageFull: if the disk is full.
    """
    run = open_run(folder, model)
    parts = [
        _headline(run),
        page.section("How well it acts", *_guarded(lambda: _scores(run))),
        page.section("What was run", *_facts(run)),
        page.section("How it learned", *_curves(run)),
        page.section("What it sees", *_guarded(lambda: _reconstructions(run))),
        page.section("Its dream beside reality", *_guarded(lambda: _film(run))),
        _temperature(run),
        f"<footer>Made by <code>reverie report {page.text(run.folder.name)}</code> from the files "
        "of that run; it needs no other file and no network.</footer>",
    ]
    text = page.page(f"{run.title} · Reverie", *parts)
    text = text.replace(page.text(run.folder), page.text(run.folder.name))  # in errors' sentences
    checkpoint.write_bytes(run.folder / NAME, text.encode())
    return run.folder / NAME


# --- the sections, in their order -----------------------------------------------------------------


def _headline(run: RunFolder) -> str:
    """The one number, and what it is worth."""
    try:
        ours, *others = run.controls
        mean = score(ours)
        many = len(ours.get("returns") or ())
        episodes = f"Mean of {count(many, 'whole episode')}" if many else "Mean"
        where = run.evaluation.get("environment") or run.about.get("environment") or "its world"
        lead = (
            f"{episodes} of “{ours.get('name')}” in {where}, 95% interval {number(mean.low)} to "
            f"{number(mean.high)}. {_verdict(mean, {c['name']: score(c) for c in others})}"
        )
        unit = page.text(run.evaluation.get("unit", ""))
        big = f'<p class="score">{page.text(number(mean.value))} <small>{unit}</small></p>'
    except BadData:
        big = '<p class="score">not scored yet</p>'
        lead = "This page shows what the run has left so far."
    words = [f"<h1>{page.text(run.title)}</h1>", big, page.paragraph(lead, "lead")]
    hero = _guarded(lambda: _whole_episode(run))
    return (
        f'<header class="hero">\n<div>{"".join(words)}</div>\n<div>{"".join(hero)}</div>\n</header>'
    )


def _verdict(ours: Interval, others: Mapping[str, Interval]) -> str:
    """Whether the score stands above its baselines, said no stronger than the intervals allow."""
    if not others:
        return "No baseline was scored beside it, so the number says little by itself."
    told = {name: f"“{name}” ({number(other.value)})" for name, other in others.items()}
    above = [told[name] for name, other in others.items() if ours.low > other.high]
    below = [told[name] for name, other in others.items() if ours.high < other.low]
    touching = [told[name] for name, other in others.items() if not ours.apart(other)]
    said = []
    for verb, names in (("lies above", above), ("lies below", below), ("touches", touching)):
        if names:
            said.append(f"{verb} {'that' if len(names) == 1 else 'those'} of {_and(names)}")
    return f"The interval {_and(said)}."


def _whole_episode(run: RunFolder) -> list[str]:
    """The agent in the real world, start to end."""
    if run.played is None:
        return []
    episode = run.typical()
    images = [name for name, value in episode.obs.items() if value.ndim == 4]
    if not images:
        return []
    seen = episode.obs["image" if "image" in images else images[0]]
    stride = -(-len(seen) // WHOLE)
    frames = films.rgb(seen[::stride])
    alt = f"One whole real episode of {len(episode):,} steps"
    gif = films.gif(frames, fps=12 if stride == 1 else 20)
    every = "" if stride == 1 else f", every {_ordinal(stride)} frame"
    caption = (
        f"The trained agent in the real world: one whole episode of {len(episode):,} "
        f"decisions{every}. Of the {len(run.played)} that were kept it is the middle one."
    )
    return [page.figure(page.moving(gif, films.still(frames[0]), alt, width="15rem"), caption)]


def _scores(run: RunFolder) -> list[str]:
    """Every agent with its interval, as a plot and as a table."""
    ours, *others = run.controls
    unit = str(run.evaluation.get("unit", "return"))
    bars = [_bar(ours, "real"), *(_bar(control, "muted") for control in others)]
    dream = run.evaluation.get("dream")
    if dream is not None:
        bars.append(Bar("the same agent in its dream", *interval(dream, "the dream"), "dream"))
    caption = (
        "A dot is a mean, its bar the 95% interval, and each small tick one episode; where two "
        "bars do not touch, the difference is hardly luck."
    )
    caption += (
        " The hollow dot is what the agent scores in the dream it was trained in: the farther it "
        "stands from the first dot, the less the dream is like the world."
        if dream is not None
        else " The first row is the run's own agent, the others are what it must beat."
    )
    plot = page.by_width(*(scores(bars, unit, width=w) for w in _WIDTHS))
    rows = [_score_row(control, ours) for control in run.controls]
    head = ["agent", unit, "the first is", "episodes", "success"]
    task = run.evaluation.get("task")
    return [
        page.paragraph(task) if task else "",
        page.figure(plot, caption),
        page.table(head, rows, first=True),
    ]


def _bar(control: Mapping[str, Any], role: str) -> Bar:
    values = tuple(float(v) for v in control.get("returns") or ())
    return Bar(str(control.get("name")), *score(control), role, values)


def _score_row(control: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """One agent's cells."""
    rate = control.get("success_rate")
    many = len(control.get("returns") or ())
    try:
        ratio = ratio_interval(ours.get("returns") or (), control.get("returns") or ())
        times = _cell(ratio, " times") if control is not ours else ""
    except BadData:
        times = ""
    return [
        page.text(control.get("name")),
        _cell(score(control)),
        times,
        f"{many:,}" if many else "",
        "" if rate is None else _cell(interval(rate, "a success rate"), "%", 100),
    ]


def _cell(x: Interval, unit: str = "", scale: float = 1) -> str:
    """A number with its interval, as HTML."""
    value, low, high = (number(v * scale) for v in x)
    return f"{value}{unit} <small>{low} to {high}</small>"


def _facts(run: RunFolder) -> list[str]:
    """Command, recipe, seed, stages with their time, config, versions."""
    about = run.about
    command = " ".join([f"reverie train {about.get('name')}", *_options(about)])
    rows = [
        ("recipe", about.get("name")),
        ("seed", about.get("seed")),
        ("environment", about.get("environment")),
        *_model_facts(run),
        ("data", "; ".join(_guarded_words(lambda: _data_words(run)))),
    ]
    config = list(_flat(about.get("config") or {}))
    versions = list((about.get("versions") or {}).items())
    return [
        f'<code class="command">{page.text(command)}</code>',
        page.pair(
            page.facts([(name, value) for name, value in rows if value is not None]),
            _stage_table(run),
        ),
        page.details(f"Config ({count(len(config), 'value')})", page.facts(config))
        if config
        else "",
        page.details("Versions", page.facts(versions)) if versions else "",
    ]


def _options(about: Mapping[str, Any]) -> list[str]:
    """The recipe's arguments as words of the command line."""
    known = {"seed": about.get("seed"), **dict(_flat(about.get("config") or {}))}
    return [f"--{name.replace('_', '-')} {value}" for name, value in known.items()]


def _model_facts(run: RunFolder) -> list[tuple[str, str]]:
    """Which model, and how many weights each part has."""
    try:
        model = run.model
        saved = {} if run.given else checkpoint.read_tree(run.folder / checkpoint.MODEL_FILE)
    except ReverieError as error:
        return [("model", str(error))]
    counts = {p.name: sum(w.numel() for w in p.module.parameters()) for p in model.parts()}
    for name, state in saved.get("states", {}).items():
        if name != "model":
            counts[name] = sum(w.numel() for w in state.values())
    weights = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    card = model.card
    return [("model", f"{card.title} ({card.paper})"), ("weights", weights or "none")]


def _data_words(run: RunFolder) -> list[str]:
    """How much data the run keeps."""
    words = [f"{count(len(run.store), 'episode')}, {count(run.store.steps, 'step')}"]
    return [*words, run.store.report] if run.store.report else words


def _guarded_words(make: Callable[[], list[str]]) -> list[str]:
    """Words, or the sentence that says why there are none."""
    try:
        return make()
    except ReverieError as error:
        return [str(error)]


def _stage_table(run: RunFolder) -> str:
    """Stages with their updates and time."""
    seconds = run.seconds
    asked = run.about.get("stages") or {}
    total = sum(seconds.values())
    if not seconds or not total:
        return ""
    rows = []
    for name in dict.fromkeys([*asked, *seconds]):
        spent = seconds.get(name)
        width = 0 if spent is None else 7 * spent / total
        time = "" if spent is None else page.text(curves.duration(spent))
        share = f'<span class="share" style="width:{width:.2f}rem"></span>' if spent else ""
        updates = asked.get(name) or 0
        rows.append([page.text(name), f"{updates:,}" if updates else "", time, share])
    rows.append(["all stages", "", page.text(curves.duration(total)), ""])
    return page.table(["stage", "updates", "time", ""], rows)


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names."""
    found = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _curves(run: RunFolder) -> list[str]:
    """All that was logged while it learned."""
    if not run.log.stages and not run.log.torn:
        return [page.missing("Nothing was logged yet (no metrics.jsonl).")]
    return [
        page.paragraph(
            "Each plot is one number that a stage logged, by its own updates, with its last value "
            "at the upper right; a band holds nine tenths of the points where there are too many "
            "to draw, or lies between the worst and the best. A loss that has gone flat has "
            "learned what it can, one that still falls was stopped early."
        ),
        *curves.show(run.log, run.about.get("stages") or {}, run.seconds),
    ]


def _reconstructions(run: RunFolder) -> list[str]:
    """Frames above what is left of them."""
    episodes, which = run.episodes()
    shown = _guarded(lambda: gallery.reconstructions(run.model, episodes, run.generator))
    return [page.paragraph(which), *shown]


def _film(run: RunFolder) -> list[str]:
    """Reality and a dream of it."""
    return gallery.dream(run.model, run.typical(), run.generator)


def _temperature(run: RunFolder) -> str:
    """Dreamed and real score by the temperature of the dream that trained the agent."""
    try:
        sweep = run.evaluation.get("temperature")
    except BadData:
        return ""  # the section of the scores says so
    if not sweep:
        return page.section(
            "Temperature",
            page.text(
                "Dreams of other temperatures were not tried in this run. "
                "`python proofs/doom.py temperature` tries five in the demo's."
            ),
        )
    return page.section("Temperature", *_guarded(lambda: _sweep(run, sweep)))


def _sweep(run: RunFolder, sweep: Sequence[Mapping[str, Any]]) -> list[str]:
    """The plot and the table of a temperature sweep."""
    unit = str(run.evaluation.get("unit", "return"))
    rows = []
    for row in sweep:
        tau = row.get("temperature")
        if not isinstance(tau, int | float) or tau <= 0:
            raise BadData(f"evaluation.json has a temperature {tau!r}. Evaluate the run again.")
        both = (interval(row.get(role), f"temperature {tau}") for role in ("dream", "real"))
        rows.append(gallery.Temperature(float(tau), *both))
    others = [Bar(str(c.get("name")), *score(c), "muted") for c in run.controls[1:]]
    best = max(others, key=lambda bar: bar.value, default=None)
    head = ["temperature", f"dream, {unit}", f"real, {unit}"]
    cells = [[f"{row.tau:g}", _cell(row.dream), _cell(row.real)] for row in sorted(rows)]
    return [gallery.temperature(rows, best, unit), page.table(head, cells)]


def _guarded(make: Callable[[], list[str]]) -> list[str]:
    """What a section shows, or the one sentence that says why it cannot."""
    try:
        return make()
    except ReverieError as error:
        return [page.missing(error)]


# --- words ----------------------------------------------------------------------------------------


def _and(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _ordinal(n: int) -> str:
    """2nd, 3rd, 4th: a stride, so never the first."""
    return {2: "2nd", 3: "3rd"}.get(n, f"{n}th")
