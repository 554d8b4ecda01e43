"""Evidence: `results/NAME.json`, one file a claim, written by the program that measured it.

`record` writes one, `load_all` reads and checks all, `table` prints them. `make results` runs this
module: it prints the table and renews the generated parts of docs/results.md and README.md,
which stand between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. Imports core and
the file operations of data.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reverie.core.errors import BadData
from reverie.data.files import replace

FOLDER = Path("results")


@dataclass(frozen=True)
class Evidence:
    """One claim with what it stands on."""

    name: str  # of the file, and in brackets in the issues: lower case, digits, underscores
    what: str  # one sentence: what was measured
    metric: str  # what the value is, with its unit: "mean survival, tics"
    value: float
    low: float  # 95% interval
    high: float
    better: str  # "higher" | "lower"
    target: float | None  # what was to be reached; None: nothing was promised
    baselines: dict[str, float]  # the same metric of others: {"random": 300.0}
    seeds: list[int]
    steps: int  # environment steps, updates or timed calls: `what` says which
    seconds: float  # wall clock of the measurement, training included
    command: str  # that makes it again, from the project's root
    config: dict[str, Any]  # settings; "model" and "recipe" name the registered ones
    versions: dict[str, Any] = field(default_factory=dict)  # python, torch, ..., platform, cores
    plot: str | None = None  # path of its picture, relative to the results folder

    @property
    def reached(self) -> bool | None:
        """Whether the value is at least as good as the target; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


