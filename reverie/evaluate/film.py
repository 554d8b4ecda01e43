"""Dream beside reality: the same start, the same actions, one column each.

A `Film` holds a stretch of a real episode and several dreams of it. The model sees the episode up
to the start, then no more: it predicts under the recorded actions. Only `encode`, `observe`,
`predict` and heads are asked, so every school can be filmed. The rest turns frames into PNG and
GIF bytes. Imports core, data and imagine.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.core import tree
from reverie.core.errors import BadData, MissingHead, SpaceMismatch
from reverie.core.model import WorldModel, need
from reverie.core.types import Box, check_action, check_obs
from reverie.data.episode import Episode
from reverie.data.store import Store
from reverie.imagine import unroll

_CHANNELS = (  # colours of worlds whose pictures have other than 1 or 3 channels
    (240, 240, 240),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


class Film(NamedTuple):
    """H steps of reality and N dreams of them; index 0 is the start, which the model saw."""

    start: int  # the step of the episode at which the model stops looking
    ended: bool  # the real episode terminated at the last step
    real: dict[str, np.ndarray]  # (H+1, ...) by modality, in the world's units
    dream: dict[str, np.ndarray]  # (N, H+1, ...) what `decode` draws
    reward: np.ndarray | None  # (H,) real
    dream_reward: np.ndarray | None  # (N, H) predicted; None: no such head
    cont: np.ndarray | None  # (N, H) predicted chance that the episode goes on; None: no such head

    @property
    def steps(self) -> int:
        """H."""
        return len(next(iter(self.real.values()))) - 1


@torch.no_grad()
def film(
    model: WorldModel,
    episode: Episode,
    steps: int = 64,
    *,
    dreams: int = 8,
    generator: torch.Generator | None = None,
) -> Film:
    """Dream the last steps of a real episode again.

    Args:
        model: with `decode`.
        episode: of the model's world; all before the last steps is observed.
        steps: H; a shorter episode is dreamed from its first frame.
        dreams: N draws of the model's randomness, in one batch.
        generator: on the model's device; None: torch's default one.

    Raises:
        MissingHead: if the model cannot draw.
        SpaceMismatch: if the episode is of another world.
        BadData: if steps or dreams is below 1.
    """
    heads = model.heads
    need(heads, "decode", what="A film of a dream")
    if steps < 1 or dreams < 1:
        raise BadData(f"A film was asked of {steps} steps and {dreams} dreams. Ask for 1 or more.")
    steps = min(steps, len(episode))
    start = len(episode) - steps
    action = _actions(model, episode)
    before = _watch(model, episode, action, start, generator)
    state = tree.repeat(before, dreams)
    drawn = [_draw(model, state)]
    reward: list[Tensor] = []
    cont: list[Tensor] = []

    def act(_state: Any, t: int) -> Tensor | None:
        return None if action is None else action[start + t].expand(dreams, *action.shape[1:])

    for old, chosen, new in unroll(model, state, act, steps, generator=generator):
        drawn.append(_draw(model, new))
        if heads.reward is not None:
            reward.append(heads.reward(old, chosen, new))
        if heads.cont is not None:
            cont.append(heads.cont(new))
    return Film(
        start=start,
        ended=bool(episode.terminated[-1]),
        real={name: episode.obs[name][start:] for name in drawn[0]},
        dream={name: np.stack([frame[name] for frame in drawn], 1) for name in drawn[0]},
        reward=None if episode.reward is None else episode.reward[start:],
        dream_reward=torch.stack(reward, 1).cpu().numpy() if reward else None,
        cont=torch.stack(cont, 1).cpu().numpy() if cont else None,
    )


def dream_beside_reality(
    model: WorldModel,
    source: Episode | Store,
    steps: int,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Real frames on the left, dreamed frames on the right.

    Args:
        model: with `decode` of a picture.
        source: an episode, or a store, whose last episode is taken.
        steps: H.
        generator: on the model's device; None: torch's default one.

    Returns:
        (H, 3, h, 2w) uint8: the steps after the start, which both share.

    Raises:
        MissingHead: if the model draws no picture.
        SpaceMismatch: if the episode is of another world.
        BadData: if the store is empty.
    """
    if isinstance(source, Store):
        if len(source) == 0:
            raise BadData(f"A dream begins in real data, but {source.path} is empty. Collect some.")
        source = source[len(source) - 1]
    made = film(model, source, steps, dreams=1, generator=generator)
    name = picture(model, made.dream)
    if name is None:
        raise MissingHead(
            f"A picture of a dream was asked for, but {model.heads.owner} draws "
            f"{', '.join(made.dream) or 'nothing'}, and none of it is an image. "
            "Choose a model that decodes images."
        )
    return beside(made, name)[1:]


