"""Environments by name; see `reverie.envs.gym` for `make` and `reverie.envs.tasks` for `Task`."""

from reverie.envs.gym import make, spaces
from reverie.envs.tasks import NAMESPACES, Task, task

__all__ = ["NAMESPACES", "Task", "make", "spaces", "task"]
