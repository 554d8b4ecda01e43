"""The command line as a person meets it: quick help, one sentence for each mistake."""

import io
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import reverie
from reverie import checkpoint, cli
from reverie.core import registry
from reverie.core.errors import BadCheckpoint, BadData
from reverie.core.types import Box, Discrete
from reverie.data.episode import Episode
from reverie.data.store import Store


def run(capsys, *arguments):
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def store_of(path, episodes=2, steps=5):
    with Store.create(path, {"vector": Box((2,))}, Discrete(3)) as store:
        for seed in range(episodes):
            rng = np.random.default_rng(seed)
            flags = np.arange(steps) == steps - 1
            store.append(
                Episode(
                    obs={"vector": rng.uniform(-1, 1, (steps + 1, 2)).astype(np.float32)},
                    action=rng.integers(3, size=steps),
                    reward=np.ones(steps, np.float32),
                    terminated=flags,
                    truncated=np.zeros(steps, bool),
                    extra={},
                    info={"seed": seed, "success": seed == 0},
                )
            )


def clock_store(path, shift):
    """A walk whose every step is its action, or, shifted, the action before."""
    rng = np.random.default_rng(0)
    with Store.create(path, {"vector": Box((1,), -99, 99)}, Box((1,))) as store:
        for seed in range(20):
            action = rng.uniform(-1, 1, (41, 1)).astype(np.float32)
            flags = np.arange(40) == 39
            place = np.concatenate([np.zeros((1, 1)), action[1:].cumsum(0)])
            store.append(
                Episode(
                    obs={"vector": place.astype(np.float32)},
                    action=action[1 - shift : 41 - shift],
                    reward=place[1:, 0].astype(np.float32),
                    terminated=flags,
                    truncated=np.zeros(40, bool),
                    extra={},
                    info={"seed": seed},
                )
            )


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom reverie import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'rich', 'tyro'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in found.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"], ["data", "--help"]])
def test_help_is_there_on_every_floor(capsys, arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 0
    assert "usage: reverie" in capsys.readouterr().out


def test_the_installed_module_runs_and_exits_with_the_code():
    command = [sys.executable, "-m", "reverie", "lsit"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("There is no command 'lsit'. Did you mean list?")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tran", "x"], "There is no command 'tran'. Did you mean train?"),
        (["train"], "The following arguments are required: recipe. See `reverie train --help`."),
        (
            ["train", "world_models_2018.dom_quick"],
            "There is no recipe 'world_models_2018.dom_quick'. Did you mean .*doom_quick",
        ),
        (["info", "world_model_2018"], "There is no model .* Did you mean world_models_2018"),
        (["check", "toy/clok"], "There is no model 'toy/clok'. Did you mean toy/clock"),
        (["list", "--orcales"], "`reverie list` does not take --orcales. See `reverie list"),
        (["data", "inspect", "nowhere"], "nowhere"),
        (["collect", "toy/clock", "x", "--episodes", "0"], "0 is not a whole number of 1 or more"),
        (["collect", "toy/clok", "x"], "toy/clok.*Did you mean"),
        (["eval", "nowhere"], "nowhere"),
        (["eval", "nowhere", "--episodes", "4"], "4 is not a whole number of 5 or more"),
        (["bench", "two_romms"], "There is no task 'two_romms'. Did you mean two_rooms?"),
        (
            ["bench", "two_rooms", "--models", "world_model_2018"],
            "There is no model 'world_model_2018'. Did you mean world_models_2018?",
        ),
        (["bench", "two_rooms", "--budget", "5"], "a time above 0 such as 90s, 5m or 1h, .* '5'"),
        (["bench", "two_rooms", "--budget", "0s"], "a time above 0 such as 90s, 5m or 1h"),
        (["bench", "two_rooms", "--seeds", "a"], "a is not a whole number of 0 or more"),
        (["bench", "two_rooms", "--models", ","], "',' names nothing"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(capsys, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.search(sentence, err)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_version(capsys):
    assert run(capsys, "--version") == (0, "reverie 0.1.0\n", "")


def test_list_shows_the_whole_taxonomy(capsys):
    code, out, _ = run(capsys, "list", "--oracles")
    assert code == 0
    for word in ("school", "family", "state", "z", "objective", "policy", "coupling", "heads"):
        assert word in out
    for name in (*registry.names("model"), *registry.names("oracle")):
        assert name in out


def test_list_shows_recipes_and_markdown(capsys):
    assert run(capsys, "list", "--recipes")[1].split() == list(registry.names("recipe"))
    assert run(capsys, "list", "--markdown")[1].startswith("| school | family |")


def test_a_narrow_terminal_gets_a_block_a_school():
    from rich.console import Console

    from reverie import catalog

    console = Console(width=60, record=True, file=io.StringIO())
    console.print(catalog.listing(catalog.cards(), 60))
    text = console.export_text()
    assert "objective" in text
    assert "arXiv:1803.10122" in text
    assert max(map(len, text.splitlines())) <= 60


def test_info_counts_the_parameters_of_the_paper(capsys):
    code, out, _ = run(capsys, "info", "world_models_2018")
    assert code == 0
    # V at z = 64 and M for Doom, as published: 4,446,915 + 1,678,785.
    for number in ("4,446,915", "1,678,785", "6,125,700"):
        assert number in out
    assert "world_models_2018.doom_quick" in out


def test_check_names_the_clauses(capsys):
    code, out, _ = run(capsys, "check", "toy/clock")
    assert code == 0
    assert re.match(r"toy/clock: \d+ clauses hold \(", out)


def test_collect_fills_a_store_and_a_second_time_lets_it_grow(capsys, tmp_path):
    arguments = ["collect", "toy/clock", str(tmp_path / "s"), "--num-envs", "2", "--episodes"]
    code, out, _ = run(capsys, *arguments, "3")
    assert (code, len(Store.open(tmp_path / "s"))) == (0, 3)
    assert f"3 episodes added to {tmp_path / 's'}: 3 in all." in out
    assert run(capsys, *arguments, "2")[0] == 0
    store = Store.open(tmp_path / "s")
    assert len(store) == 5
    first, *_, last = [store[i].info["seed"] for i in range(5)]
    assert first != last, "the same seed twice would give the same episodes twice"
    assert run(capsys, *arguments, "2", "--seed", "-1")[0] == 2


def test_collect_into_a_store_of_another_world_is_refused(capsys, tmp_path):
    store_of(tmp_path / "s")
    code, _, err = run(capsys, "collect", "toy/clock", str(tmp_path / "s"))
    assert code == 2
    assert "another world" in err
    assert len(Store.open(tmp_path / "s")) == 2


def test_data_inspect_says_what_is_there(capsys, tmp_path):
    store_of(tmp_path / "s")
    code, out, _ = run(
        capsys, "data", "inspect", str(tmp_path / "s"), "--sheet", str(tmp_path / "s.png")
    )
    assert code == 0
    for words in (r"episodes\s+2", r"steps\s+10", r"vector.*\(2,\)", r"Discrete\(n=3\)", "success"):
        assert re.search(words, out)


def test_data_validate_exits_by_the_verdict(capsys, tmp_path):
    for shift, code in ((0, 0), (1, 2)):
        clock_store(tmp_path / f"s{shift}", shift)
        found = run(capsys, "data", "validate", str(tmp_path / f"s{shift}"))
        assert found[0] == code
        assert ("look shifted" in found[1]) == bool(shift)
        assert ("keeps the data contract" in found[1]) != bool(shift)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (KeyboardInterrupt("Saved at update 7."), 130, "Saved at update 7."),
        (BadData("A [bracket] stays."), 2, "A [bracket] stays."),
    ],
)
def test_errors_become_sentences_and_codes(capsys, monkeypatch, error, code, sentence):
    def fail(options, rest):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "list", cli.COMMANDS["list"]._replace(run=fail))
    found = run(capsys, "list")
    assert found[0] == code
    assert sentence in found[2]


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    def fail(options, rest):
        raise ZeroDivisionError

    monkeypatch.setitem(cli.COMMANDS, "list", cli.COMMANDS["list"]._replace(run=fail))
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


class TestTrain:
    """`train` builds the run from the recipe's own options and hands it to the one loop."""

    @pytest.fixture
    def trained(self, monkeypatch):
        calls = []
        monkeypatch.setattr(registry, "_PATHS", {**registry._PATHS, "recipe": {}})
        monkeypatch.setitem(registry._PATHS["recipe"], "mine", f"{__name__}:mine")
        monkeypatch.setattr("reverie.train.train", lambda run, folder: calls.append((run, folder)))
        return calls

    def test_the_recipes_options_are_the_commands(self, capsys, trained, tmp_path):
        code, out, _ = run(
            capsys, "train", "mine", "--seed", "3", "--out", f"{tmp_path}/x", "--effort.units", "7"
        )
        ((made, folder),) = trained
        assert (code, made.seed, made.units, folder) == (0, 3, 7, tmp_path / "x")
        assert f"reverie report {tmp_path}/x" in out

    def test_the_folder_is_named_after_recipe_and_seed(self, capsys, trained):
        assert run(capsys, "train", "mine", "--seed", "4")[0] == 0
        assert str(trained[0][1]) == "runs/mine-4"

    def test_help_is_of_the_recipe(self, capsys, trained):
        with pytest.raises(SystemExit) as left:
            cli.main(["train", "mine", "--help"])
        assert left.value.code == 0
        assert "--effort.units" in capsys.readouterr().out
        assert not trained

    def test_a_wrong_option_is_refused_before_anything_starts(self, capsys, trained):
        with pytest.raises(SystemExit) as left:
            cli.main(["train", "mine", "--sed", "3"])
        assert left.value.code == 2
        assert "--seed" in capsys.readouterr().err  # the nearest
        assert not trained


class Effort:
    """How much.

    Args:
        units: of work.
    """

    def __init__(self, units: int = 5) -> None:
        self.units = units


def mine(*, seed: int = 0, effort: Effort = Effort()) -> SimpleNamespace:  # noqa: B008
    """A recipe.

    Args:
        seed: of everything.
        effort: how much.
    """
    return SimpleNamespace(name="mine", seed=seed, units=effort.units)


class TestRun:
    """A whole trip: train a recipe, score it, draw its page, load it in Python."""

    @pytest.fixture
    def folder(self, capsys, monkeypatch, tmp_path):
        monkeypatch.setitem(registry._PATHS, "recipe", {"tiny": f"{__name__}:tiny"})
        code, _, err = run(capsys, "train", "tiny", "--seed", "2", "--out", str(tmp_path / "run"))
        assert (code, err) == (0, "")
        return tmp_path / "run"

    def test_eval_writes_its_card_beside_its_baselines(self, capsys, folder):
        code, out, _ = run(capsys, "eval", str(folder), "--episodes", "6", "--num-envs", "3")
        assert code == 0
        assert re.search(r"tiny +│ +6 ", out)
        assert re.search(r"random +│ +6 ", out)
        assert re.search(r"psnr \(dB, higher is better\) +│ +\d", out)
        card = json.loads((folder / "card.json").read_text())
        assert card["environment"] == "a dream"
        assert list(card["states"]) == ["visited", "counterfactual"]
        assert (folder / "card.html").read_text().startswith("<!doctype html>")
        assert not list(folder.glob("states*")), "what it was judged on is not kept"

    def test_eval_prints_one_metric_or_json_or_says_which_there_are(
        self, capsys, folder, monkeypatch
    ):
        card = json.loads(CARD)
        monkeypatch.setattr("reverie.loaded.Loaded.report_card", lambda *_, **__: card)
        code, out, _ = run(capsys, "eval", str(folder), "--metric", "psnr")
        assert (code, out) == (0, "psnr (dB, higher is better): 21 [20, 22]; copy 18\n")
        code, out, _ = run(capsys, "eval", str(folder), "--json")
        assert (code, json.loads(out)) == (0, card)
        code, out, err = run(capsys, "eval", str(folder), "--metric", "psnrr")
        assert (code, out) == (2, "")
        assert "There is no metric 'psnrr'. Did you mean psnr?" in err

    def test_a_run_without_a_checkpoint_has_no_score(self, capsys, folder):
        shutil.rmtree(folder / "checkpoint")
        code, out, err = run(capsys, "eval", str(folder))
        assert (code, out) == (2, "")
        assert "holds no checkpoint" in err

    def test_a_model_of_another_world_has_no_score(self, capsys, folder, monkeypatch):
        monkeypatch.setitem(registry._PATHS["recipe"], "tiny", f"{__name__}:stranger")
        code, out, err = run(capsys, "eval", str(folder))
        assert (code, out) == (2, "")
        assert "world_models_2018 reads 'image' as" in err
        assert "toy/clock shows only vector" in err

    def test_report_writes_one_page(self, capsys, folder):
        code, out, _ = run(capsys, "report", str(folder))
        assert code == 0
        assert f"The page is {folder}" in out
        assert (folder / "report.html").read_text().lstrip().lower().startswith("<!doctype html")

    def test_python_loads_it_and_it_acts(self, folder):
        import reverie

        loaded = reverie.load(folder)
        obs = {"image": torch.zeros(2, 3, 64, 64, dtype=torch.uint8)}
        _, act = loaded.act(loaded.agent.initial(2), obs, torch.ones(2, dtype=torch.bool))
        assert act.action.shape == (2,)
        dream = loaded.imagine(obs, torch.zeros(2, 4, dtype=torch.int64))
        assert dream["image"].shape == (2, 5, 3, 64, 64)

    def test_the_loaded_run_is_evaluated_in_its_own_world(self, folder):
        found = reverie.load(folder).evaluate(5, num_envs=2)
        assert len(found.returns) == 5
        assert max(found.lengths) <= 8

    def test_a_run_that_stopped_early_is_not_loaded(self, folder, tmp_path):
        stopped = tmp_path / "stopped"
        shutil.copytree(folder, stopped)
        state = checkpoint.load(stopped / "checkpoint")
        checkpoint.save(stopped / "checkpoint", {**state, "index": 0})
        with pytest.raises(BadCheckpoint, match="it stands in stage 'rest' of rest"):
            reverie.load(stopped)

    def test_a_recipe_without_a_device_refuses_one(self, capsys, folder):
        code, _, err = run(capsys, "eval", str(folder), "--device", "cpu")
        assert code == 2
        assert "takes no device" in err

    def test_its_agent_collects_in_the_runs_own_world(self, capsys, folder, tmp_path):
        words = [str(tmp_path / "s"), "--agent", str(folder), "--episodes", "3", "--num-envs", "2"]
        code, _, err = run(capsys, "collect", "CartPole-v1", *words)
        assert code == 2
        assert "acts in a dream as its recipe makes it; CartPole-v1" in err
        assert run(capsys, "collect", "a dream", *words)[0] == 0
        assert max(Store.open(tmp_path / "s").lengths) <= 8

    def test_too_few_episodes_are_refused(self, capsys, folder):
        code, _, err = run(capsys, "eval", str(folder), "--episodes", "4")
        assert code == 2
        assert "4 is not a whole number of 5 or more" in err

    def test_another_recipe_in_its_folder_is_refused(self, capsys, folder):
        code, _, err = run(capsys, "train", "tiny", "--seed", "3", "--out", str(folder))
        assert code == 2
        assert "seed" in err


CARD = """{"name": "tiny", "environment": "a dream", "unit": "return", "by": "return",
  "model": {"title": "T", "paper": "P", "state": "s", "z": "z"}, "parameters": 3, "context": 4,
  "horizon": 5, "simulator": null, "knee": null, "control": [], "missing": [], "seconds": 1.0,
  "states": {"visited": {"about": "", "episodes": 9, "measures": [{
    "name": "psnr", "group": "prediction", "what": "Of frames.", "unit": "dB", "better": "higher",
    "value": {"value": 21, "low": 20, "high": 22}, "curve": [],
    "baselines": {"copy": {"value": 18, "low": 17, "high": 19}}, "baseline_curves": {}}]}}}"""


def tiny(*, seed: int = 0):
    """A recipe whose real world is another model's dream.

    Args:
        seed: of the run.
    """
    from reverie.agent import PolicyAgent, RandomAgent
    from reverie.behaviors.evolution import Controller
    from reverie.core import tree
    from reverie.imagine import Dream
    from reverie.run import Run, Stage

    actions = Discrete(3)
    model = registry.instance("world_models_2018", small=True)
    true = registry.instance("world_models_2018", small=True)
    black = {"image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}

    def start(n, generator):
        h = true.encode(black)
        return true.observe(None, None, tree.repeat(h, n), generator=generator)

    controller = Controller(4 + 2 * 8, actions, ordered=True)
    return Run(
        name="tiny",
        seed=seed,
        model=model,
        behavior=controller,
        stages=lambda folder: (Stage("rest"),),
        agent=PolicyAgent(model, lambda state, generator: controller(model.heads.features(state))),
        baselines={"random": RandomAgent(actions)},
        world=lambda num_envs, seed: Dream(true, start, num_envs, time_limit=8, seed=seed),
        environment="a dream",
        config={"seed": seed},
    )


def stranger(*, seed: int = 0):
    """The same recipe, about a world that the model cannot see.

    Args:
        seed: of the run.
    """
    from dataclasses import replace

    from reverie.envs import toy

    world = lambda num_envs, seed: toy.Clock(num_envs, seed=seed)  # noqa: E731
    return replace(tiny(seed=seed), world=world, environment="toy/clock")
