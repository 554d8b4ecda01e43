"""The command line: a thin skin over functions that Python can call. Everything may be imported.

Each command is one function with its options declared beside it. Nothing heavy is imported until
a command runs, so that `reverie --help` answers at once. A `ReverieError` is shown as its one
sentence with exit code 2; any other error is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from reverie import cli_judge, data_cli
from reverie.cli_judge import at_least
from reverie.core import registry
from reverie.core.errors import BadConfig, BadData, ReverieError
from reverie.player import command as play

if TYPE_CHECKING:
    from reverie.data.store import Store
    from reverie.loaded import Loaded

BAD_INPUT = 2
INTERRUPTED = 130


class Command(NamedTuple):
    """One word after `reverie`."""

    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, list[str]], None]


class _Parser(argparse.ArgumentParser):
    """Argparse that raises one sentence instead of printing a page and leaving."""

    def error(self, message: str) -> NoReturn:
        raise BadConfig(f"{message[:1].upper()}{message[1:]}. See `{self.prog} --help`.")


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: without the program's name.

    Returns:
        The exit code: 0, 2 for bad input, 130 if interrupted.
    """
    try:
        _dispatch(list(arguments))
    except ReverieError as error:
        _complain(str(error))
        return BAD_INPUT
    except KeyboardInterrupt as error:
        _complain(str(error) or "Interrupted. Nothing that was saved is lost.")
        return INTERRUPTED
    except BrokenPipeError:  # `reverie list | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _dispatch(arguments: list[str]) -> None:
    word = arguments[0] if arguments else "--help"
    if not word.startswith("-") and word not in COMMANDS:
        raise registry.unknown("command", word, COMMANDS)
    parser = _Parser(
        prog="reverie",
        description="World models of every school behind one small contract.",
        epilog="Each command explains itself: `reverie train --help`.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name, command in COMMANDS.items():
        description = f"{command.help[:1].upper()}{command.help[1:]}."
        own = commands.add_parser(
            name, help=command.help, description=description, allow_abbrev=False
        )
        command.options(own)
    known, rest = parser.parse_known_args(_hide_help(arguments) or ["--help"])
    if known.version:
        from reverie import __version__

        _say(f"reverie {__version__}")
        return
    if rest and word != "train":
        raise BadConfig(f"`reverie {word}` does not take {rest[0]}. See `reverie {word} --help`.")
    COMMANDS[word].run(known, rest)


def _hide_help(arguments: list[str]) -> list[str]:
    """`train RECIPE --help` is the recipe's help, which tyro prints."""
    named = len(arguments) > 1 and arguments[0] == "train" and not arguments[1].startswith("-")
    return [_RECIPE_HELP if named and a in ("-h", "--help") else a for a in arguments]


_RECIPE_HELP = "--recipe-help"


def _complain(sentence: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(sentence, style="bold red"))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


# -- list, info, check ---------------------------------------------------------------------------


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--oracles", action="store_true", help="also the toy worlds' true models")
    parser.add_argument("--recipes", action="store_true", help="the names that `train` takes")
    parser.add_argument(
        "--pairs", action="store_true", help="which planner plans in which school, by trying"
    )
    parser.add_argument("--markdown", action="store_true", help="the table of the README")


def _list(options: argparse.Namespace, rest: list[str]) -> None:
    if options.recipes:
        _say("\n".join(registry.names("recipe")))
        return
    from rich.console import Console

    from reverie import catalog

    if options.pairs:
        from reverie.pairs import table

        _say(table(registry.names("model")))
        return
    found = catalog.cards(oracles=options.oracles)
    if options.markdown:
        _say(catalog.markdown(found))
        return
    console = Console()
    catalog.show(catalog.listing(found, console.width if console.is_terminal else 10**4))


def _info_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a school, as `world_models_2018`, or an oracle")


def _info(options: argparse.Namespace, rest: list[str]) -> None:
    from reverie import catalog

    catalog.show(catalog.describe(options.name))


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="schools and oracles; none: all of them")


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    from reverie.core.check import check_world_model

    names = options.names or [*registry.names("oracle"), *registry.names("model")]
    for name in names:
        clauses = check_world_model(registry.instance(name, small=True))
        _say(f"{name}: {len(clauses)} clauses hold ({', '.join(clauses)})")


# -- collect -------------------------------------------------------------------------------------


def _collect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env", help="a Gymnasium id, or doom/take_cover, toy/two_rooms, ...")
    parser.add_argument("store", type=Path, help="folder of the store; an existing one grows")
    parser.add_argument("--agent", type=Path, help="a run's folder; without it: random actions")
    parser.add_argument("--episodes", type=at_least(1), default=100, help="default 100")
    parser.add_argument("--seed", type=at_least(0), default=0, help="default 0")
    parser.add_argument("--num-envs", type=at_least(1), default=8, help="worlds at once, default 8")
    parser.add_argument("--workers", type=int, default=0, help="processes that step them")


