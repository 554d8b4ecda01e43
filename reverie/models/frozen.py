"""Frozen encoders of single frames, behind one small interface: our own, Hugging Face's, timm's.

A `FrozenEncoder` makes patch features of pictures and is never trained. `OwnFrames` wraps a V-JEPA
of ours, `TransformersFrames` any V-JEPA 2 or DINOv2 of the `transformers` library, `TimmFrames`
any backbone of `timm`. Weights come from a folder or from the hub's cache. Imports core and nn.

Letters: N frames, n = h w patches, E width of a feature.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core import registry
from reverie.core.errors import BadCheckpoint, BadConfig
from reverie.models.vjepa import VJEPA
from reverie.nn.vit import Grid, cut, grid_of

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels


class FrozenEncoder(nn.Module, abc.ABC):
    """Patch features of frames.

    Attributes:
        grid: rows and columns of patches, (h, w).
        width: E.
    """

    grid: tuple[int, int]
    width: int

    @property
    def patches(self) -> int:
        """The number n of a frame."""
        return self.grid[0] * self.grid[1]

    @abc.abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """(N, n, E) float32 features, without gradient.

        Args:
            image: (N, C, H, W) uint8.
        """


class OwnFrames(FrozenEncoder):
    """The encoder of a V-JEPA of ours; each frame fills a tubelet by itself.

    Args:
        model: trained, or still to be.
    """

    def __init__(self, model: VJEPA) -> None:
        super().__init__()
        self.model = model
        self.grid, self.width = model.grid[1:], model.config.networks.width

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """See `FrozenEncoder`."""
        clip = image[:, None].expand(-1, self.model.config.tubelet, -1, -1, -1)
        return self.model.masked.alone(cut(clip, Grid(1, *self.grid)))


class TransformersFrames(FrozenEncoder):
    """A V-JEPA 2 or DINOv2 of the `transformers` library.

    Frames are resized to the side that the model was made for, unless another one is asked for; a
    V-JEPA 2 gets each frame often enough to fill a tubelet.

    Args:
        name: a folder that `save_pretrained` wrote, or a name on the hub, such as
            "facebook/vjepa2-vitl-fpc64-256" or "facebook/dinov2-small".
        side: pixels to which frames are resized; None: the model's own.

    Raises:
        MissingExtra: if `transformers` is not installed; holds the pip command.
        BadCheckpoint: if there is no such folder and the hub cannot be reached.
        BadConfig: if the model has no patches, or they do not divide the side.
    """

    model: Any  # of the library

    def __init__(self, name: str, *, side: int | None = None) -> None:
        super().__init__()
        library: Any = registry.require("transformers", "transformers")
        model = _fetched(name, lambda: library.AutoModel.from_pretrained(name))
        config, kind = model.config, model.config.model_type
        if kind not in ("vjepa2", "dinov2", "dinov2_with_registers"):
            raise BadConfig(
                f"'{name}' is a model of kind '{kind}', whose patch features are not known here. "
                "Choose a vjepa2 or a dinov2, or a backbone of timm."
            )
        self.video = kind == "vjepa2"
        self.side = side or (config.crop_size if self.video else config.image_size)
        grid = grid_of((3, self.side, self.side), config.patch_size, who=f"'{name}'")
        self.grid, self.width = grid[1:], config.hidden_size
        self._tubelet = config.tubelet_size if self.video else 1
        self._prefix = 0 if self.video else 1 + getattr(config, "num_register_tokens", 0)
        self.model = model.eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """See `FrozenEncoder`."""
        pixels = prepared(image, self.side, _MEAN, _STD)
        if self.video:
            clip = pixels[:, None].expand(-1, self._tubelet, -1, -1, -1)
            return self.model.get_vision_features(clip).float()
        return self.model(pixel_values=pixels).last_hidden_state[:, self._prefix :].float()


class TimmFrames(FrozenEncoder):
    """Any backbone of `timm` that keeps space: tokens of patches, or maps.

    Frames are resized to the side that the model was made for.

    Args:
        name: as `timm.list_models` gives it, such as "vit_small_patch14_dinov2.lvd142m", or
            "local-dir:FOLDER" for a folder that `timm.models.save_for_hf` wrote.

    Raises:
        MissingExtra: if `timm` is not installed; holds the pip command.
        BadCheckpoint: if there are no such weights here and the hub cannot be reached.
        BadConfig: if the features are no patches.
    """

    model: Any  # of the library

    def __init__(self, name: str) -> None:
        super().__init__()
        library: Any = registry.require("timm", "timm")
        model = _fetched(name, lambda: library.create_model(name, pretrained=True, num_classes=0))
        self.model = model.eval().requires_grad_(requires_grad=False)
        given = self.model.pretrained_cfg
        self.side, self._mean, self._std = given["input_size"][-1], given["mean"], given["std"]
        with torch.no_grad():
            found = self.model.forward_features(torch.zeros(1, 3, self.side, self.side))
        self._prefix = getattr(self.model, "num_prefix_tokens", 0)
        if found.dim() == 4:
            self.grid, self.width = tuple(found.shape[2:]), found.shape[1]
            return
        tokens = found.shape[1] - self._prefix if found.dim() == 3 else 0
        rows = round(max(tokens, 0) ** 0.5)
        if not rows or rows * rows != tokens:
            raise BadConfig(
                f"'{name}' gives features of shape {tuple(found.shape[1:])}, which are no square "
                "of patches. Choose a backbone that keeps space."
            )
        self.grid, self.width = (rows, rows), found.shape[2]

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """See `FrozenEncoder`."""
        found = self.model.forward_features(prepared(image, self.side, self._mean, self._std))
        if found.dim() == 4:
            return found.flatten(2).transpose(1, 2).float()
        return found[:, self._prefix :].float()


def prepared(image: Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pictures as encoders of natural ones take them.

    Args:
        image: (N, C, H, W) uint8, C of 1 or 3.
        side: pixels of what comes out.
        mean: of each channel, for pixels in 0..1.
        std: of each channel.

    Returns:
        (N, 3, side, side) float32.
    """
    x = image.float() / 255
    if x.shape[-2:] != (side, side):
        x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
    centre, spread = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (mean, std))
    return (x.expand(-1, 3, -1, -1) - centre) / spread


def _fetched(name: str, load: Callable[[], Any]) -> Any:
    """The model of that name, or one sentence why there is none."""
    try:
        return load()
    except (OSError, RuntimeError, ValueError) as error:  # what either library raises without one
        reason = str(error).strip().split("\n", maxsplit=1)[0].rstrip(".")
        raise BadCheckpoint(
            f"The encoder '{name}' was asked for, but it is no folder of a saved model, not in the "
            f"hub's cache, and the hub did not give it ({reason}). Give the folder of a saved "
            "model, or fetch it once where the hub can be reached."
        ) from error