def record(
    name: str,
    *,
    what: str,
    metric: str,
    value: float,
    low: float,
    high: float,
    better: str,
    target: float | None,
    baselines: Mapping[str, float],
    seeds: Sequence[int],
    steps: int,
    seconds: float,
    command: str,
    config: Mapping[str, Any],
    plot: str | Path | None = None,
    folder: str | Path = FOLDER,
) -> Path:
    """Write one claim; an older one of this name is replaced in one step.

    Args:
        name: see `Evidence`, as for the others.
        what: one sentence that ends with a full stop.
        metric: with its unit.
        value: measured.
        low: end of the 95% interval; equal to value where there is none.
        high: end of the 95% interval; equal to value where there is none.
        better: "higher" or "lower".
        target: promised, or None.
        baselines: name to value of the same metric.
        seeds: of all runs.
        steps: counted as `what` says.
        seconds: wall clock.
        command: from the project's root.
        config: JSON.
        plot: an existing picture inside `folder`, named relative to it.
        folder: of all evidence.

    Returns:
        The path written.

    Raises:
        BadData: naming the field that breaks the schema.
    """
    found = Evidence(
        name=name,
        what=what,
        metric=metric,
        value=float(value),
        low=float(low),
        high=float(high),
        better=better,
        target=None if target is None else float(target),
        baselines={key: float(number) for key, number in baselines.items()},
        seeds=[int(seed) for seed in seeds],
        steps=int(steps),
        seconds=round(float(seconds), 3),
        command=command,
        config=dict(config),
        versions=_versions(),
        plot=None if plot is None else str(plot),
    )
    folder = Path(folder)
    path = folder / f"{name}.json"
    _check(found, path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(asdict(found), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise BadData(f"{path}: config must be plain JSON with finite numbers ({error}).") from None
    replace(path, text.encode())
    return path


def load(path: str | Path) -> Evidence:
    """One claim, checked.

    Raises:
        BadData: if the file is no JSON, has unknown or missing fields, or breaks the schema.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"{path} cannot be read as evidence: {error}.") from None
    if not isinstance(value, dict):
        raise BadData(f"{path} must hold one JSON object, but holds a {type(value).__name__}.")
    names = {f.name for f in fields(Evidence)}
    if names != set(value):
        missing, extra = sorted(names - set(value)), sorted(set(value) - names)
        raise BadData(
            f"{path} lacks the fields {missing} and has the unknown fields {extra}. "
            "Write it with reverie.evidence.record."
        )
    found = Evidence(**value)
    _check(found, path)
    return found


def load_all(folder: str | Path = FOLDER) -> list[Evidence]:
    """Every claim of a folder, by name.

    Raises:
        BadData: naming the first file and field that breaks the schema.
    """
    return [load(path) for path in sorted(Path(folder).glob("*.json"))]


def table(claims: Sequence[Evidence]) -> str:
    """A Markdown table, one row a claim."""
    if not claims:
        return "Nothing was measured yet."
    rows = [
        "| claim | measured | value [95%] | target | baselines | seeds | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in claims:
        sign = ">=" if claim.better == "higher" else "<="
        mark = {True: "reached", False: "**missed**", None: ""}[claim.reached]
        target = "" if claim.target is None else f"{sign} {_short(claim.target)} {mark}"
        value = f"{_short(claim.value)} [{_short(claim.low)}, {_short(claim.high)}]"
        others = ", ".join(f"{key} {_short(number)}" for key, number in claim.baselines.items())
        cells = (
            *(claim.name, f"{claim.what} ({claim.metric})", value, target, others),
            *(", ".join(map(str, claim.seeds)), f"`{claim.command}`"),
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def splice(text: str, name: str, body: str) -> str:
    """Text with what stands between the markers of a name replaced.

    Args:
        text: with ``<!-- begin NAME -->`` and ``<!-- end NAME -->``, each once.
        name: of the generated part.
        body: the new part.

    Raises:
        BadData: if the markers are not there.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise BadData(f"The text has no part between '{begin}' and '{end}'. Put both lines in it.")
    return f"{head}{begin}\n{body}\n{end}{tail}"


def renew(path: str | Path, name: str, body: str) -> None:
    """`splice` a file in place.

    Raises:
        BadData: if the markers are not there.
    """
    path = Path(path)
    old = path.read_text(encoding="utf-8")
    new = splice(old, name, body)
    if new != old:
        replace(path, new.encode())


def _short(number: float) -> str:
    """Four significant digits, thousands apart: 1085.1 -> 1,085, 0.5 -> 0.5."""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def _versions() -> dict[str, Any]:
    """Of what a number may depend on."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in ("torch", "numpy", "reverie"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    machine = f"{platform.system()} {platform.machine()}"
    return {**found, "platform": machine, "cores": os.cpu_count()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


# field -> (whether a value is allowed, what it must be)
_RULES: dict[str, tuple[Any, str]] = {
    "name": (lambda v: isinstance(v, str) and re.fullmatch(r"[a-z0-9_]+", v), "like doom_demo"),
    "what": (lambda v: isinstance(v, str) and v.endswith("."), "one sentence with a full stop"),
    "metric": (lambda v: isinstance(v, str) and v, "text"),
    "value": (_is_number, "a finite number"),
    "low": (_is_number, "a finite number"),
    "high": (_is_number, "a finite number"),
    "better": (lambda v: v in ("higher", "lower"), "'higher' or 'lower'"),
    "target": (lambda v: v is None or _is_number(v), "a finite number or null"),
    "baselines": (
        lambda v: _is_table(v) and all(_is_number(n) for n in v.values()),
        "names to finite numbers",
    ),
    "seeds": (
        lambda v: isinstance(v, list) and v and all(type(n) is int for n in v),
        "a list of one integer or more",
    ),
    "steps": (lambda v: type(v) is int and v >= 0, "a count"),
    "seconds": (lambda v: _is_number(v) and v >= 0, "seconds"),
    "command": (
        lambda v: isinstance(v, str) and v and not re.search(r"(^|[\s=])/", v),
        "a command to run from the project's root, without absolute paths",
    ),
    "config": (_is_table, "a JSON object"),
    "versions": (lambda v: _is_table(v) and "torch" in v and "cores" in v, "package versions"),
    "plot": (lambda v: v is None or (isinstance(v, str) and v), "a path or null"),
}


def _check(found: Evidence, path: Path) -> None:
    """Refuse what breaks the schema, naming the file and the field."""
    for name, (allowed, wanted) in _RULES.items():
        value = getattr(found, name)
        if not allowed(value):
            raise BadData(f"{path}: {name} must be {wanted}, but it is {value!r}.")
    if found.name != path.stem:
        raise BadData(f"{path}: name must be '{path.stem}' like the file, not '{found.name}'.")
    if not found.low <= found.value <= found.high:
        raise BadData(
            f"{path}: low <= value <= high must hold, but they are "
            f"{found.low}, {found.value}, {found.high}."
        )
    if found.plot is not None and not (path.parent / found.plot).is_file():
        raise BadData(
            f"{path}: plot must name a file in {path.parent}, but '{found.plot}' is none. "
            "Save the picture there first."
        )
