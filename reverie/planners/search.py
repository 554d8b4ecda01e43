"""The compiled walks over the trees of a batch of searches. Imports planners.tree.

A simulation is `walk`, then the model's word about the new nodes, then `grow`. `search_mlp` does
them all, the model included. All of it is single precision and rows never meet, so the same
numbers from a model give the same trees in any batch. All compiled code is in this one file,
because numba's cache looks for changes in the file of the function that is called only.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from reverie.planners.tree import Net, Rules, Tree

_ZERO, _ONE, _NEVER = np.float32(0), np.float32(1), np.float32(-np.inf)
_TINY = np.float32(1e-8)  # narrowest spread of values that is stretched to [0, 1]
_NARROW = np.float32(1e-5)  # the same of a latent's numbers
_LOG2_E, _HALF, _LEAST = np.float32(np.log2(np.e)), np.float32(0.5), np.float32(-87)
_LN2_HIGH = np.float32(0.693359375)  # of few bits, so that its multiples are exact
_LN2_LOW = np.float32(np.log(2) - 0.693359375)
_TAYLOR = tuple(np.float32(1 / math.factorial(n)) for n in range(8))
_SIGN, _WORD, _BELOW_SIGN = np.int32(31), np.int64(32), np.int32(0x7FFFFFFF)
_SLOT, _FIRST = np.int64(0xFFFFFFFF), np.int64(-(2**63))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def walk(tree: Tree, m: int, rules: Rules) -> None:  # pragma: no cover - compiled
    """Simulation m: in each tree go down to an edge or outcome that is new, and note it.

    Args:
        tree: `before[m]` is written; the outcome is -1 where the edge is new and C > 1.
        m: 1..M-1, in order.
        rules: pUCT, or Gumbel.
    """
    batch, outcomes = len(tree.prior), tree.child.shape[2]
    scratch = np.empty(tree.prior.shape[2], np.float32)
    for b in range(batch):
        node, slot, code, after = 0, 0, 0, 0
        while after >= 0:
            node = after
            # Slices are handed on as they are made: a name for one would be counted and freed.
            if rules.gumbel:
                mixed, low, high, scale = _completed(
                    tree.prior[b, node],
                    tree.visits[b, node],
                    tree.value[b, node],
                    tree.raw[b, node],
                    tree.count[b, node],
                    rules.sigma,
                )
                if node == 0:
                    slot = _halving(
                        tree.prior[b, 0],
                        tree.visits[b, 0],
                        tree.value[b, 0],
                        (mixed, low, scale),
                        rules.score[b],
                        rules.turn[b, m],
                    )
                else:
                    slot = _improved(
                        tree.prior[b, node],
                        tree.visits[b, node],
                        tree.value[b, node],
                        (mixed, high, scale),
                        tree.count[b, node],
                        scratch,
                    )
            else:
                slot = _puct(
                    tree.prior[b, node],
                    tree.visits[b, node],
                    tree.value[b, node],
                    tree.bounds[b],
                    rules.pull[tree.count[b, node]],
                )
            chance, code = tree.chance[b, node, slot], 0
            if chance < 0:
                chance = np.int32(m)
                tree.chance[b, node, slot] = chance
                code = 0 if outcomes == 1 else -1
            elif outcomes > 1:
                code = _outcome(tree.likely[b, chance], tree.times[b, chance])
            after = np.int32(-1)
            if code >= 0:
                after = tree.child[b, chance, code]
                if after < 0:
                    tree.child[b, chance, code] = m
        tree.before[m, 0, b] = node * batch + b
        tree.before[m, 1, b] = slot
        tree.before[m, 2, b] = code


@numba.njit(nogil=True, cache=True, error_model="numpy")
def open_chance(tree: Tree, m: int, likely: np.ndarray) -> None:  # pragma: no cover - compiled
    """Give the chance nodes that simulation m opened their outcomes, and take the likeliest.

    Args:
        tree: `before[m]` has no -1 after this.
        m: the simulation.
        likely: (B, C) float32 probabilities; rows without a new chance node are ignored.
    """
    for b in range(len(likely)):
        if tree.before[m, 2, b] < 0:
            tree.likely[b, m] = likely[b]
            code = _outcome(tree.likely[b, m], tree.times[b, m])
            tree.before[m, 2, b] = code
            tree.child[b, m, code] = m


@numba.njit(nogil=True, cache=True, error_model="numpy")
def grow(tree: Tree, m: int, said: np.ndarray) -> None:  # pragma: no cover - compiled
    """Add simulation m's nodes and back up: G <- r + discount G along the path; Q is G's mean.

    Args:
        tree: changed in place.
        m: the simulation.
        said: (B, 3 + A) float32 reward, discount, value and logits; a logit of -inf: not allowed.
    """
    batch = len(said)
    for b in range(batch):
        tree.reward[b, m], tree.discount[b, m], tree.raw[b, m] = said[b, 0], said[b, 1], said[b, 2]
        _softmax(said[b, 3:], tree.prior[b, m])
        node, total = m, said[b, 2]
        while node != 0:
            total = tree.reward[b, node] + tree.discount[b, node] * total
            slot, code = tree.before[node, 1, b], tree.before[node, 2, b]
            node = tree.before[node, 0, b] // batch
            visits, value = tree.visits[b, node, slot] + np.int32(1), tree.value[b, node, slot]
            value += (total - value) / np.float32(visits)
            tree.visits[b, node, slot], tree.value[b, node, slot] = visits, value
            tree.times[b, tree.chance[b, node, slot], code] += np.int32(1)
            tree.count[b, node] += np.int32(1)
            tree.bounds[b, 0] = min(tree.bounds[b, 0], value)
            tree.bounds[b, 1] = max(tree.bounds[b, 1], value)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def root_sigma(tree: Tree, rules: Rules) -> np.ndarray:  # pragma: no cover - compiled
    """(B, A) sigma(completed Q) at the roots, float32; 0 where an action is not allowed."""
    batch, _, slots = tree.prior.shape
    sigma = np.empty((batch, slots), np.float32)
    for b in range(batch):
        mixed, low, _, scale = _completed(
            tree.prior[b, 0],
            tree.visits[b, 0],
            tree.value[b, 0],
            tree.raw[b, 0],
            tree.count[b, 0],
            rules.sigma,
        )
        for a in range(slots):
            known = tree.value[b, 0, a] if tree.visits[b, 0, a] > 0 else mixed
            sigma[b, a] = (known - low) * scale if tree.prior[b, 0, a] > _ZERO else _ZERO
    return sigma


@numba.njit(nogil=True, cache=True, error_model="numpy")
def root_mlp(latents: np.ndarray, net: Net) -> np.ndarray:  # pragma: no cover - compiled
    """(B, A + 1) logits and value of latents (B, D), float32."""
    work = np.empty((2, len(latents) * np.max(net.shapes)), np.float32)
    return _layers(latents, np.zeros(0, np.int64), net, net.dynamics, len(net.shapes), work).copy()


@numba.njit(nogil=True, cache=True, error_model="numpy")
def search_mlp(  # pragma: no cover - compiled
    tree: Tree, rules: Rules, net: Net, latents: np.ndarray, discount: float
) -> None:
    """All simulations, model included.

    Args:
        tree: as planted; C = 1.
        rules: pUCT, or Gumbel.
        net: the model.
        latents: (B, M, D) float32; [:, 0] are the roots', the others are written.
        discount: of every transition.
    """
    batch, nodes, size = latents.shape
    slots = tree.prior.shape[2]
    x = np.empty((batch, size), np.float32)
    said = np.empty((batch, 3 + slots), np.float32)
    said[:, 1] = discount
    work = np.empty((2, batch * np.max(net.shapes)), np.float32)
    for m in range(1, nodes):
        walk(tree, m, rules)
        for b in range(batch):
            node = tree.before[m, 0, b] // batch
            for i in range(size):
                x[b, i] = latents[b, node, i]
        after = _layers(x, tree.before[m, 1], net, 0, net.dynamics, work)
        for b in range(batch):
            said[b, 0] = after[b, size]
            if net.rescale:
                _stretch(after[b, :size])
            for i in range(size):
                x[b, i] = after[b, i]
                latents[b, m, i] = after[b, i]
        found = _layers(x, tree.before[m, 1], net, net.dynamics, len(net.shapes), work)
        for b in range(batch):
            said[b, 2] = found[b, slots]
            for a in range(slots):
                said[b, 3 + a] = found[b, a]
        grow(tree, m, said)


@numba.njit(error_model="numpy")
def _layers(x, slots, net, start, stop, work):  # pragma: no cover - compiled
    """Layers start..stop-1 of a net on x (B, D); the first of g reads the action's row as well."""
    batch, weight, bias = len(x), 0, 0
    for layer in range(stop):
        inputs, outputs = net.shapes[layer]
        if layer >= start:
            matrix = net.weights[weight : weight + inputs * outputs].reshape(inputs, outputs)
            offset = net.biases[bias : bias + outputs]
            out = work[layer % 2, : batch * outputs].reshape(batch, outputs)
            width = x.shape[1]
            _times(x, matrix[:width], out)
            for b in range(batch):
                if layer == 0:
                    for j in range(outputs):
                        out[b, j] += matrix[width + slots[b], j]
                for j in range(outputs):
                    out[b, j] += offset[j]
                    out[b, j] = max(out[b, j], _ZERO) if layer < stop - 1 else out[b, j]
            x = out
        weight += inputs * outputs
        bias += outputs
    return x


