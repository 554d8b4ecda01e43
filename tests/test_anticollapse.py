"""Anti-collapse terms against closed forms, quadrature by scipy, and numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn

from reverie.nn.anticollapse import (
    Covariance,
    EMATarget,
    InverseDynamics,
    Seen,
    SIGReg,
    TemporalSimilarity,
    Variance,
    alarms,
    epps_pulley,
    masked_mean,
    ringing,
)


def seen(z, action=None, valid=None) -> Seen:
    z = torch.as_tensor(z, dtype=torch.float32)
    b, length = z.shape[:2]
    action = torch.zeros(b, length - 1, 1) if action is None else torch.as_tensor(action)
    valid = torch.ones(b, length - 1, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Seen(z, action, valid)


def lines(d: int, m: int) -> torch.Tensor:
    return nn.functional.normalize(torch.randn(d, m), dim=0)


# -- SIGReg: the values of the sheet, and the integral done by scipy -------------------------------


@pytest.mark.parametrize("n", [16, 128])
def test_normal_samples_give_the_noise_floor_at_any_size(n):
    """N E|phi_N - phi|^2 = 1 - exp(-t^2): its integral is sqrt(2 pi) (1 - 1 / sqrt(3)) = 1.06."""
    torch.manual_seed(0)
    found = epps_pulley(torch.randn(20_000, n, 1), torch.ones(1, 1))
    assert found.mean().item() == pytest.approx(1.055, abs=0.03)


@pytest.mark.parametrize("n", [128, 256])
def test_full_collapse_costs_its_share_of_the_batch(n):
    found = epps_pulley(torch.zeros(n, 8), lines(8, 5))
    assert found.shape == (5,)
    torch.testing.assert_close(found / n, torch.full((5,), 0.402), atol=1e-3, rtol=0)


def test_a_uniform_and_a_coin_of_unit_variance_are_told_from_a_normal():
    torch.manual_seed(1)
    uniform = (2 * torch.rand(4096, 1) - 1) * 3**0.5
    coin = torch.ones(512, 1)
    coin[::2] = -1
    one = torch.ones(1, 1)
    assert epps_pulley(uniform, one).item() == pytest.approx(65.96, abs=10)
    assert epps_pulley(coin, one).item() == pytest.approx(52.74, abs=0.2)


def test_the_statistic_is_the_integral_that_it_stands_for():
    x = np.array([-1.3, 0.2, 0.9, 2.4])

    def integrand(t):
        gap = np.exp(1j * t * x).mean() - np.exp(-t * t / 2)
        return abs(gap) ** 2 * np.exp(-t * t / 2)

    wanted = len(x) * integrate.quad(integrand, -3, 3)[0]
    found = epps_pulley(torch.tensor(x, dtype=torch.float32)[:, None], torch.ones(1, 1))
    assert found.item() == pytest.approx(wanted, rel=2e-3)


def test_free_points_become_normal_by_its_gradient():
    """The sheet's numbers: 512 points at a tenth of their size, Adam 0.05: 1.07 after 60 steps."""
    torch.manual_seed(0)
    points = nn.Parameter(0.1 * torch.randn(512, 1, 16))
    term, optimizer = SIGReg(1.0, slices=128), torch.optim.Adam([points], lr=0.05)
    before = term(seen(points[:, [0, 0]].detach())).item()
    for _ in range(60):
        optimizer.zero_grad()
        term(Seen(points, *seen(torch.zeros(512, 1, 16))[1:])).backward()
        optimizer.step()
    assert before == pytest.approx(198, abs=6)
    after = points.detach()[:, 0]
    assert epps_pulley(after, lines(16, 256)).mean().item() < 1.5
    assert after.std(0).mean().item() == pytest.approx(0.95, abs=0.06)


def test_each_moment_is_tested_by_itself():
    """Half of the moments at -1, half at +1 is a coin over time, but a point at each moment."""
    z = torch.ones(200, 2, 1)
    z[:, 0] = -1
    point = epps_pulley(torch.ones(200, 1), torch.ones(1, 1)).item()
    coin = epps_pulley(z.reshape(400, 1), torch.ones(1, 1)).item()
    assert SIGReg(1.0, slices=3)(seen(z)).item() == pytest.approx(point, rel=1e-5)
    assert abs(point - coin) > 5