def beside(made: Film, name: str) -> np.ndarray:
    """(H+1, 3, h, 2w) uint8: reality and its first dream side by side, the start included."""
    return np.concatenate([rgb(made.real[name]), rgb(made.dream[name][0])], -1)


@torch.no_grad()
def reconstruct(
    model: WorldModel, obs: dict[str, np.ndarray], generator: torch.Generator | None = None
) -> dict[str, np.ndarray]:
    """What is left of observations after `encode`, `observe` and `decode`, each seen alone.

    Args:
        model: with `decode`.
        obs: (N, ...) by modality.
        generator: on the model's device; None: torch's default one.

    Returns:
        (N, ...) by modality, in the world's units.

    Raises:
        MissingHead: if the model cannot draw.
        SpaceMismatch: if the observations are of another world.
    """
    need(model.heads, "decode", what="A reconstruction")
    rows = len(next(iter(obs.values())))
    seen = check_obs(_tensors(model, obs), model.observations, (rows,))
    return _draw(model, model.observe(None, None, model.encode(dict(seen)), generator=generator))


def picture(model: WorldModel, drawn: dict[str, np.ndarray]) -> str | None:
    """The modality to look at: 'image', else the first that has rows and columns; None: none."""
    spaces = {name: model.observations[name] for name in drawn}
    images = [n for n, s in spaces.items() if isinstance(s, Box) and len(s.shape) == 3]
    return "image" if "image" in images else (images[0] if images else None)


# --- pixels ---------------------------------------------------------------------------------------


def rgb(frames: np.ndarray) -> np.ndarray:
    """Pictures of any kind as colours.

    Args:
        frames: (..., C, h, w); uint8, or floats in [0, 1]. One channel is grey, a multiple of
            three is a stack whose last frame counts, others are layers with a colour each.

    Returns:
        (..., 3, h, w) uint8.
    """
    if frames.dtype != np.uint8:
        frames = (np.clip(frames, 0, 1) * 255).round().astype(np.uint8)
    channels = frames.shape[-3]
    if channels == 1:
        return np.repeat(frames, 3, -3)
    if channels % 3 == 0:
        return frames[..., -3:, :, :]
    peak = max(1, int(frames.max()))
    layers = [
        frames[..., c, None, :, :] / peak * np.array(_CHANNELS[c % 8])[:, None, None]
        for c in range(channels)
    ]
    return np.max(layers, 0).astype(np.uint8)


