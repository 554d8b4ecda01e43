"""Evidence keeps its schema: what `record` refuses, and everything that lies in results/."""

import json
from pathlib import Path

import pytest

from reverie import catalog, evidence
from reverie.core.errors import BadData

ROOT = Path(__file__).resolve().parents[1]
CLAIM = {
    "what": "Survival of a controller over 100 episodes.",
    "metric": "mean survival, tics",
    "value": 1092.0,
    "low": 1000.5,
    "high": 1180.25,
    "better": "higher",
    "target": 750,
    "baselines": {"random": 210.0},
    "seeds": [1, 2, 3],
    "steps": 100,
    "seconds": 12.34567,
    "command": "reverie eval runs/x --episodes 100",
    "config": {"model": "world_models_2018", "tau": 1.15},
}


def write(folder, **changed):
    return evidence.record("a_claim", **{**CLAIM, **changed}, folder=folder)


def test_what_is_recorded_is_read_back(tmp_path):
    path = write(tmp_path)
    assert path == tmp_path / "a_claim.json"
    claim = evidence.load(path)
    assert [claim] == evidence.load_all(tmp_path)
    assert (claim.value, claim.low, claim.high, claim.target) == (1092.0, 1000.5, 1180.25, 750.0)
    assert (claim.seeds, claim.seconds, claim.config) == ([1, 2, 3], 12.346, CLAIM["config"])
    assert set(claim.versions) == {"python", "torch", "numpy", "reverie", "platform", "cores"}
    assert list(tmp_path.iterdir()) == [path]  # no scratch file is left


def test_the_file_has_the_fields_that_were_agreed(tmp_path):
    found = json.loads(write(tmp_path).read_text())
    assert set(found) == {"name", "versions", "plot", *CLAIM}


@pytest.mark.parametrize(
    ("value", "better", "target", "reached"),
    [
        (2, "higher", 2, True),
        (1, "higher", 2, False),
        (2, "lower", 2, True),
        (3, "lower", 2, False),
    ],
)
def test_reached_looks_the_right_way(tmp_path, value, better, target, reached):
    path = write(tmp_path, value=value, low=value, high=value, better=better, target=target)
    assert evidence.load(path).reached is reached


def test_nothing_promised_is_neither_reached_nor_missed(tmp_path):
    assert evidence.load(write(tmp_path, target=None)).reached is None


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"what": "no full stop"}, "what must be one sentence with a full stop"),
        ({"value": float("nan")}, "value must be a finite number"),
        ({"value": 2000.0}, "low <= value <= high must hold"),
        ({"better": "more"}, "better must be 'higher' or 'lower'"),
        ({"seeds": []}, "seeds must be a list of one integer or more"),
        ({"baselines": {"random": float("inf")}}, "baselines must be names to finite numbers"),
        ({"steps": -1}, "steps must be a count"),
        ({"command": "/opt/python run.py"}, "command must be a command to run from the project"),
        ({"config": {"x": float("nan")}}, "config must be plain JSON with finite numbers"),
        ({"config": {"x": object()}}, "config must be plain JSON"),
        ({"plot": "absent.png"}, "plot must name a file in"),
    ],
)
def test_a_broken_claim_is_not_written(tmp_path, changed, sentence):
    with pytest.raises(BadData, match=sentence):
        write(tmp_path, **changed)
    assert not list(tmp_path.iterdir())


def test_a_refused_claim_leaves_the_older_one(tmp_path):
    before = write(tmp_path).read_text()
    with pytest.raises(BadData):
        write(tmp_path, value=0.0)
    assert (tmp_path / "a_claim.json").read_text() == before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "cannot be read as evidence"),
        ("[]", "must hold one JSON object, but holds a list"),
        ('{"name": "a_claim", "colour": 1}', r"unknown fields \['colour'\]"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, sentence):
    path = tmp_path / "a_claim.json"
    path.write_text(text)
    with pytest.raises(BadData, match=sentence):
        evidence.load_all(tmp_path)


def test_a_renamed_file_is_noticed(tmp_path):
    path = write(tmp_path).rename(tmp_path / "other.json")
    with pytest.raises(BadData, match="name must be 'other' like the file"):
        evidence.load(path)


def test_the_table_shows_each_claim_on_one_row(tmp_path):
    write(tmp_path, metric="tics | frames", value=1012.4)
    head, line, row = evidence.table(evidence.load_all(tmp_path)).splitlines()
    assert head.count("|") == line.count("|") == row.replace("\\|", "").count("|") == 8
    assert "1,012 [1,000, 1,180]" in row
    assert ">= 750 reached" in row
    assert "random 210" in row
    assert evidence.table([]) == "Nothing was measured yet."


def test_splice_replaces_what_stands_between_the_markers():
    text = "head\n<!-- begin x -->\nold\n<!-- end x -->\ntail\n"
    new = evidence.splice(text, "x", "new")
    assert new == "head\n<!-- begin x -->\nnew\n<!-- end x -->\ntail\n"
    assert evidence.splice(new, "x", "new") == new
    with pytest.raises(BadData, match="no part between '<!-- begin y -->'"):
        evidence.splice(text, "y", "new")


def test_all_results_keep_the_schema():
    for claim in evidence.load_all(ROOT / "results"):
        assert claim.versions["torch"] != "not installed"


@pytest.mark.parametrize("document", ["docs/results.md", "README.md"])
def test_the_generated_parts_are_current(document):
    claims = evidence.load_all(ROOT / "results")
    body = {
        "docs/results.md": ("results", evidence.table(claims)),
        "README.md": ("schools", catalog.markdown(catalog.cards(), claims)),
    }[document]
    text = (ROOT / document).read_text(encoding="utf-8")
    assert evidence.splice(text, *body) == text, "run `make results` and commit what it renews"
