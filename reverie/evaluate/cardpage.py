"""The page of a report card: one self-contained HTML file, drawn from the card's JSON alone.

Read `card_page` first: it is the page's table of contents. `write` writes card and page. Imports
checkpoint and the pieces of pages and plots beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reverie import checkpoint
from reverie.evaluate import page
from reverie.evaluate.card import NAME, measures_of
from reverie.evaluate.control import Control, control_from_json
from reverie.evaluate.curves import duration
from reverie.evaluate.figures import Bar, Line, lines, number, scores
from reverie.evaluate.measure import Measure, measure_from_json
from reverie.evaluate.simulator import CONTEXTS
from reverie.evaluate.states import ABOUT, VISITED
from reverie.evaluate.statistics import Interval, paired

PAGE = "card.html"
_WIDTHS = (350, 760)  # pixels of the two drawings of a wide plot
_NOISE = 1e-9  # below: rounding
_OURS = ("real", False)
_STYLES = {  # who -> colour, and whether the line is dashed
    "copy": ("muted", False),
    "mean": ("muted", True),
    "action-blind": ("dream", True),
    "oracle": ("c2", True),
}
_KINDS = {VISITED: _OURS, "counterfactual": ("dream", False), "shifted": ("c3", False)}
_SAID = {
    "prediction": "How well the model foresees what it did not see, step by step, on episodes that "
    "it did not learn from. Bands are 95% bootstrap intervals over episodes.",
    "understanding": "Whether the true state of the world can be read from the model's own state, "
    "and whether that state is in good health.",
    "imagination": "Whether what is dreamed follows from what is done: a model that ignores its "
    "actions can predict well and is no simulator.",
}


def write(folder: str | Path, card: Mapping[str, Any]) -> Path:
    """Write `card.json` and its page, each in one step.

    Args:
        folder: exists.
        card: as `report_card` made it.

    Returns:
        The path of the page.

    Raises:
        StorageFull: if the disk is full.
    """
    folder = Path(folder)
    checkpoint.write_bytes(folder / NAME, json.dumps(card, indent=1, allow_nan=False).encode())
    checkpoint.write_bytes(folder / PAGE, card_page(card).encode())
    return folder / PAGE


def card_page(card: Mapping[str, Any]) -> str:
    """The whole document.

    Args:
        card: as `report_card` made it.
    """
    return page.page(
        f"{card['name']} · report card · Reverie",
        _headline(card),
        *(_section(card, group) for group in ("prediction", "understanding", "imagination")),
        _knee(card),
        page.section("Control", *control_parts(controls(card), card["unit"], card["by"])),
        _missing(card),
        _facts(card),
        "<footer>Made by Reverie from card.json beside it; it needs no other file and no network."
        "</footer>",
    )


def controls(card: Mapping[str, Any]) -> list[Control]:
    """The scores on a card, the model's own first."""
    return [control_from_json(value) for value in card["control"]]


def cell(x: Interval | None, unit: str = "", scale: float = 1) -> str:
    """A number with its interval, as HTML."""
    if x is None:
        return ""
    value, low, high = (number(v * scale if abs(v) > _NOISE else 0.0) for v in x)
    return f"{value}{unit} <small>{low} to {high}</small>"


# --- the sections, in their order -----------------------------------------------------------------


def _headline(card: Mapping[str, Any]) -> str:
    """What it is, and whether it is a simulator at all."""
    verdict = card["simulator"] or "Nothing says whether this model follows its actions."
    words = [
        f"<h1>Report card: {page.text(card['model']['title'])} in "
        f"{page.text(card['environment'])}</h1>",
        f'<p class="score">{page.text(card["name"])}</p>',
        page.paragraph(verdict, "lead"),
    ]
    return "\n".join(words)


def _section(card: Mapping[str, Any], group: str) -> str:
    """Plots against the horizon, and one table of all measures of a group."""
    found = {
        kind: {n: m for n, m in measures_of(card, kind).items() if m.group == group}
        for kind in card["states"]
    }
    first = found[VISITED]
    if not first:
        empty = f"Nothing of this could be measured of {card['name']}."
        return page.section(group.capitalize(), page.missing(empty))
    curved = [measure for measure in first.values() if measure.curve]
    parts = [page.paragraph(_SAID[group])]
    if curved:
        names = dict.fromkeys(who for m in curved for who in m.baseline_curves)
        parts += [
            page.legend([("the model", *_OURS), *((w, *_style(w)) for w in names)]),
            page.grid(_against_horizon(measure) for measure in curved),
        ]
    parts.append(_table(first))
    if sum(map(bool, found.values())) > 1:
        parts += _kinds(card, found)
    return page.section(group.capitalize(), *parts)


def _style(who: str) -> tuple[str, bool]:
    return _STYLES.get(who, ("line", True))


def _against_horizon(measure: Measure) -> str:
    """The model and its baselines, by steps ahead."""
    drawn = [
        _line(points, _style(who), band=False) for who, points in measure.baseline_curves.items()
    ]
    drawn.append(_line(measure.curve, _OURS))
    return lines(drawn, _title(measure), xlabel="steps ahead", ylabel=measure.unit)


def _line(points: Sequence[Interval], style: tuple[str, bool], *, band: bool = True) -> Line:
    """A curve with its band."""
    value, low, high = (list(column) for column in zip(*points, strict=True))
    x = list(range(1, 1 + len(points)))
    return Line(x, value, low if band else None, high if band else None, "", *style)


def _title(measure: Measure) -> str:
    return measure.name.replace("_", " ")