def _collect(options: argparse.Namespace, rest: list[str]) -> None:
    from reverie import envs
    from reverie.agent import RandomAgent
    from reverie.data.collect import collect
    from reverie.data.fill import mixed
    from reverie.progress import terminal

    loaded = _whose(options)
    if loaded:
        env = loaded.world(options.num_envs, options.seed)
    else:
        env = envs.make(options.env, options.num_envs, seed=options.seed, workers=options.workers)
    with contextlib.closing(env):
        observations, actions = envs.spaces(env)
        agent = loaded.agent if loaded else RandomAgent(actions)
        with _store(options.store, observations, actions) as store:
            collect(
                env,
                agent,
                episodes=options.episodes,
                seed=mixed(options.seed, len(store)),  # more of the same would teach nothing
                on_episode=store.append,
                progress=terminal(),
            )
            total = len(store)
    _say(f"{options.episodes} episodes added to {options.store}: {total} in all.")


def _whose(options: argparse.Namespace) -> Loaded | None:
    """The run that is to act, in its own world: crops and sizes are the recipe's."""
    if not options.agent:
        return None
    from reverie.loaded import load

    loaded = load(options.agent)
    if options.env != loaded.run.environment or options.workers:
        raise BadConfig(
            f"{options.agent} acts in {loaded.run.environment} as its recipe makes it; "
            f"{options.env} with {options.workers} workers was asked for. "
            f"Name {loaded.run.environment} and leave --workers out."
        )
    return loaded


def _store(path: Path, observations: dict[str, Any], actions: Any) -> Store:
    """The store at a path, made if there is none, open to append what a world gives."""
    from reverie.data.store import Store

    if not path.exists():
        return Store.create(path, observations, actions)
    store = Store.open(path, writable=True)
    if (store.observations, store.actions) != (observations, actions):
        found = f"{store.observations} and actions {store.actions}"
        store.close()
        raise BadData(
            f"{path} holds episodes of another world: {found}, not {observations} and {actions}. "
            "Choose another path."
        )
    return store


# -- train ---------------------------------------------------------------------------------------


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "reverie train RECIPE [--out FOLDER] [the recipe's own options]"
    parser.epilog = "`reverie train RECIPE --help` shows the recipe's own options."
    parser.add_argument("recipe", help="as `reverie list --recipes` shows them")
    parser.add_argument(
        "--out", type=Path, help="folder of the run, default runs/RECIPE-SEED; resumed if it exists"
    )
    parser.add_argument(_RECIPE_HELP, action="store_true", help=argparse.SUPPRESS)


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    if options.recipe not in registry.names("recipe") and rest:
        raise BadConfig(
            f"`reverie train` takes the recipe's name first, then its options; "
            f"'{options.recipe}' is no recipe. See `reverie list --recipes`."
        )
    build = registry.recipe(options.recipe)
    import tyro

    run = tyro.cli(
        build,
        prog=f"reverie train {options.recipe}",
        args=["--help"] if options.recipe_help else rest,
    )
    from reverie.train import train

    folder = options.out or Path("runs") / f"{options.recipe}-{run.seed}"
    train(run, folder)
    _say(f"The run is in {folder}. Next: reverie eval {folder}; reverie report {folder}")


# -- report ----------------------------------------------------------------------------------------


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")


def _report(options: argparse.Namespace, rest: list[str]) -> None:
    from reverie.evaluate import report

    page = report.write(options.run)
    _say(f"The page is {page}")
    if options.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


_DATA = (data_cli.options, data_cli.run)

COMMANDS: dict[str, Command] = {
    "list": Command("the taxonomy of all schools", _list_options, _list),
    "info": Command("one school in full: card, spaces, parts, parameters", _info_options, _info),
    "collect": Command("fill a store with episodes of a world", _collect_options, _collect),
    "train": Command("run a recipe; a killed run goes on where it was", _train_options, _train),
    "eval": Command("write a run's report card", cli_judge.eval_options, cli_judge.evaluate),
    "bench": Command("rank models on the same data", cli_judge.bench_options, cli_judge.bench),
    "play": Command("step into a dream, in the browser", play.options, play.run),
    "report": Command("write one page about a run", _report_options, _report),
    "check": Command("prove that models keep the contract", _check_options, _check),
    "data": Command("any format: convert, inspect, validate, split, stats", *_DATA),
}
