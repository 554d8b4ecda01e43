"""What the README promises: its example runs, its commands exist."""

import re
from pathlib import Path

from reverie import cli
from reverie.evidence import splice

ROOT = Path(__file__).resolve().parents[1]
OPTIMUM = 4  # 10 at the goal, -1 for each of 6 steps before: the map's best from the top left
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example() -> str:
    begin, end = "<!-- begin example -->\n```python\n", "```\n<!-- end example -->"
    return README.split(begin)[1].split(end)[0]


def test_the_example_runs_and_reaches_the_goal_by_the_shortest_way(capsys):
    space: dict = {}
    exec(compile(example(), "README.md", "exec"), space)
    assert space["reward"].view(len(space["plans"]), -1).sum(1).max() == OPTIMUM
    promised = re.search(r"print\(.*\)  # (\[.*\]):", example()).group(1)
    assert capsys.readouterr().out == promised + "\n"


def test_the_example_is_twelve_lines_and_its_imports():
    lines = [line for line in example().splitlines() if line]
    assert len([line for line in lines if "import" not in line]) <= 12
    assert max(map(len, lines)) <= 100


def test_every_command_it_names_is_there():
    documents = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`reverie ([a-z]+)", documents))
    assert named
    assert named <= set(cli.COMMANDS)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`?make ([a-z]+)", documents)) <= set(targets)


def test_the_links_lead_somewhere():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_generated_parts_are_marked():
    for name in ("example", "schools", "pairs"):
        assert splice(README, name, "x") != README
