"""Progress: what is written where, with clocks that the test moves."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from reverie.progress import Bars, Lines, Silent, terminal


class Clock:
    """Time stands still until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Tty(io.StringIO):
    def isatty(self):
        return True


def test_lines_come_at_most_every_ten_seconds_and_at_the_end():
    stream, clock = io.StringIO(), Clock()
    with Lines(stream, clock=clock).task("memory", 400) as task:
        for _ in range(99):
            clock.now += 0.1
            task.advance(1, nll=1.0)
        assert stream.getvalue() == ""  # 9.9 s
        clock.now += 0.2
        task.advance(1, nll=1.23456)
        # 100 of 400 in 10.1 s: 30.3 s are left
        assert stream.getvalue() == "memory 100/400 (25%), 0:00:10 spent, 0:00:30 left, nll 1.235\n"
        clock.now += 3600
        task.advance(300)
    assert stream.getvalue().splitlines()[1:] == [
        "memory 400/400 (100%), 1:00:10 spent, nll 1.235",
        "memory 400/400 (100%), 1:00:10 spent, nll 1.235",
    ]


def test_time_left_of_a_resumed_task_counts_only_what_this_process_did():
    stream, clock = io.StringIO(), Clock()
    with Lines(stream, clock=clock).task("memory", 100, done=80) as task:
        clock.now += 20
        task.advance(10)
    assert stream.getvalue().splitlines()[0] == ("memory 90/100 (90%), 0:00:20 spent, 0:00:20 left")


def test_a_task_without_work_says_nothing():
    stream = io.StringIO()
    with Lines(stream).task("collect", 10, done=10):
        pass
    assert stream.getvalue() == ""


def test_the_terminal_gets_bars_and_a_pipe_gets_lines():
    assert isinstance(terminal(Tty()), Bars)
    assert isinstance(terminal(io.StringIO()), Lines)


def test_bars_show_progress_and_at_most_four_metrics():
    stream = Tty()
    bars = Bars(Console(file=stream, force_terminal=True, width=140))
    with bars.task("vision", 20, done=5) as task:
        task.advance(5, a=1.0, b=2.0, c=3.0, d=4.0, e=5.0)
        task.advance(10)
    text = stream.getvalue()
    assert "vision" in text
    assert "20/20" in text
    assert "a 1  b 2  c 3  d 4" in text
    assert "e 5" not in text


def test_inner_bars_disappear_and_the_display_ends_with_the_outermost():
    stream = Tty()
    bars = Bars(Console(file=stream, force_terminal=True, width=140))
    with bars.task("outer", 2) as outer:
        with bars.task("inner", 1) as inner:
            inner.advance()
        outer.advance(2)
    ended = stream.getvalue()
    assert "inner" not in ended.rsplit("outer", 1)[1]
    with bars.task("next", 1) as task:  # a new display
        task.advance()
    assert "next" in stream.getvalue()[len(ended) :]


def test_bars_let_go_of_the_screen_after_an_error():
    stream = Tty()
    bars = Bars(Console(file=stream, force_terminal=True, width=140))
    with pytest.raises(KeyboardInterrupt), bars.task("outer", 2), bars.task("inner", 2):
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_silence(capfd):
    with Silent().task("x", 3) as task:
        task.advance(3, loss=1.0)
    assert capfd.readouterr() == ("", "")