@numba.njit(error_model="numpy", fastmath={"contract"})
def _times(x, matrix, out):  # pragma: no cover - compiled
    """x (B, I) @ matrix (I, J) into out, four inputs of four rows at a time.

    On matrices as small as these this is as fast as BLAS, whose threads would wait for each other,
    and each row is summed in the same order whichever rows stand beside it.
    """
    (rows, inputs), outputs = x.shape, matrix.shape[1]
    whole, fours = inputs - inputs % 4, rows - rows % 4
    out[:] = _ZERO
    for b in range(0, fours, 4):
        for i in range(0, whole, 4):
            p0, p1, p2, p3 = x[b, i], x[b, i + 1], x[b, i + 2], x[b, i + 3]
            q0, q1, q2, q3 = x[b + 1, i], x[b + 1, i + 1], x[b + 1, i + 2], x[b + 1, i + 3]
            r0, r1, r2, r3 = x[b + 2, i], x[b + 2, i + 1], x[b + 2, i + 2], x[b + 2, i + 3]
            s0, s1, s2, s3 = x[b + 3, i], x[b + 3, i + 1], x[b + 3, i + 2], x[b + 3, i + 3]
            for j in range(outputs):
                m0, m1, m2, m3 = matrix[i, j], matrix[i + 1, j], matrix[i + 2, j], matrix[i + 3, j]
                out[b, j] = out[b, j] + p0 * m0 + p1 * m1 + p2 * m2 + p3 * m3
                out[b + 1, j] = out[b + 1, j] + q0 * m0 + q1 * m1 + q2 * m2 + q3 * m3
                out[b + 2, j] = out[b + 2, j] + r0 * m0 + r1 * m1 + r2 * m2 + r3 * m3
                out[b + 3, j] = out[b + 3, j] + s0 * m0 + s1 * m1 + s2 * m2 + s3 * m3
    for b in range(fours, rows):
        for i in range(0, whole, 4):
            p0, p1, p2, p3 = x[b, i], x[b, i + 1], x[b, i + 2], x[b, i + 3]
            for j in range(outputs):
                m0, m1, m2, m3 = matrix[i, j], matrix[i + 1, j], matrix[i + 2, j], matrix[i + 3, j]
                out[b, j] = out[b, j] + p0 * m0 + p1 * m1 + p2 * m2 + p3 * m3
    for b in range(rows):
        for i in range(whole, inputs):
            for j in range(outputs):
                out[b, j] += x[b, i] * matrix[i, j]


