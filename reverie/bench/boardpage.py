"""The page of a leaderboard: one self-contained HTML file, drawn from the board's JSON alone.

Read `board_page` first: it is the page's table of contents. Imports the pieces of pages and plots
of evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reverie.evaluate import page
from reverie.evaluate.cardpage import cell
from reverie.evaluate.curves import duration
from reverie.evaluate.figures import Bar, Line, lines, number, scores
from reverie.evaluate.statistics import Interval

TRUE = "planning in the true model"
_WIDTHS = (350, 760)  # pixels of the two drawings of a wide plot
_COLOURS = 8  # then they come again


def board_page(board: Mapping[str, Any]) -> str:
    """The whole document.

    Args:
        board: as `leaderboard` made it.
    """
    return page.page(
        f"{board['task']} · leaderboard · Reverie",
        _headline(board),
        page.section("Control and prediction, side by side", *_table(board)),
        page.section("Control", *_control(board)),
        page.section("Does prediction tell who controls?", *_correlation(board)),
        page.section("While they learned", *_learning(board)),
        page.section("One against another", *_against(board)),
        _missing(board),
        page.section("What was asked", _facts(board)),
        "<footer>Made by Reverie from leaderboard.json beside it; it needs no other file and no "
        "network. Each model's own report card lies in its folder.</footer>",
    )


def _interval(value: Mapping[str, float] | None) -> Interval | None:
    return None if value is None else Interval(**value)


def _percent(board: Mapping[str, Any]) -> tuple[str, float]:
    """Unit and scale of control."""
    return ("%", 100.0) if board["by"] == "success" else ("", 1.0)


def _headline(board: Mapping[str, Any]) -> str:
    """Who came first, and whether that means anything."""
    best, unit = board["rows"][0], _percent(board)
    found = _interval(best["control"])
    shown = "not scored" if found is None else f"{number(found.value * unit[1])}{unit[0]}"
    words = [
        f"<h1>Bench {page.text(board['task'])}: {page.text(board['about'])}</h1>",
        f'<p class="score">{page.text(best["name"])} <small>{page.text(shown)} '
        f"{page.text(board['unit'])}</small></p>",
        page.paragraph(_verdict(board), "lead"),
    ]
    return "\n".join(words)


def _verdict(board: Mapping[str, Any]) -> str:
    """What the first place is worth, said no stronger than the intervals allow."""
    best, *others = board["rows"]
    ours = _interval(best["control"])
    if ours is None:
        return "No model could act here: see what could not be measured."
    near = [r["name"] for r in others if (x := _interval(r["control"])) and not x.apart(ours)]
    random = [b for b in board["baselines"] if b["name"] == "random"]
    said = []
    if len(others):
        said.append(
            f"It cannot be told from {', '.join(near)}." if near else "No other touches it."
        )
    for baseline in random:
        apart = _interval(baseline["control"])
        above = apart is not None and ours.low > apart.high
        said.append(
            "It is above random actions." if above else "It is not above random actions for sure."
        )
    twin = _interval(best["scrambled"])
    if twin is not None:
        uses = ours.low > twin.high
        said.append(
            "Its planner needs its predictions: shuffled, they are worth less."
            if uses
            else "Its planner does as well with shuffled predictions, so they may not matter."
        )
    return " ".join(said)


# --- the table ------------------------------------------------------------------------------------


def _metrics(board: Mapping[str, Any]) -> dict[str, str]:
    """Prediction metrics that any model has, with which way is better."""
    return {
        name: value["better"] for row in board["rows"] for name, value in row["prediction"].items()
    }


def _table(board: Mapping[str, Any]) -> list[str]:
    """Models, then those who stand beside them."""
    unit, scale = _percent(board)
    metrics = _metrics(board)
    arrows = {"higher": "↑", "lower": "↓"}
    head = [
        "",
        f"control, {board['unit']} ↑",
        "shuffled predictions",
        *(f"{name.replace('_', ' ')} {arrows[way]}" for name, way in metrics.items()),
        "reads",
        "parameters",
        "trained",
        "a decision",
    ]
    rows = [
        [
            f"{page.text(row['name'])} <small>{page.text(row['title'])}</small>",
            cell(_interval(row["control"]), unit, scale),
            cell(_interval(row["scrambled"]), unit, scale),
            *(
                cell(_interval(row["prediction"][name]["value"]))
                if name in row["prediction"]
                else "-"
                for name in metrics
            ),
            page.text(", ".join(row["reads"])),
            f"{row['parameters']:,}",
            f"{duration(row['seconds'])} <small>{_count(row['updates'])} updates</small>",
            _decision(row),
        ]
        for row in board["rows"]
    ]
    for row in board["baselines"]:
        known = board["beside"].get("oracle", {}) if row["name"] == TRUE else {}
        shown = [cell(_interval(known.get(name))) for name in metrics]
        control = cell(_interval(row["control"]), unit, scale)
        rows.append([page.text(row["name"]), control, "", *shown, "", "", "", _decision(row)])
    for who, name in (("copy", "copying what was last seen"), ("mean", "the best constant")):
        known = board["beside"].get(who, {})
        shown = [cell(_interval(known.get(metric))) for metric in metrics]
        rows.append([name, "", "", *shown, "", "", "", ""])
    seeds = len(board["seeds"])
    words = (
        f"Every model learned from the same {board['transitions']:,} transitions for "
        f"{duration(board['budget'])} of wall clock. Control is planning with the model, the same "
        f"planner for all, over {board['episodes']} starts that are the same for all; prediction "
        "is of visited states. "
        + ("One training seed: intervals are over episodes, and another training may differ."
           if seeds == 1
           else f"{seeds} training seeds: intervals are over seeds and episodes.")
    )  # fmt: skip
    return [page.paragraph(words), page.table(head, rows, kind="tight")]


def _count(updates: Sequence[int]) -> str:
    return f"{round(sum(updates) / len(updates)):,}"


def _decision(row: Mapping[str, Any]) -> str:
    """Milliseconds and model steps."""
    if row["thinking"] is None:
        return "-"
    steps = f"{number(row['imagined'])} model steps" if row["imagined"] else "no model"
    return f"{number(1000 * row['thinking'])} ms <small>{steps}</small>"


# --- plots ----------------------------------------------------------------------------------------


def _colours(board: Mapping[str, Any]) -> dict[str, str]:
    """A colour for every model."""
    return {row["name"]: f"c{i % _COLOURS}" for i, row in enumerate(board["rows"])}


def _control(board: Mapping[str, Any]) -> list[str]:
    """Everyone with an interval."""
    unit, scale = _percent(board)
    colours = _colours(board)
    bars = []
    for row in (*board["rows"], *board["baselines"]):
        found = _interval(row["control"])
        if found is not None:
            role = colours.get(row["name"], "muted")
            value, low, high = (x * scale for x in found)
            bars.append(Bar(row["name"], value, low, high, role))
    if not bars:
        return [page.missing("Nobody acted.")]
    axis = f"{board['unit']}, {unit}" if unit else board["unit"]
    plot = page.by_width(*(scores(bars, axis, width=w) for w in _WIDTHS))
    return [
        page.figure(
            plot, "A dot is a mean, its bar the 95% interval. All began at the same starts."
        )
    ]


def _correlation(board: Mapping[str, Any]) -> list[str]:
    """Scatter plots of every metric, and the rank correlations."""
    if not board["correlation"]:
        return [page.missing("There are too few checkpoints, or they are all alike in control.")]
    colours, scale = _colours(board), _percent(board)[1]
    rows = {row["metric"]: row for row in board["correlation"]}
    plots = []
    for name in rows:
        drawn = [
            line
            for training in _trainings(board)
            if (line := _scatter(training, name, colours, scale))
        ]
        plots.append(
            lines(drawn, name.replace("_", " "), xlabel=name.replace("_", " "), ylabel="control")
        )
    table = [
        [
            page.text(name.replace("_", " ")),
            cell(Interval(**row["rho"])),
            f"{row['points']}",
        ]
        for name, row in rows.items()
    ]
    words = (
        "Each dot is a checkpoint, a line one training. Spearman's rank correlation is taken with "
        "each metric turned so that higher is better: 1 means that who predicts better controls "
        "better, 0 that this metric says nothing about control. Checkpoints of one training are no "
        "independent facts, so the intervals are, if anything, too narrow."
    )
    return [
        page.paragraph(words),
        page.legend((name, colour, False) for name, colour in colours.items()),
        page.grid(plots),
        page.table(["metric", "Spearman's rho with control", "checkpoints"], table),
    ]


def _trainings(board: Mapping[str, Any]) -> list[list[Mapping[str, Any]]]:
    """The checkpoints of each training, in time."""
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for point in board["points"]:
        found.setdefault((point["model"], point["seed"]), []).append(point)
    return list(found.values())


def _scatter(
    training: Sequence[Mapping[str, Any]], metric: str, colours: Mapping[str, str], scale: float
) -> Line | None:
    """Control of a training's checkpoints against a metric."""
    those = [p for p in training if p["control"] is not None and metric in p["prediction"]]
    if not those:
        return None
    x = [p["prediction"][metric]["value"]["value"] for p in those]
    return _dots(x, [p["control"] for p in those], colours[those[0]["model"]], scale)