def _table(found: Mapping[str, Measure]) -> str:
    """One row a measure, beside all who were measured too."""
    others = list(dict.fromkeys(who for m in found.values() for who in m.baselines))
    rows = [
        [
            f"{page.text(_title(m))} <small>{page.text(m.unit)}, {m.better} is better</small>",
            cell(m.value),
            *(cell(m.baselines.get(who)) for who in others),
        ]
        for m in found.values()
    ]
    said = page.facts((_title(m), m.what) for m in found.values())
    return page.table(["measure", "the model", *others], rows, kind="tight") + page.details(
        "What each measure says", said
    )


def _kinds(card: Mapping[str, Any], found: Mapping[str, Mapping[str, Measure]]) -> list[str]:
    """The same measures on visited, counterfactual and shifted states."""
    kinds = [kind for kind in found if found[kind]]
    shared = {n: m for n, m in found[VISITED].items() if sum(n in found[k] for k in kinds) > 1}
    curved = [name for name, measure in shared.items() if measure.curve]
    plots = [
        lines(
            [_line(found[kind][name].curve, _KINDS[kind]) for kind in kinds if name in found[kind]],
            _title(found[VISITED][name]),
            xlabel="steps ahead",
            ylabel=found[VISITED][name].unit,
        )
        for name in curved
    ]
    rows = [
        [
            page.text(_title(measure)),
            *(cell(found[kind][name].value if name in found[kind] else None) for kind in kinds),
        ]
        for name, measure in shared.items()
    ]
    told = "; ".join(f"{kind}: {ABOUT[kind]}" for kind in kinds)
    return [
        "<h3>By the kind of states</h3>",
        page.paragraph(f"{told[:1].upper()}{told[1:]}."),
        page.legend((kind, *_KINDS[kind]) for kind in kinds),
        page.grid(plots),
        page.table(["the model on", *kinds], rows, kind="tight"),
    ]


def _knee(card: Mapping[str, Any]) -> str:
    """How much of the past the model needs."""
    if card["knee"] is None:
        return ""
    measure = measure_from_json(card["knee"])
    drawn = [_line(points, ("muted", False)) for points in measure.baseline_curves.values()]
    drawn = [line._replace(x=CONTEXTS) for line in (*drawn, _line(measure.curve, _OURS))]
    plot = lines(drawn, "error", xlabel="observations given", ylabel="error / that of copying")
    return page.section(
        "How much of the past it needs",
        page.paragraph(
            f"{_title(measure).capitalize()}: {measure.value} {measure.unit}. {measure.what}"
        ),
        page.legend([("the model", *_OURS), ("copy", "muted", False)]),
        page.grid([plot]),
    )


def control_parts(found: Sequence[Control], unit: str, by: str) -> list[str]:
    """Every agent with its interval, as a plot and as a table; the first is the one judged.

    Args:
        found: scores on the same starts.
        unit: of a return.
        by: "success" or "return": what the plot shows.
    """
    if not found:
        return [page.missing("Nothing acted with this model.")]
    bars = [_bar(score, "muted" if i else "real", by) for i, score in enumerate(found)]
    plot = page.by_width(
        *(scores(bars, "success, %" if by == "success" else unit, width=w) for w in _WIDTHS)
    )
    out = found[0].excluded
    caption = (
        "A dot is a mean, its bar the 95% interval (Wilson's for success rates). All agents began "
        "at the same starts"
        + (f"; {out} that were solved already count for nobody." if out else ".")
    )
    head = ["agent", "success", unit, "against the first", "episodes", "a decision"]
    rows = [_control_row(score, found[0], by) for score in found]
    return [page.figure(plot, caption), page.table(head, rows, first=True, kind="tight")]


def _bar(score: Control, role: str, by: str) -> Bar:
    """One row of the plot: the success rate in percent, or the mean return."""
    rate = score.success_rate
    if by == "success" and rate is not None:
        return Bar(score.name, 100 * rate.value, 100 * rate.low, 100 * rate.high, role)
    return Bar(score.name, *score.score, role, score.returns)


def _control_row(score: Control, first: Control, by: str) -> list[str]:
    """One agent's cells."""
    steps = f"{number(score.imagined)} model steps" if score.imagined else "no model"
    return [
        page.text(score.name),
        cell(score.success_rate, "%", 100),
        cell(score.score),
        "" if score is first else _against(score, first, by),
        f"{len(score.returns):,}",
        f"{number(1000 * score.thinking)} ms <small>{steps}</small>",
    ]


def _against(score: Control, first: Control, by: str) -> str:
    """The paired difference of one agent and the first one."""
    rated = by == "success" and score.success is not None and first.success is not None
    ours, theirs = (score.success, first.success) if rated else (score.returns, first.returns)
    shared = min(len(ours or ()), len(theirs or ()))  # the first starts are the same for all
    found = paired((ours or ())[:shared], (theirs or ())[:shared])
    scale, unit = (100, " points") if rated else (1, "")
    value = scale * found.difference.value
    said = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.2g}"
    return f"{value:+.3g}{unit} <small>{said}, {found.test}</small>"


def _missing(card: Mapping[str, Any]) -> str:
    """What could not be measured, and why."""
    if not card["missing"]:
        return ""
    return page.section("What could not be measured", *map(page.missing, card["missing"]))


def _facts(card: Mapping[str, Any]) -> str:
    """Of what, on what, for how long."""
    model = card["model"]
    states = ", ".join(f"{v['episodes']} {kind}" for kind, v in card["states"].items())
    return page.section(
        "What was judged",
        page.facts(
            [
                ("school", f"{model['title']} ({model['paper']})"),
                ("state", model["state"]),
                ("randomness", model["z"]),
                ("parameters", f"{card['parameters']:,}"),
                ("world", card["environment"]),
                ("segments", f"{states}; {card['context']} observations given"),
                ("steps ahead", f"1 to {card['horizon']}"),
                ("time", duration(card["seconds"])),
            ]
        ),
    )
