"""Which segments to draw: uniform, recent, prioritised. Imports core only.

A strategy sees segments as numbers 0..count-1 in the order in which the data was written, and
draws some. A store only grows at its end, so a number stays with its segment.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from reverie.core.errors import BadCheckpoint, BadConfig, BadData


class Draw(NamedTuple):
    """Segments that were drawn."""

    index: np.ndarray  # (B,) int64 in 0..count-1
    weight: np.ndarray  # (B,) float32: 1 / (count * probability), undoes the preference


class Strategy(Protocol):
    """How segments are drawn; a strategy with memory also saves it."""

    def draw(self, rng: np.random.Generator, count: int, n: int) -> Draw:
        """Draw n of count segments with replacement."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and numbers by name."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...


class _Memoryless:
    """State of a strategy that has none."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


class Uniform(_Memoryless):
    """Every segment alike."""

    def draw(self, rng: np.random.Generator, count: int, n: int) -> Draw:
        """Draw n of count segments with replacement."""
        return Draw(rng.integers(count, size=n), np.ones(n, np.float32))


class Recent(_Memoryless):
    """New segments more often: a segment half_life older is drawn half as often.

    Args:
        half_life: in transitions.

    Raises:
        BadConfig: if half_life is not positive.
    """

    def __init__(self, half_life: float = 10_000) -> None:
        if not half_life > 0:
            raise BadConfig(f"Recent.half_life must be positive, but it is {half_life}. Raise it.")
        self.half_life = half_life

    def draw(self, rng: np.random.Generator, count: int, n: int) -> Draw:
        """Draw n of count segments with replacement: P(age) ~ 2 ** (-age / half_life)."""
        log_q = -np.log(2) / self.half_life
        mass = -np.expm1(count * log_q)  # 1 - q^count, what the ages 0..count-1 hold together
        age = np.log1p(-rng.random(n) * mass) / log_q
        age = np.minimum(age.astype(np.int64), count - 1)
        probability = -np.expm1(log_q) * np.exp(age * log_q) / mass
        return Draw(count - 1 - age, (1 / (count * probability)).astype(np.float32))


class Prioritized:
    """Each segment in proportion to its priority to a power; new ones get the highest so far.

    Source: Schaul et al. 2016, section 3.3, proportional variant, on a sum tree.

    Args:
        exponent: 0 is uniform, 1 proportional.
        floor: added to every priority, so that none is never drawn again.

    Raises:
        BadConfig: if exponent is negative or floor is not positive.
    """

    def __init__(self, exponent: float = 0.6, floor: float = 1e-6) -> None:
        if exponent < 0 or not floor > 0:
            raise BadConfig(
                f"Prioritized needs exponent >= 0 and floor > 0, but they are {exponent} and "
                f"{floor}. The paper has 0.6 and a small floor."
            )
        self.exponent, self.floor = exponent, floor
        self._count = 0
        self._top = 1.0  # highest leaf so far
        self._tree = np.zeros(2)  # node i sums 2i and 2i+1; the leaves are its second half

    def draw(self, rng: np.random.Generator, count: int, n: int) -> Draw:
        """Draw n of count segments with replacement."""
        self._resize(count)
        leaves = len(self._tree) // 2
        mass = rng.random(n) * self._tree[1]
        node = np.ones(n, np.int64)
        for _ in range(leaves.bit_length() - 1):
            left = self._tree[2 * node]
            right = mass >= left
            mass = np.where(right, mass - left, mass)
            node = 2 * node + right
        index = np.minimum(node - leaves, count - 1)  # rounding may step over the end
        probability = self._tree[leaves + index] / self._tree[1]
        return Draw(index, (1 / (count * probability)).astype(np.float32))

    def update(self, index: np.ndarray, priority: np.ndarray) -> None:
        """Set priorities, as after a training step: the size of the error.

        Args:
            index: (B,) int64, from a `Draw`.
            priority: (B,) not negative.

        Raises:
            BadData: if a priority is negative or not finite, or an index was never drawn from.
        """
        if not (np.isfinite(priority).all() and (priority >= 0).all()):
            raise BadData("Priorities must be finite and not negative. Give absolute errors.")
        if index.shape != priority.shape or index.min() < 0 or index.max() >= self._count:
            raise BadData(
                f"Priorities of {index.shape} segments were to be set with {priority.shape} "
                f"values among {self._count}. Use the index that came with the batch."
            )
        leaves = (priority.astype(np.float64) + self.floor) ** self.exponent
        self._top = max(self._top, float(leaves.max()))
        self._set(index, leaves)

    def state_dict(self) -> dict[str, Any]:
        """Leaves of the tree and the highest so far."""
        leaves = len(self._tree) // 2
        kept = self._tree[leaves : leaves + self._count].copy()
        return {"leaves": torch.from_numpy(kept), "top": self._top}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            BadCheckpoint: if it is another strategy's.
        """
        if set(state) != {"leaves", "top"}:
            raise BadCheckpoint(
                f"Priorities were asked for, but the checkpoint's strategy has {sorted(state)}. "
                "Resume with the strategy that the run began with."
            )
        self._count, self._tree = 0, np.zeros(2)
        leaves = state["leaves"].cpu().numpy()
        self._resize(len(leaves))
        if len(leaves):
            self._set(np.arange(len(leaves)), leaves)
        self._top = float(state["top"])

    def _resize(self, count: int) -> None:
        """Let the tree hold just so many segments."""
        old, self._count = self._count, count
        if count > len(self._tree) // 2:
            half = len(self._tree) // 2
            leaves = self._tree[half : half + old].copy()
            self._tree = np.zeros(2 << (count - 1).bit_length())
            if old:
                self._set(np.arange(old), leaves)
        if count != old:
            value = self._top if count > old else 0.0
            changed = np.arange(min(old, count), max(old, count))
            self._set(changed, np.full(len(changed), value))

    def _set(self, index: np.ndarray, value: np.ndarray) -> None:
        """Set leaves and the sums above them."""
        node = index + len(self._tree) // 2
        self._tree[node] = value
        while len(node) and node[0] > 1:
            node = np.unique(node // 2)
            self._tree[node] = self._tree[2 * node] + self._tree[2 * node + 1]


def named(strategy: str | Strategy) -> Strategy:
    """The strategy of a name, or the one given.

    Raises:
        BadConfig: if the name is none.
    """
    if not isinstance(strategy, str):
        return strategy
    if strategy == "uniform":
        return Uniform()
    if strategy == "recent":
        return Recent()
    raise BadConfig(
        f"Sampling strategy {strategy!r} was asked for, but there are 'uniform', 'recent' and "
        "objects such as Prioritized(). Choose one."
    )