# -- VICReg, similarity, inverse dynamics: by hand -----------------------------------------------


def test_variance_is_a_hinge_at_one():
    # Dimension 0: values -2 and 2, variance 8, above 1: free. Dimension 1: equal, deviation 0.01.
    z = [[[-2.0, 5.0]], [[2.0, 5.0]]]
    assert Variance(1.0)(seen(z)).item() == pytest.approx((0 + 0.99) / 2)


def test_covariance_counts_pairs_of_different_dimensions():
    # x = (1, -1, 0), y = 2x, w orthogonal to both: of 6 ordered pairs two have covariance 2.
    z = [[[1.0, 2.0, 1.0]], [[-1.0, -2.0, 1.0]], [[0.0, 0.0, -2.0]]]
    assert Covariance(1.0)(seen(z)).item() == pytest.approx(2 * 2.0**2 / 6)


def test_similarity_leaves_seams_out():
    z = [[[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 3.0]]]
    valid = [[True, False], [True, True]]
    # mean over D of squared steps: 12.5, -, 0, 2; three of them count
    assert TemporalSimilarity(1.0)(seen(z, valid=valid)).item() == pytest.approx(14.5 / 3)


def test_inverse_dynamics_reads_what_was_done():
    torch.manual_seed(0)
    term = InverseDynamics(1.0, latent=2, action=2, hidden=32)
    optimizer = torch.optim.Adam(term.parameters(), lr=1e-2)
    z = torch.randn(256, 2, 2)
    valid = [[i % 2 == 0] for i in range(256)]
    action = z.diff(dim=1)
    action[1::2] = 99.0  # where it is not valid it does not count
    for _ in range(300):
        optimizer.zero_grad()
        loss = term(seen(z, action, valid))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    assert term(seen(torch.zeros_like(z), action, valid)).item() > 0.5


# -- the EMA target -------------------------------------------------------------------------------


def test_a_target_follows_slowly_and_without_gradient():
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    target = EMATarget(module, momentum=0.9)
    with torch.no_grad():
        before = module[0].weight.item()
        module[0].weight.add_(1.0)
        module[1].running_mean.fill_(7.0)
    target.update(module)
    assert target.copy[0].weight.item() == pytest.approx(before + 0.1)
    assert target.copy[1].running_mean.item() == 7.0
    assert not target(torch.zeros(2, 1)).requires_grad
    assert not any(p.requires_grad for p in target.parameters())


# -- alarms ---------------------------------------------------------------------------------------


def test_alarms_of_known_covariances():
    torch.manual_seed(0)
    z = torch.randn(4000, 2, 8)
    z[..., 5:] = 0  # five equal eigenvalues of eight
    found = {name: float(value) for name, value in alarms(seen(z)).items()}
    assert found["rank"] == pytest.approx(5, abs=0.05)
    assert found["std"] == pytest.approx(5 / 8, abs=0.01)
    assert found["motion"] == pytest.approx(1, abs=0.03)  # moments that know nothing of each other


@pytest.mark.parametrize(
    ("z", "rings"),
    [
        (torch.randn(500, 4, 32), ()),
        (1e-3 * torch.randn(500, 4, 32), ("std",)),
        (torch.randn(500, 4, 1).expand(-1, -1, 32), ("rank",)),
        (torch.randn(500, 1, 32).expand(-1, 4, -1), ("motion",)),  # only tells episodes apart
        (torch.zeros(500, 4, 32), ("std", "rank", "motion")),
    ],
)
def test_each_collapse_rings_its_alarm(z, rings):
    found = {name: float(value) for name, value in alarms(seen(z)).items()}
    assert ringing(found, 32) == rings


def test_a_mean_over_nothing_is_zero():
    assert masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool)).item() == 0


def test_what_happens_at_a_seam_is_no_motion():
    torch.manual_seed(0)
    z = torch.randn(300, 1, 4).repeat(1, 3, 1)
    z[:, 2] = torch.randn(300, 4)  # another episode
    valid = [[True, False]] * 300
    assert alarms(seen(z, valid=valid))["motion"].item() == 0
    assert alarms(seen(z))["motion"].item() == pytest.approx(0.5, abs=0.1)
