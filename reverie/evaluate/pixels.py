"""How far a frame is from another: PSNR, SSIM, and LPIPS where its package is installed.

Frames are (N, C, h, w) in 0..255, rounded to whole shades as a screen would show them. Imports
nothing of ours.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

PSNR_CAP = 60.0  # dB: an error of a quarter shade; frames that are equal to the pixel get it
WINDOW, SIGMA = 11, 1.5  # of SSIM, pixels
LPIPS_LEAST = 64  # pixels: below it the network's last layers see hardly anything


def as_shown(frame: Tensor) -> Tensor:
    """(N, C, h, w) float32, rounded and clipped to the shades 0..255."""
    return frame.float().round().clamp(0, 255)


def psnr(frame: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(1 / MSE) on [0, 1], capped at 60 dB.

    Args:
        frame: (N, C, h, w) in 0..255.
        true: the same.

    Returns:
        (N,) dB.
    """
    error = ((as_shown(frame) - as_shown(true)) / 255).square().mean((1, 2, 3))
    return -10 * error.clamp(min=10 ** (-PSNR_CAP / 10)).log10()


def ssim(frame: Tensor, true: Tensor) -> Tensor:
    """Structural similarity, 1 for equal frames: mean over channels and all whole windows.

    Args:
        frame: (N, C, h, w) in 0..255; at least 11 pixels high and wide.
        true: the same.

    Returns:
        (N,).

    Source:
        Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5, K1 = 0.01, K2 = 0.03.
    """
    x, y = as_shown(frame) / 255, as_shown(true) / 255
    down, across = _blur(x.shape[-2], x.device), _blur(x.shape[-1], x.device)

    def blurred(image: Tensor) -> Tensor:
        return down @ image @ across.T

    mean_x, mean_y = blurred(x), blurred(y)
    var_x = blurred(x * x) - mean_x.square()
    var_y = blurred(y * y) - mean_y.square()
    covariance = blurred(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    form = (2 * covariance + c2) / (var_x + var_y + c2)
    return (light * form).mean((1, 2, 3))


def _blur(size: int, device: torch.device) -> Tensor:
    """(size - 10, size) the Gaussian window at every place where it fits whole, row by row."""
    offset = torch.arange(WINDOW, device=device) - WINDOW // 2
    window = torch.exp(-(offset.double() ** 2) / (2 * SIGMA**2))
    rows = torch.arange(size - WINDOW + 1, device=device)[:, None]
    matrix = torch.zeros(len(rows), size, dtype=torch.float64, device=device)
    matrix[rows, rows + torch.arange(WINDOW, device=device)] = window / window.sum()
    return matrix.float()


def lpips(device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Zhang et al. 2018's learned distance (AlexNet) of frames in 0..255; None: not installed.

    Args:
        device: where it is to run.

    Returns:
        (frame (N, 3, h, w), true) -> (N,), for frames of at least 64 pixels.
    """
    if importlib.util.find_spec("lpips") is None:
        return None
    network = importlib.import_module("lpips").LPIPS(net="alex", verbose=False).to(device)

    def distance(frame: Tensor, true: Tensor) -> Tensor:
        low, high = as_shown(frame) / 127.5 - 1, as_shown(true) / 127.5 - 1
        return network(low, high).reshape(len(frame))

    return distance
