"""symlog and its inverse: numbers of any size on one scale. Imports torch only.

Source: Hafner et al. 2023, eq. 9.
"""

from __future__ import annotations

from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): linear near 0, logarithmic far away."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp|x| - 1), the inverse of `symlog`."""
    return x.sign() * x.abs().expm1()