@numba.njit(error_model="numpy")
def _stretch(x):  # pragma: no cover - compiled
    """Least to 0 and largest to 1."""
    least, largest = _order(x[0]), _order(x[0])
    for i in range(len(x)):
        least, largest = min(least, _order(x[i])), max(largest, _order(x[i]))
    low = _number(least)
    spread = max(_number(largest) - low, _NARROW)
    for i in range(len(x)):
        x[i] = (x[i] - low) / spread


@numba.njit(error_model="numpy")
def _puct(prior, visits, value, bounds, pull):  # pragma: no cover - compiled
    """argmax Q~(a) + P(a) pull(N) / (1 + N(a)), the first of equals.

    Source: Schrittwieser et al. 2020, appendix B. Q~ is Q scaled to [0, 1] over the tree, and 0
    where there is none.
    """
    slots, low, top = len(prior), bounds[0], _FIRST
    scale = _ONE / max(bounds[1] - low, _TINY)
    for a in range(slots):
        times, found = np.float32(visits[a]), value[a]
        known = (found - low) * scale if times > _ZERO else _ZERO
        score = known + pull * prior[a] / (_ONE + times)
        top = max(top, _rank(score if prior[a] > _ZERO else _NEVER, a, slots))
    return slots - (top & _SLOT)


@numba.njit(error_model="numpy")
def _completed(prior, visits, value, raw, count, sigma):  # pragma: no cover - compiled
    """What completes Q, the bounds of completed Q, and the scale of sigma.

    Source: Danihelka et al. 2022, equation 8 and appendix D. Slots without visits get the mixed
    value; values are scaled to [0, 1] over the slots that may be taken.
    """
    mass, weighted, most, unseen = 0.0, 0.0, np.int32(0), np.int32(0)
    least, largest = _order(-_NEVER), _order(_NEVER)
    for a in range(len(prior)):
        order, seen = _order(value[a]), visits[a] > 0
        share = prior[a] if seen else _ZERO
        mass = _plus(mass, share)
        weighted = _plus(weighted, share * value[a])
        most = max(most, visits[a])
        least = min(least, order if seen else least)
        largest = max(largest, order if seen else largest)
        unseen = max(unseen, np.int32(prior[a] > _ZERO and not seen))
    low, high, mixed = _number(least), _number(largest), raw
    if most > 0:
        times = np.float32(count)
        mixed = (mixed + (times - _ONE) * np.float32(weighted / mass)) / times
    if unseen > 0:
        low, high = min(low, mixed), max(high, mixed)
    scale = (sigma[0] + np.float32(most)) * sigma[1] / max(high - low, _TINY)
    return mixed, low, high, scale