def difference(a: np.ndarray, b: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """(..., 3, h, w) uint8 grey: how far two pictures are apart, mean over colours, times gain."""
    apart = np.abs(a.astype(np.float32) - b).mean(-3, keepdims=True) * gain
    return np.repeat(apart.clip(0, 255).round().astype(np.uint8), 3, -3)


def strip(frames: np.ndarray, *, gap: float = 0.04, height: int = 160) -> bytes:
    """Frames in a row, as a PNG.

    Args:
        frames: (N, 3, h, w) uint8.
        gap: transparent space around each frame, as a share of its width.
        height: in pixels at least; small frames grow by a whole factor.
    """
    n, _, h, w = frames.shape
    k = max(1, -(-height // h))
    pad = round(gap * w * k / 2)
    sheet = np.zeros((h * k, n, w * k + 2 * pad, 4), np.uint8)
    big = frames.repeat(k, 2).repeat(k, 3).transpose(2, 0, 3, 1)  # (hk, N, wk, 3)
    sheet[:, :, pad : pad + w * k, :3] = big
    sheet[:, :, pad : pad + w * k, 3] = 255
    return _bytes(Image.fromarray(sheet.reshape(h * k, -1, 4)), "PNG", optimize=True)


def still(frame: np.ndarray) -> bytes:
    """One frame (3, h, w) uint8 as a PNG."""
    return _bytes(Image.fromarray(frame.transpose(1, 2, 0)), "PNG", optimize=True)


def gif(frames: np.ndarray, *, fps: float = 10.0, hold: float = 1.0) -> bytes:
    """A GIF that loops, with one palette for all frames so that nothing flickers.

    Args:
        frames: (N, 3, h, w) uint8.
        fps: frames a second.
        hold: seconds that the last frame stays.
    """
    images = [Image.fromarray(frame.transpose(1, 2, 0)) for frame in frames]
    colours = Image.fromarray(_palette_sheet(frames)).quantize(256, kmeans=1)
    flat = [image.quantize(palette=colours, dither=Image.Dither.NONE) for image in images]
    times = [round(1000 / fps)] * len(flat)
    times[-1] += round(1000 * hold)
    return _bytes(
        flat[0], "GIF", save_all=True, append_images=flat[1:], duration=times, loop=0, disposal=1
    )


def _palette_sheet(frames: np.ndarray) -> np.ndarray:
    """(1, n, 3) colours by the root of how often they occur: small bright things keep a place."""
    red, green, blue = (frames[:, c].ravel().astype(np.int64) // 4 for c in range(3))
    codes, counts = np.unique(red << 12 | green << 6 | blue, return_counts=True)
    codes = codes.repeat(np.sqrt(counts).round().astype(np.int64))
    channels = np.stack([codes >> 12, codes >> 6 & 63, codes & 63], -1) * 4 + 2
    return channels[None].astype(np.uint8)


def _bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- asking the model -----------------------------------------------------------------------------


def _tensors(model: WorldModel, obs: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The modalities that the model reads, where it lives."""
    return {
        n: torch.from_numpy(v).to(model.device) for n, v in obs.items() if n in model.observations
    }


def _actions(model: WorldModel, episode: Episode) -> Tensor | None:
    """(T, ...) the recorded actions as the model takes them."""
    if model.actions is None:
        return None
    if episode.action is None:
        raise SpaceMismatch(
            f"{model.heads.owner} predicts under actions, but the episode was recorded without. "
            "Film one that has them."
        )
    action = torch.from_numpy(episode.action).to(model.device)
    return check_action(action, model.actions, (len(episode),))


def _watch(
    model: WorldModel,
    episode: Episode,
    action: Tensor | None,
    steps: int,
    generator: torch.Generator | None,
) -> Any:
    """The state (1, ...) after looking at obs[0..steps]."""
    obs = check_obs(_tensors(model, episode.obs), model.observations, (len(episode) + 1,))
    state = None
    for t in range(steps + 1):
        seen = model.encode({name: value[t : t + 1] for name, value in obs.items()})
        led = action[t - 1 : t] if action is not None and t > 0 else None
        first = torch.tensor([t == 0], device=model.device)
        state = model.observe(state, led, seen, first=first, generator=generator)
    return state


def _draw(model: WorldModel, state: Any) -> dict[str, np.ndarray]:
    """What `decode` makes of states (N, ...), in the dtypes of the model's observations."""
    decode = model.heads.decode
    drawn: Sequence[tuple[str, Tensor]] = () if decode is None else tuple(decode(state).items())
    result = {}
    for name, value in drawn:
        space = model.observations.get(name)
        if not isinstance(space, Box):
            continue
        if space.dtype == "uint8" and value.is_floating_point():
            value = value.round().clamp(0, 255)  # noqa: PLW2901
        result[name] = value.cpu().numpy().astype(space.dtype)
    return result
