"""The table of planners and schools: what it says is what planning finds, and the README has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reverie import cli, pairs
from reverie.core import registry
from reverie.core.errors import BadConfig

README = Path(__file__).resolve().parents[1] / "README.md"
PAIRS = {name: pairs.pairs(name) for name in registry.names("model")}


def test_the_readme_s_table_is_what_was_found(capsys):
    found = pairs.table(registry.names("model"))
    assert found in README.read_text(encoding="utf-8")
    cli.main(["list", "--pairs"])
    assert capsys.readouterr().out == found + "\n"
    assert found.count("\n") == 1 + len(PAIRS)


def test_pairs_that_the_schools_are_there_for():
    """PETS under MPPI, CEM over MuZero's latent, a search in TD-MPC2, goals for the JEPAs."""
    assert PAIRS["pets"]["MPPI"] == PAIRS["muzero"]["CEM"] == PAIRS["dreamer_v3"]["CEM"] == "return"
    assert PAIRS["tdmpc2"]["MCTS, Gumbel"] == PAIRS["muzero"]["MCTS, pUCT"] == "value"
    assert PAIRS["dreamer_v3"]["MCTS, pUCT"] == "lent"
    assert PAIRS["lewm"]["gradients"] == PAIRS["vjepa2_ac"]["CEM"] == "goal"
    assert PAIRS["world_models_2018"]["CEM"] == "survival"


def test_what_cannot_be_is_not_there():
    """Models without actions plan nothing; gradients do not pass a choice of buttons."""
    assert set(PAIRS["ijepa"].values()) == set(PAIRS["vjepa"].values()) == {"-"}
    assert PAIRS["muzero"]["gradients"] == "-"
    assert PAIRS["lewm"]["MCTS, pUCT"] == "-"  # nothing says what a state is worth


def test_a_planner_that_refuses_is_no_pair(monkeypatch):
    class Refuses:
        def plan(self, model, state, objective):
            raise BadConfig("It never plans. Choose another.")

    monkeypatch.setattr(pairs, "PLANNERS", {"refuses": Refuses()})
    assert pairs.pairs("dreamer_v3") == {"refuses": "-"}


def test_a_planner_that_breaks_is_not_hidden(monkeypatch):
    class Breaks:
        def plan(self, model, state, objective):
            raise ZeroDivisionError

    monkeypatch.setattr(pairs, "PLANNERS", {"breaks": Breaks()})
    with pytest.raises(ZeroDivisionError):
        pairs.pairs("dreamer_v3")
