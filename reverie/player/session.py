"""One person's dream: what they may ask for, what happens at each step, what they are shown.

Pure logic: nothing here knows of a network, a thread or a clock. The engine asks all sessions for
their `moves`, steps the model once for all of them, and hands back what came. Imports the player's
own files and core.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from reverie.core.errors import BadData, ReverieError
from reverie.player.album import picture_of, tensors, watched
from reverie.player.branches import Branch, Branches, Moment, Real
from reverie.player.drive import Driver
from reverie.player.glimpse import look
from reverie.player.hands import Action
from reverie.player.messages import Command
from reverie.player.reality import Event, Reality, Recording, World
from reverie.player.subject import Subject, nothing

RATE = 24.0  # frames a second, unless the person says otherwise


class Move(NamedTuple):
    """A step that one branch is to take."""

    branch: Branch
    state: Any  # (1, ...)
    action: Action
    steered: bool


class Session:
    """See the module. All methods are called from one thread.

    Args:
        subject: that is played.
        seed: of this session's worlds and choices.
    """

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self._generator = torch.Generator(subject.model.device).manual_seed(seed)
        self._seeds = np.random.default_rng(seed)
        self.rate, self.playing, self.waiting = RATE, True, False
        self.temperature = subject.model.temperature
        self.uncertain = subject.unsure and subject.chance
        self.driver = Driver(subject, torch.Generator().manual_seed(seed))
        self.answered = 0  # the number of the person's last action
        self._reality: Reality | None = None
        self._world: World | None = None
        self._ended: tuple[int, Real] | None = None  # when reality was over, and its last moment
        self.why = ""  # nothing real is beside the dream
        self.notices: list[str] = []
        self.life = 0  # how many dreams were begun
        self.branches = self._begun()

    # --- what a person may ask for ----------------------------------------------------------------

    def obey(self, command: Command) -> None:
        """Carry out a checked command.

        Raises:
            ReverieError: if it cannot be done now; nothing has changed then.
        """
        getattr(self, f"_do_{command.do}")(**command.fields)

    def _do_act(self, action: Action, n: int) -> None:
        self.driver.press(action)
        self.answered = n

    def _do_play(self, *, on: bool) -> None:
        self.playing = on

    def _do_rate(self, value: float) -> None:
        self.rate = value

    def _do_temperature(self, value: float) -> None:
        if self.temperature is None:
            raise BadData("This model has no temperature: nothing in it is drawn that could widen.")
        self.temperature = value

    def _do_uncertain(self, *, on: bool) -> None:
        self.uncertain = on

    def _do_drive(self, who: str) -> None:
        self.driver.hand_over(who)
        if who == "recording" and not isinstance(self._reality, Recording):
            album = self.subject.album
            self.branches = self._begun(int(self._seeds.integers(len(album))), 0)

    def _do_fork(self) -> None:
        self.branches.fork()
        self.driver.forget()

    def _do_select(self, branch: int) -> None:
        self.branches.select(branch)
        self.driver.forget()

    def _do_close(self, branch: int) -> None:
        self.branches.close(branch)
        self.driver.forget()

    def _do_seek(self, time: int) -> None:
        self.branches.seek(time)
        self.playing = False
        self.driver.forget()

    def _do_begin(self, episode: int | None, step: int | None) -> None:
        self.branches = self._begun(episode, step)
        self.driver.forget()

    def _do_goal(self, episode: int, step: int) -> None:
        embed = self.subject.heads.embed
        if embed is None:
            raise BadData("A goal needs an embedding to measure distance in; this model has none.")
        found, step = self.subject.album.moment(episode, step)
        with torch.no_grad():
            self.driver.goal = embed(watched(self.subject.model, found, step, self._generator))
        self.driver.forget()

    def _do_wake(self) -> None:
        """The dream takes in what reality shows now."""
        branches = self.branches
        first = branches.get(0)
        real = first.at(branches.time).real
        if branches.selected != 0 or branches.time != first.end or real is None:
            raise BadData("Only the first branch can wake up, at its end, while reality goes on.")
        glimpse = look(self.subject.model, self.subject.heads, real.state)[0]
        moment = Moment(real.state, glimpse, first.moments[-1].action)
        first.moments[-1] = moment._replace(real=self._compared(moment, real))

    def upload(self, pixels: np.ndarray) -> None:
        """Dream on from a picture (C, H, W) of the model's own size; nothing real is beside it.

        Raises:
            SpaceMismatch: if the model reads more than pictures.
        """
        self.branches = Branches(self._moment(self._seen({"image": pixels})))
        self.life += 1
        self._ended, self._reality = None, None
        self.why = "This dream began in your picture: nothing is beside it."
        self.driver.forget()

    # --- the beginning ----------------------------------------------------------------------------

    def _begun(self, episode: int | None = None, step: int | None = None) -> Branches:
        """A dream from a moment of the album, else from a new episode of the world."""
        subject = self.subject
        self.life += 1
        self._ended, self.why = None, ""
        if episode is None and subject.world is not None:
            if self._world is None:
                self._world = World(subject.world(int(self._seeds.integers(2**31))), subject.hands)
            obs = self._world.reset(int(self._seeds.integers(2**31)))
            moment, self._reality = self._moment(self._seen(obs)), self._world
        elif len(subject.album):
            if episode is None:
                episode = int(self._seeds.integers(len(subject.album)))
            found, at = subject.album.moment(episode, step or 0)
            obs = {name: x[at] for name, x in found.obs.items()}
            state = watched(subject.model, found, at, self._generator)
            moment, self._reality = self._moment(state), Recording(found, at, subject.hands)
        else:
            obs = nothing(subject.model)
            moment, self._reality = self._moment(self._seen(obs)), None
            self.why = "There is no world and no data here, so the dream began in grey."
        if self._reality is not None:
            event = Event(obs, None, "")
            moment = moment._replace(real=self._met(moment, event, moment.state))
        return Branches(moment)

    def _seen(self, obs: dict[str, np.ndarray]) -> Any:
        """The state (1, ...) after one look."""
        model = self.subject.model
        given = tensors(model, {name: x[None] for name, x in obs.items()})
        with torch.no_grad():
            return model.observe(None, None, model.encode(given), generator=self._generator)

    def _moment(self, state: Any) -> Moment:
        """The first moment of a dream."""
        return Moment(state, look(self.subject.model, self.subject.heads, state)[0])

    # --- one step ---------------------------------------------------------------------------------

    def moves(self) -> list[Move] | None:
        """The steps to dream before the clock ticks; None: the dream waits for the person.

        Raises:
            ReverieError: if whoever acts cannot.
        """
        branches = self.branches
        if self.driver.acting and branches.time < branches.steered.end:
            branches.fork()  # another action in the past is another course of events
        steered, now = branches.steered, branches.time
        action: Action = None
        if steered.end == now:
            action = self.driver.choose(steered.at(now), self._reality)
            self.waiting = action is None and self.subject.hands.kind != "none"
            if self.waiting:
                return None
        return [
            Move(branch, branch.moments[-1].state, action, steered=True)
            if branch is steered
            else Move(branch, branch.moments[-1].state, self._goes_on(branch), steered=False)
            for branch in branches.all
            if branch.end == now
        ]

    def _goes_on(self, branch: Branch) -> Action:
        """What a branch does that nobody steers: what it did last."""
        return self.subject.hands.idle if branch.held is None else branch.held

    def arrive(self, moves: list[Move], moments: list[Moment]) -> tuple[Event, Any, Action] | None:
        """Take what was dreamed; the clock ticks.

        Args:
            moves: of this session.
            moments: what each came to.

        Returns:
            What happened in reality, the model's state before it, and the action, if it went
            along: whoever calls lets the model look at it and calls `meet`.
        """
        event = None
        for move, moment in zip(moves, moments, strict=True):
            before = move.branch.moments[-1].real
            move.branch.append(moment, self.branches.keep)
            if move.branch.number == 0 and before is not None and not before.over:
                event = self._happened(move.action, before)
        self.branches.tick()
        return event

    def _happened(self, action: Action, before: Real) -> tuple[Event, Any, Action] | None:
        """Reality's own step."""
        reality = self._reality
        try:
            event = None if reality is None else reality.step(action)
        except Exception as error:  # noqa: BLE001  # a world is foreign code; the dream goes on
            self._reality, self._world, event = None, None, None
            self.why = f"The world stopped working ({type(error).__name__}); the dream goes on."
        if event is None and isinstance(reality, Recording):
            self.why = "The recording did something else from here on."
        return None if event is None else (event, before.state, action)

    def meet(self, event: Event, state: Any) -> None:
        """Reality goes on beside the first branch.

        Args:
            event: what happened.
            state: (1, ...) what the model makes of it.
        """
        moments = self.branches.get(0).moments
        real = self._met(moments[-1], event, state)
        moments[-1] = moments[-1]._replace(real=real)
        if event.over:
            self._ended = (self.branches.get(0).end, real)

    def _met(self, moment: Moment, event: Event, state: Any) -> Real:
        """What really was seen, compared with what was dreamed."""
        picture = picture_of(self.subject.model, event.obs)
        flat = [x.ravel() for x in event.obs.values() if x.ndim == 1]
        vector = np.concatenate(flat).astype(np.float32) if flat else None
        real = Real(state, picture, vector, event.reward, event.over, None, None)
        return self._compared(moment, real)

    def _compared(self, moment: Moment, real: Real) -> Real:
        """Reality with its distances to a dream."""
        pixel = apart = None
        drawn, embed = moment.glimpse.picture, self.subject.heads.embed
        if drawn is not None and real.picture is not None and drawn.shape == real.picture.shape:
            pixel = float(np.abs(drawn.astype(np.float32) - real.picture).mean())
        if embed is not None and moment.glimpse.embed is not None:
            with torch.no_grad():
                really = embed(real.state).float().flatten(1)[0].cpu().numpy()
            apart = float(np.linalg.norm(really - moment.glimpse.embed))
        return real._replace(pixel=pixel, apart=apart)

    def close(self) -> None:
        """Give the world back."""
        if self._world is not None:
            self._world.close()
            self._world = None

    def say(self, error: ReverieError) -> None:
        """Tell the person at the next frame."""
        self.notices.append(str(error))

    @property
    def recorded(self) -> bool:
        """Whether what is beside the dream was recorded, not lived."""
        return isinstance(self._reality, Recording)

    @property
    def real(self) -> Real | None:
        """Reality now; after its end, its last moment without comparisons; None: there is none."""
        first, time = self.branches.get(0), self.branches.time
        found = first.at(time).real if time <= first.end else None
        if found is None and self._ended is not None and time > self._ended[0]:
            return self._ended[1]._replace(pixel=None, apart=None, reward=None)
        return found
