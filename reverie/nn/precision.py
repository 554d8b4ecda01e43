"""How matrix products are computed, as a choice for a stretch of code. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["float32", "medium", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "medium", "bf16")


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products inside are computed so.

    Args:
        precision: "float32" as torch is set; "medium": float32 in, float32 out, by whatever torch's
            matmul precision "medium" allows: on CPUs whose MKL has no AVX-512 path twice as fast
            and nearly as exact, elsewhere perhaps bf16 inside; "bf16": under autocast.
        device: where they are computed.
    """
    if precision == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
        return
    before = torch.get_float32_matmul_precision()
    if precision == "medium":
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        if precision == "medium":
            torch.set_float32_matmul_precision(before)