def _dots(
    x: Sequence[float], values: Sequence[Mapping[str, float]], colour: str, scale: float = 1.0
) -> Line:
    """Joined dots with the ends of their intervals."""
    y, low, high = ([scale * v[k] for v in values] for k in ("value", "low", "high"))
    return Line(x, y, low, high, "", colour, dashed=False, dots=True)


def _learning(board: Mapping[str, Any]) -> list[str]:
    """Control and prediction against the seconds of training."""
    colours, scale = _colours(board), _percent(board)[1]
    plots = [
        _against_time(board, "control", lambda p: p["control"], scale),
        *(
            _against_time(board, name, lambda p, n=name: p["prediction"].get(n, {}).get("value"))
            for name in _metrics(board)
        ),
    ]
    return [
        page.legend((name, colour, False) for name, colour in colours.items()),
        page.grid(filter(None, plots)),
    ]


def _against_time(
    board: Mapping[str, Any],
    name: str,
    value: Callable[[Mapping[str, Any]], Mapping[str, float] | None],
    scale: float = 1.0,
) -> str:
    """One number of every checkpoint by its seconds of training; empty if nobody has it."""
    colours = _colours(board)
    drawn = []
    for training in _trainings(board):
        known = [(p["seconds"], v) for p in training if (v := value(p)) is not None]
        if known:
            x, values = zip(*known, strict=True)
            drawn.append(_dots(x, values, colours[training[0]["model"]], scale))
    if not drawn:
        return ""
    return lines(drawn, name.replace("_", " "), xlabel="seconds of training")