@numba.njit(error_model="numpy")
def _halving(prior, visits, value, completed, score, turn):  # pragma: no cover - compiled
    """At the root: the best score among the slots with the visits that it is the turn of."""
    (mixed, low, scale), slots, top = completed, len(prior), _FIRST
    for a in range(slots):
        found = value[a]
        total = score[a] + ((found if visits[a] > 0 else mixed) - low) * scale
        allowed = visits[a] == turn and prior[a] > _ZERO
        top = max(top, _rank(total if allowed else _NEVER, a, slots))
    return slots - (top & _SLOT)


@numba.njit(error_model="numpy")
def _improved(prior, visits, value, completed, count, scratch):  # pragma: no cover - compiled
    """Inside the tree: argmax pi'(a) - N(a) / (1 + N), where pi' = softmax(log prior + sigma).

    Source: Danihelka et al. 2022, equation 14.
    """
    (mixed, high, scale), slots, top, total = completed, len(prior), _FIRST, 0.0
    for a in range(slots):
        found = value[a]
        sigma = ((found if visits[a] > 0 else mixed) - high) * scale
        scratch[a] = prior[a] * _exp(sigma)
        total = _plus(total, scratch[a])
    share, part = _ONE / np.float32(total), _ONE / np.float32(count)
    for a in range(slots):
        score = scratch[a] * share - np.float32(visits[a]) * part
        top = max(top, _rank(score if prior[a] > _ZERO else _NEVER, a, slots))
    return slots - (top & _SLOT)


@numba.njit(error_model="numpy")
def _outcome(likely, times):  # pragma: no cover - compiled
    """argmax p / (1 + N): outcomes come as often as they are likely, and none by luck."""
    outcomes, top = len(likely), _FIRST
    for c in range(outcomes):
        top = max(top, _rank(likely[c] / (_ONE + np.float32(times[c])), c, outcomes))
    return outcomes - (top & _SLOT)


@numba.njit(error_model="numpy")
def _softmax(logits, prior):  # pragma: no cover - compiled
    """Probabilities of a node's slots; where all logits are -inf, all slots are alike."""
    slots, largest, total = len(logits), _order(_NEVER), 0.0
    for a in range(slots):
        largest = max(largest, _order(logits[a]))
    top = _number(largest)
    if not top > _NEVER:
        prior[:] = _ONE / np.float32(slots)
        return
    for a in range(slots):
        found = _exp(logits[a] - top)
        prior[a] = found if logits[a] > _NEVER else _ZERO
        total = _plus(total, prior[a])
    share = _ONE / np.float32(total)
    for a in range(slots):
        prior[a] *= share


# Loops over slots are short and many, so each is written to run on vectors: without branches, and
# with maxima over integers, which have no order of their own and know no NaN.


@numba.njit(error_model="numpy")
def _order(x):  # pragma: no cover - compiled
    """An integer that orders float32 numbers as they are."""
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ ((bits >> _SIGN) & _BELOW_SIGN))


@numba.njit(error_model="numpy")
def _number(order):  # pragma: no cover - compiled
    """The float32 number of an `_order`."""
    return np.int32(order ^ ((order >> _SIGN) & _BELOW_SIGN)).view(np.float32)


@numba.njit(error_model="numpy")
def _rank(score, a, slots):  # pragma: no cover - compiled
    """An integer whose maximum is that of the score, and of equals the first slot's."""
    return (np.int64(_order(score)) << _WORD) | np.int64(slots - a)


@numba.njit(error_model="numpy", fastmath={"reassoc", "nsz"})
def _plus(total, x):  # pragma: no cover - compiled
    """A sum in double precision; its order is free, as the result is rounded to single."""
    return total + np.float64(x)


@numba.njit(error_model="numpy")
def _exp(x):  # pragma: no cover - compiled
    """exp of x <= 0 within 2 units in the last place.

    x = n ln 2 + y with |y| <= ln 2 / 2, where seven terms of the series are enough.
    """
    x = min(max(x, _LEAST), _ZERO)
    n = np.floor(x * _LOG2_E + _HALF)
    y = x - n * _LN2_HIGH - n * _LN2_LOW
    series = _TAYLOR[7]
    series = series * y + _TAYLOR[6]
    series = series * y + _TAYLOR[5]
    series = series * y + _TAYLOR[4]
    series = series * y + _TAYLOR[3]
    series = series * y + _TAYLOR[2]
    series = series * y + _TAYLOR[1]
    series = series * y + _TAYLOR[0]
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))  # the bits of 2^n
    return series * power.view(np.float32)
