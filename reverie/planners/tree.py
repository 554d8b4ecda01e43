"""The trees of a batch of searches, as arrays. Imports nothing of ours.

Row b of every array is a tree of its own. Node 0 is its root and simulation m adds node m, so the
new node has the same number in all rows. An edge (node, slot) leads to a chance node, whose
number is that of the simulation that opened it, and each outcome of chance leads on to a node. A
world without chance has one outcome a chance node.

Axes: **B** trees, **M** nodes (1 + simulations), **A** slots (actions, or sampled ones), **C**
outcomes, **D** numbers of a latent. `search.py` walks over these arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tree(NamedTuple):
    """B trees of M nodes."""

    prior: np.ndarray  # (B, M, A) float32 probabilities; 0: never taken
    visits: np.ndarray  # (B, M, A) int32 N(s, a)
    value: np.ndarray  # (B, M, A) float32 Q(s, a): mean return over the visits of an edge
    chance: np.ndarray  # (B, M, A) int32 the chance node of an edge; -1: not visited
    likely: np.ndarray  # (B, M, C) float32 probability of each outcome of a chance node
    times: np.ndarray  # (B, M, C) int32 visits of an outcome
    child: np.ndarray  # (B, M, C) int32 the node that an outcome leads to; -1: none yet
    raw: np.ndarray  # (B, M) float32 the value head's word
    count: np.ndarray  # (B, M) int32 N(s): 1 for the node itself, and the visits of its edges
    reward: np.ndarray  # (B, M) float32 of the transition into a node
    discount: np.ndarray  # (B, M) float32 of the value of a node, seen from before it
    before: np.ndarray  # (M, 3, B) int64 what led to a node: node * B + b, slot, outcome
    bounds: np.ndarray  # (B, 2) float32 least and largest Q of the tree so far


class Rules(NamedTuple):
    """How the walks choose. `gumbel` says which of the two sets is followed."""

    gumbel: bool
    pull: np.ndarray  # (M + 1,) float32 pUCT: weight of the prior at a node with N(s) = 0..M
    sigma: np.ndarray  # (2,) float32 Gumbel: c_visit and c_scale
    score: np.ndarray  # (B, A) float32 Gumbel: noise + log prior at the root
    turn: np.ndarray  # (B, M) int32 Gumbel: visits of the root's slots that simulation m tries


class Net(NamedTuple):
    """MuZero's g and f as layers (inputs, outputs) with ReLUs between, one after another."""

    weights: np.ndarray  # float32, all layers
    biases: np.ndarray  # float32, all layers
    shapes: np.ndarray  # (L, 2) int64 inputs and outputs of each layer
    dynamics: int  # how many of the layers are g: (s, action) -> s', r; the others f: s -> p, v
    rescale: bool  # s' is stretched to [0, 1]


def plant(prior: np.ndarray, raw: np.ndarray, simulations: int, outcomes: int) -> Tree:
    """B trees that hold their roots only.

    Args:
        prior: (B, A) float32 of the roots.
        raw: (B,) float32 the value head's word about the roots.
        simulations: nodes to come.
        outcomes: C.
    """
    batch, slots = prior.shape
    nodes = simulations + 1
    edges, chances = (batch, nodes, slots), (batch, nodes, outcomes)
    tree = Tree(
        prior=np.zeros(edges, np.float32),
        visits=np.zeros(edges, np.int32),
        value=np.zeros(edges, np.float32),
        chance=np.full(edges, -1, np.int32),
        likely=np.ones(chances, np.float32),
        times=np.zeros(chances, np.int32),
        child=np.full(chances, -1, np.int32),
        raw=np.zeros((batch, nodes), np.float32),
        count=np.ones((batch, nodes), np.int32),
        reward=np.zeros((batch, nodes), np.float32),
        discount=np.zeros((batch, nodes), np.float32),
        before=np.zeros((nodes, 3, batch), np.int64),
        bounds=np.empty((batch, 2), np.float32),
    )
    tree.prior[:, 0], tree.raw[:, 0], tree.bounds[:] = prior, raw, raw[:, None]
    return tree
