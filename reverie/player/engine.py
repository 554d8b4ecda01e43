"""The thread in which all dreaming is done: it collects the steps that are due and takes them.

The network's side calls `open`, `submit` and `close` from any thread; sessions are made, asked
and closed in the engine's own. Steps of one rate fall on the same grid of time, so sessions of that
rate are always one batch. Imports the player's own files and core.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from reverie.core.errors import BadConfig, BadData, ReverieError
from reverie.player import show
from reverie.player.messages import Command, pack
from reverie.player.session import Session
from reverie.player.subject import Subject
from reverie.player.together import together

_log = logging.getLogger(__name__)

MOST = 16  # sessions at once
WAITING = 64  # commands of a session that may wait
_SLOWLY = 0.9  # weight of the past in what is measured


class Film(NamedTuple):
    """Frames that are to be encoded elsewhere."""

    frames: np.ndarray  # (N, 3, h, w) uint8
    kind: str
    rate: float


class Left(NamedTuple):
    """A session is over; nothing more will come."""

    why: str


Emit = Callable[[bytes | Film | Left], None]


@dataclass
class _Seat:
    """A session and the person who has it."""

    emit: Emit
    inbox: deque[Command | np.ndarray] = field(default_factory=deque)
    session: Session | None = None  # made at the next round
    due: float = 0.0
    once: bool = False  # a step was asked for while the dream is paused
    changed: bool = True  # there is news to show
    closing: bool = False


class Engine:
    """Plays one subject with many people.

    Args:
        subject: that is played.
        seed: of all randomness.
    """

    def __init__(self, subject: Subject, *, seed: int = 0) -> None:
        self.subject = subject
        self._seeds = np.random.default_rng(seed)
        self._generator = torch.Generator(subject.model.device).manual_seed(seed)
        self._seats: dict[int, _Seat] = {}
        self._next, self._stopping = 0, False
        self._news = threading.Condition()
        self._millis = self._rows = 0.0  # of a step, of late
        self._thread = threading.Thread(target=self._run, name="reverie-player", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Close all sessions and end the thread."""
        with self._news:
            self._stopping = True
            self._news.notify()
        self._thread.join(timeout=10)

    def open(self, emit: Emit) -> int:
        """A new session.

        Args:
            emit: is called in the engine's thread with all that the person is to get; must not
                wait.

        Raises:
            BadConfig: if all seats are taken.
        """
        with self._news:
            if sum(not seat.closing for seat in self._seats.values()) >= MOST:
                raise BadConfig(f"{MOST} people are playing, which is all that fit. Come later.")
            self._next += 1
            self._seats[self._next] = _Seat(emit)
            self._news.notify()
            return self._next

    def submit(self, number: int, what: Command | np.ndarray) -> None:
        """Hand in a command, or a picture (C, H, W) to dream on from.

        Raises:
            BadData: if too many wait already.
        """
        with self._news:
            seat = self._seats.get(number)
            if seat is None or seat.closing:
                return
            if len(seat.inbox) >= WAITING:
                raise BadData(f"{WAITING} messages wait already. Send them more slowly.")
            seat.inbox.append(what)
            self._news.notify()

    def close(self, number: int) -> None:
        """Free all that a session holds."""
        with self._news:
            if number in self._seats:
                self._seats[number].closing = True
                self._news.notify()

    @property
    def sessions(self) -> int:
        """How many are open."""
        with self._news:
            return len(self._seats)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        """Until stopped: obey, step what is due, show what is new."""
        while self._wait():
            seats = self._open_seats()
            for number, seat in seats:
                self._safely(number, seat, self._obeyed)
            now = time.monotonic()
            due = [seat for _, seat in seats if _is_due(seat, now)]
            if due:
                self._step(due, now)
            for number, seat in seats:
                if seat.changed:
                    self._safely(number, seat, self._shown)
        for number, seat in self._open_seats():
            self._dismiss(number, seat, "The player was stopped.")

    def _wait(self) -> bool:
        """Sleep until something is to be done; False: stop."""
        with self._news:
            while not self._stopping:
                seats = list(self._seats.values())
                if any(s.inbox or s.closing or s.session is None for s in seats):
                    return True
                dues = [s.due for s in seats if s.session and (s.session.playing or s.once)]
                left = min(dues) - time.monotonic() if dues else None
                if left is not None and left <= 0:
                    return True
                self._news.wait(left)
            return False

    def _open_seats(self) -> list[tuple[int, _Seat]]:
        """Seats that go on; those that are closing are dismissed."""
        with self._news:
            seats = list(self._seats.items())
        for number, seat in seats:
            if seat.closing:
                self._dismiss(number, seat, "")
        return [(number, seat) for number, seat in seats if not seat.closing]

    def _dismiss(self, number: int, seat: _Seat, why: str) -> None:
        """Forget a session."""
        with self._news:
            self._seats.pop(number, None)
            seat.closing = True
        if seat.session is not None:
            try:
                seat.session.close()
            except Exception:  # noqa: BLE001  # a world is foreign code, and the others play on
                _log.exception("a world could not be closed")
        seat.session = None
        seat.emit(Left(why))

    def _safely(self, number: int, seat: _Seat, act: Callable[[_Seat], None]) -> None:
        """Do something for one session; what fails there concerns it alone."""
        if seat.closing:
            return
        try:
            act(seat)
        except ReverieError as error:
            seat.emit(pack({"kind": "error", "text": str(error)}, []))
            if seat.session is None:
                self._dismiss(number, seat, str(error))
        except Exception as error:  # noqa: BLE001  # models and worlds are foreign code
            _log.exception("session %d failed", number)
            self._dismiss(number, seat, f"The dream broke ({type(error).__name__}). Reload.")

    def _obeyed(self, seat: _Seat) -> None:
        """Make the session if it is new, then carry out what was asked."""
        if seat.session is None:
            seat.session = Session(self.subject, int(self._seeds.integers(2**31)))
        while True:
            with self._news:
                what = seat.inbox.popleft() if seat.inbox else None
            if what is None:
                return
            seat.changed = seat.changed or not isinstance(what, Command) or what.do != "act"
            try:
                self._obey(seat, seat.session, what)
            except ReverieError as error:
                seat.emit(pack({"kind": "error", "text": str(error)}, []))

    def _obey(self, seat: _Seat, session: Session, what: Command | np.ndarray) -> None:
        """One command."""
        if isinstance(what, np.ndarray):
            session.upload(what)
        elif what.do == "step":
            seat.once = True
        elif what.do == "film":
            seat.emit(Film(show.film(session), what.fields["kind"], session.rate))
        elif what.do == "peek":
            found = self.subject.album.frame(what.fields["episode"], what.fields["step"])
            pictures = [] if found is None else [found]
            seat.emit(pack({"kind": "peek", **what.fields}, pictures))
        else:
            session.obey(what)

    def _step(self, seats: list[_Seat], now: float) -> None:
        """One step of all that are due."""
        owners = {id(seat.session): seat for seat in seats}
        sessions = [seat.session for seat in seats if seat.session is not None]
        waited = {id(s): s.waiting for s in sessions}
        moved = self._moved(sessions)
        millis = 1000 * (time.monotonic() - now)
        if moved:
            self._millis = _SLOWLY * self._millis + (1 - _SLOWLY) * millis
            self._rows = _SLOWLY * self._rows + (1 - _SLOWLY) * len(moved)
        for session in sessions:
            seat = owners[id(session)]
            if seat.closing:
                continue
            period = 1 / session.rate
            seat.due = (np.floor(time.monotonic() / period) + 1) * period
            seat.once = False
            news = session in moved or session.waiting != waited[id(session)] or session.notices
            seat.changed = seat.changed or bool(news)

    def _moved(self, sessions: list[Session]) -> list[Session]:
        """Step all at once; if that fails, each alone, and let go of those that still fail."""
        try:
            return together(self.subject, sessions, self._generator)
        except Exception:  # noqa: BLE001  # models are foreign code
            _log.exception("a step of %d sessions failed", len(sessions))
        moved = []
        for number, seat in self._open_seats():
            if seat.session in sessions:
                self._safely(number, seat, lambda seat: moved.extend(self._alone(seat)))
        return moved

    def _alone(self, seat: _Seat) -> list[Session]:
        """A step of one session."""
        return (
            [] if seat.session is None else together(self.subject, [seat.session], self._generator)
        )

    def _shown(self, seat: _Seat) -> None:
        """The frame that is to be seen now."""
        if seat.session is not None:
            seat.changed = False
            measured = {"ms": self._millis, "together": self._rows, "people": len(self._seats)}
            seat.emit(show.frame(seat.session, **measured))


def _is_due(seat: _Seat, now: float) -> bool:
    """Whether a session takes a step now."""
    session = seat.session
    return session is not None and (seat.once or (session.playing and seat.due <= now))
