"""The predictor of LeWorldModel: a causal transformer over the last embeddings, led by the actions.

Two ways through the same weights. `forward` and `everywhere` read a whole window at once: what
training needs. `foresee` is for planning, token by token: candidates that begin alike share what
came before, keys and values are kept while a window grows, and where nobody will look nothing is
computed. Products of one token's rows stay in the caches, which those of a window do not.

Letters: N rows, K frames of the window, D latent size, A numbers of an action; in `foresee` B
environments, C candidates of each, R = B C rows, H leaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class CausalConfig:
    """Sizes as published."""

    layers: int = 6
    heads: int = 16
    head: int = 64  # size of each
    hidden: int = 2048  # of the MLPs, and of the projector at the end
    smooth: int = 10  # numbers into which a block of actions is mixed first
    dropout: float = 0.1


class Kept(NamedTuple):
    """Keys and values of one token in one layer."""

    key: Tensor  # (B or R, I), I = heads x head
    value: Tensor  # (B or R, I)


class CausalLayer(nn.Module):
    """Attention to the past, then an MLP; the action shifts, scales and gates both.

    Args:
        width: D.
        config: sizes.

    Source:
        Maes et al. 2026, arXiv:2603.19312, appendix D; AdaLN-zero by Peebles & Xie 2023,
        arXiv:2212.09748.
    """

    def __init__(self, width: int, config: CausalConfig) -> None:
        super().__init__()
        inner = config.heads * config.head
        self.heads, self.dropout = config.heads, config.dropout
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, inner, bias=False)  # queries
        self.tell = nn.Linear(width, 2 * inner, bias=False)  # keys and values
        self.out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(config.dropout))
        self.mlp = nn.Sequential(
            *(nn.Linear(width, config.hidden), nn.GELU(), nn.Dropout(config.dropout)),
            *(nn.Linear(config.hidden, width), nn.Dropout(config.dropout)),
        )
        self.lead = nn.Linear(width, 6 * width)  # shift, scale, gate: of attention and of the MLP
        nn.init.zeros_(self.lead.weight)
        nn.init.zeros_(self.lead.bias)

    def forward(self, x: Tensor, led: Tensor, sight: Tensor) -> Tensor:
        """(N, K, D) of whole windows (N, K, D).

        Args:
            x: (N, K, D).
            led: (N, K, 6 D), from `lead`.
            sight: bool that goes over (N, heads, K, K): True where a row may look at a column.
        """
        h, gate = self._given(x, led)
        parts = (self.ask(h), *self.tell(h).chunk(2, -1))
        seen = F.scaled_dot_product_attention(
            *(each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in parts),
            attn_mask=sight,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self._thought(x + gate * self.out(seen.transpose(1, 2).flatten(2)), led)

    def step(self, x: Tensor, led: Tensor, kept: list[Kept], *, wanted: bool) -> Tensor:
        """(R, D) what becomes of a new token after those that are kept; it is kept too.

        Args:
            x: (R, D) the token.
            led: (R, 6 D), from `lead`.
            kept: the tokens before, oldest first, (B or R, I) each; grows by one.
            wanted: else the token is kept and no more.
        """
        h, gate = self._given(x, led)
        kept.append(Kept(*self.tell(h).chunk(2, -1)))
        if not wanted:
            return x
        alone = len(kept) == 1  # the oldest sees itself
        seen = kept[0].value if alone else self._seen(self.ask(h), kept)
        return self._thought(x + gate * self.out(seen), led)

    def _given(self, x: Tensor, led: Tensor) -> tuple[Tensor, Tensor]:
        """What the attention reads, and its gate."""
        shift, scale, gate = led.chunk(6, -1)[:3]
        return self.before(_moved(x, shift, scale)), gate

    def _seen(self, query: Tensor, kept: list[Kept]) -> Tensor:
        """(R, I) what a query (R, I) takes from the tokens; a product each beats tiny matrices."""
        shared = [len(query) // len(token.key) for token in kept]  # rows that share a token
        split = [query.view(-1, n, self.heads, query.shape[-1] // self.heads) for n in shared]
        keys = [token.key.view(-1, 1, *q.shape[2:]) for token, q in zip(kept, split, strict=True)]
        score = torch.stack(
            [(q * k).sum(-1).view(-1, self.heads) for q, k in zip(split, keys, strict=True)]
        )
        share = (score.float() * split[0].shape[-1] ** -0.5).softmax(0).to(query.dtype)
        found = torch.zeros_like(query)
        for token, part, like in zip(kept, share, split, strict=True):
            value = token.value.view(-1, 1, *like.shape[2:])
            found.view_as(like).addcmul_(part.view(*like.shape[:3], 1), value)
        return found

    def _thought(self, x: Tensor, led: Tensor) -> Tensor:
        """The second half: the MLP."""
        shift, scale, gate = led.chunk(6, -1)[3:]
        return x + gate * self.mlp(self.between(_moved(x, shift, scale)))


class CausalPredictor(nn.Module):
    """The embedding n steps after the anchor, from up to K embeddings and what was done since.

    The prediction is an embedding of its own, not a change of the newest one. At first no layer
    does anything.

    Args:
        latent: D, also the width.
        action: A.
        history: K.
        block: longest leap, in steps.
        config: sizes.

    Source:
        Maes et al. 2026, arXiv:2603.19312, section 3.1 and appendix D.
    """

    sight: Tensor

    def __init__(
        self, *, latent: int, action: int, history: int, block: int, config: CausalConfig
    ) -> None:
        super().__init__()
        self.block, self.history = block, history
        self.act = nn.Sequential(
            nn.Linear(block * action + block, config.smooth),  # a convolution of width 1 in time
            *(nn.Linear(config.smooth, 4 * latent), nn.SiLU(), nn.Linear(4 * latent, latent)),
        )
        self.place = nn.Parameter(torch.randn(history, latent))
        self.layers = nn.ModuleList(CausalLayer(latent, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(latent)
        self.project = projector(latent, config.hidden, latent)
        causal = torch.ones(history, history).tril().bool()
        self.register_buffer("sight", causal, persistent=False)

    def forward(self, z: Tensor, action: Tensor, n: Tensor, frames: Tensor | None = None) -> Tensor:
        """The embedding (N, D) at the moment asked for.

        Args:
            z: (N, K, D) embeddings a block apart, the anchor last.
            action: (N, K, block, A) what was done after each; zero after the moment asked for.
            n: (N,) int64 in 1..block: steps from the anchor to that moment.
            frames: (N,) int64 in 1..K: how many of the embeddings count, the newest ones; None:
                all.
        """
        return self.project(self._read(z, action, n, frames)[:, -1]).float()

    def everywhere(self, z: Tensor, action: Tensor, n: Tensor) -> Tensor:
        """(N, K, D) the embedding a leap after each of the K, read from those up to it.

        Args:
            z: (N, K, D).
            action: (N, K, block, A).
            n: (N,) int64 steps that the last leap takes; the others take a whole block.
        """
        found = self.project(self._read(z, action, n, None).flatten(0, 1))
        return found.float().unflatten(0, z.shape[:2])

    def foresee(self, z: Tensor, before: Tensor, plans: Tensor) -> Tensor:
        """The embeddings (R, H, D) that candidate plans lead to, each from the one before.

        Args:
            z: (B, F, D) frames that candidates share, 1 <= F <= K, the anchor last.
            before: (B, F-1, block, A) what was done after each but the last.
            plans: (B, C, H, block, A) what candidates do then.
        """
        f, c, horizon = z.shape[1], *plans.shape[1:3]
        tokens = [*z[:, :-1].unbind(1), z[:, -1].repeat_interleave(c, 0)]
        done = [
            *self._done(before.transpose(0, 1)),
            *self._done(plans.flatten(0, 1).transpose(0, 1)),
        ]
        led = [[layer.lead(one) for layer in self.layers] for one in done]  # type: ignore
        memory: list[list[Kept]] = []  # by layer, then by token
        for newest in range(f - 1, f - 1 + horizon):
            low = max(0, newest + 1 - self.history)
            first = newest
            if low or not memory:  # places have changed: nothing that was kept holds
                memory, first = [[] for _ in self.layers], low
            for i in range(first, newest):
                self._through(tokens[i] + self.place[i - low], led[i], memory, wanted=False)
            placed = tokens[newest] + self.place[newest - low]
            told = self._through(placed, led[newest], memory, wanted=True)
            tokens.append(self.project(self.norm(told)).float())
        return torch.stack(tokens[f:], 1)

    def _through(
        self, x: Tensor, led: list[Tensor], memory: list[list[Kept]], *, wanted: bool
    ) -> Tensor:
        """(R, D) a token after all layers; of one that is not wanted the last only keeps."""
        last = len(memory) - 1
        for i, layer in enumerate(self.layers):
            x = layer.step(x, led[i], memory[i], wanted=wanted or i < last)  # type: ignore
        return x

    def _read(self, z: Tensor, action: Tensor, n: Tensor, frames: Tensor | None) -> Tensor:
        """(N, K, D) after all layers, of whole windows."""
        place, sight = self.place, self.sight
        if frames is not None:  # the oldest that counts is at the first place; itself, all see
            late = self.history - frames[:, None]  # (N, 1)
            index = torch.arange(self.history, device=z.device)
            place = place[(index - late).clamp(min=0)]
            counts = (index >= late)[:, None, None] | torch.eye(
                self.history, dtype=torch.bool, device=z.device
            )
            sight = sight & counts
        x, done = z + place, self._done(action, n)
        for layer in self.layers:
            x = layer(x, layer.lead(done), sight)  # type: ignore[operator]
        return self.norm(x)

    def _done(self, action: Tensor, n: Tensor | None = None) -> Tensor:
        """(N, T, D) what leads the layers at each token.

        Args:
            action: (N, T, block, A).
            n: (N,) steps that the last of them takes; all others take a whole block.
        """
        steps = torch.full(action.shape[:2], self.block, device=action.device)
        if n is not None:
            steps = torch.cat([steps[:, 1:], n[:, None]], 1)
        when = F.one_hot(steps - 1, self.block).to(action.dtype)
        return F.silu(self.act(torch.cat([action.flatten(2), when], -1)))


def projector(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Dense, batch norm, GELU, dense: what lets embeddings become Gaussian after a layer norm.

    Args:
        inputs: numbers that come in.
        hidden: between.
        outputs: that come out.

    Source:
        Maes et al. 2026, arXiv:2603.19312, section 3.1.
    """
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.GELU()), nn.Linear(hidden, outputs)
    )


def _moved(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalised, scaled, shifted."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