# --- the rest -------------------------------------------------------------------------------------


def _against(board: Mapping[str, Any]) -> list[str]:
    """Paired differences on the same starts."""
    if not board["against"]:
        return [page.missing("There is nobody to compare.")]
    unit, scale = _percent(board)
    rows = [
        [
            page.text(row["ours"]),
            page.text(row["theirs"]),
            cell(Interval(**row["difference"]), " points" if unit else "", scale),
            ("&lt; 0.001" if row["p"] < 0.001 else f"{row['p']:.2g}")
            + f" <small>{page.text(row['test'])}</small>",
            cell(Interval(**row["improvement"])),
        ]
        for row in board["against"]
    ]
    words = (
        "The first training seed of each, start by start. P(better) is the probability that an "
        "episode of the first beats one of the second, ties counted half."
    )
    return [
        page.paragraph(words),
        page.table(["", "against", "difference", "p", "P(better)"], rows),
    ]


def _missing(board: Mapping[str, Any]) -> str:
    if not board["missing"]:
        return ""
    return page.section("What could not be measured", *map(page.missing, board["missing"]))


def _facts(board: Mapping[str, Any]) -> str:
    verdicts = [
        (row["name"], " ".join(dict.fromkeys(s for s in row["simulator"] if s)))
        for row in board["rows"]
    ]
    return page.facts(
        [
            ("world", board["environment"]),
            ("transitions", f"{board['transitions']:,}"),
            ("budget a training", duration(board["budget"])),
            ("training seeds", ", ".join(map(str, board["seeds"]))),
            ("episodes an agent", board["episodes"]),
            *verdicts,
        ]
    )
