"""`core.tree` on states of tensors, Objects and None, against values written by hand."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from reverie.core import tree
from reverie.core.types import Objects


class State(NamedTuple):
    x: Tensor
    worlds: Objects
    nested: dict[str, Any]
    nothing: None = None


def state(*numbers):
    x = torch.tensor(numbers, dtype=torch.float32)
    return State(x, Objects(f"w{n}" for n in numbers), {"pair": (x[:, None].repeat(1, 2), -x)})


def values(s):
    """All leaves as lists."""
    return (
        s.x.tolist(),
        s.worlds.items,
        s.nested["pair"][0].tolist(),
        s.nested["pair"][1].tolist(),
    )


def test_leaves_and_size():
    s = state(1, 2, 3)
    assert [type(leaf) for leaf in tree.leaves(s)] == [Tensor, Objects, Tensor, Tensor]
    assert tree.size(s) == 3
    assert tree.size((Objects("ab"),)) == 2
    with pytest.raises(ValueError, match="without any leaf"):
        tree.size((None,))


@pytest.mark.parametrize(
    "index",
    [torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(0, 3, 2)],
    ids=["numbers", "mask", "slice"],
)
def test_take(index):
    wanted = (
        state(3, 1) if isinstance(index, Tensor) and index.dtype == torch.int64 else state(1, 3)
    )
    assert values(tree.take(state(1, 2, 3), index)) == values(wanted)


def test_repeat_keeps_rows_together():
    assert values(tree.repeat(state(1, 2), 3)) == values(state(1, 1, 1, 2, 2, 2))


def test_stack_and_unstack_are_inverse():
    stacked = tree.stack([state(1, 2), state(3, 4), state(5, 6)])
    assert stacked.x.tolist() == [[1, 3, 5], [2, 4, 6]]
    assert stacked.worlds.items == (("w1", "w3", "w5"), ("w2", "w4", "w6"))
    assert stacked.nested["pair"][0].shape == (2, 3, 2)
    back = tree.unstack(stacked, 3)
    assert [values(s) for s in back] == [
        values(state(1, 2)),
        values(state(3, 4)),
        values(state(5, 6)),
    ]
    with pytest.raises(ValueError, match="axis 1 only"):
        tree.stack([state(1), state(2)], dim=0)


def test_cat_and_where():
    assert values(tree.cat([state(1), state(2, 3)])) == values(state(1, 2, 3))
    picked = tree.where(torch.tensor([True, False, True]), state(1, 2, 3), state(4, 5, 6))
    assert values(picked) == values(state(1, 5, 3))


def test_map_detach_flatten_to():
    assert tree.map(lambda a, b: a + b, state(1, 2), state(10, 20)).x.tolist() == [11, 22]
    x = torch.ones(2, requires_grad=True)
    assert not tree.detach((x * 2,))[0].requires_grad
    assert tree.flatten((torch.arange(6).view(2, 3),))[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert tree.to(state(1), "cpu").worlds == Objects(["w1"])


def test_what_is_no_leaf_is_refused():
    with pytest.raises(TypeError, match="holds int"):
        tree.leaves((1,))
