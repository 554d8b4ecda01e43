"""`reverie play`: its options, and what it does. Imports the player when it runs."""

from __future__ import annotations

import argparse
import sys


def options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes.

    Args:
        parser: of the command.
    """
    parser.add_argument(
        "run", help="a run's folder, or a model by name: toy/two_rooms needs no training"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; others need a token")
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any free one")
    parser.add_argument("--seed", type=int, default=0, help="of worlds and dreams, default 0")
    parser.add_argument("--device", help="where the model dreams; default: where it was trained")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")


def run(given: argparse.Namespace, rest: list[str]) -> None:
    """Serve until interrupted.

    Args:
        given: the parsed options.
        rest: nothing.

    Raises:
        ReverieError: if there is nothing to play, or the port is taken.
    """
    del rest
    from reverie.core.registry import require

    for package in ("starlette", "uvicorn", "websockets"):
        require(package, "play")
    from reverie.player.server import serve
    from reverie.player.subject import subject_of

    def announce(address: str) -> None:
        sys.stdout.write(f"Play at {address}  (Ctrl+C ends it)\n")
        sys.stdout.flush()
        if given.open:
            import webbrowser

            webbrowser.open(address)

    subject = subject_of(given.run, device=given.device)
    serve(subject, given.host, given.port, announce, seed=given.seed)
