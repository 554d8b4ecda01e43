"""Every registered model and oracle passes through every metric, trained or not."""

import math

import pytest
import torch

from reverie.core import registry
from reverie.core.types import Batch, Box, Discrete
from reverie.evaluate import (
    imagination,
    prediction,
    probabilistic,
    probes,
    simulator,
    surprise,
    understanding,
)
from reverie.evaluate.forecast import Held
from reverie.evaluate.measure import measure_from_json

ROWS, CONTEXT, HORIZON = 8, 2, 4
MODELS = [("model", name) for name in registry.names("model")]
ORACLES = [("oracle", name) for name in registry.names("oracle")]


def drawn(space, lead, generator):
    """Random values of a space."""
    if isinstance(space, Discrete):
        return torch.randint(space.n, lead, generator=generator)
    if space.dtype == "uint8":
        return torch.randint(256, (*lead, *space.shape), dtype=torch.uint8, generator=generator)
    low, high = max(space.low, -1.0), min(space.high, 1.0)
    return low + (high - low) * torch.rand(*lead, *space.shape, generator=generator)


def random_held(model, generator):
    """Segments of noise that fit a model, half of which end."""
    steps = CONTEXT - 1 + HORIZON
    lead = (ROWS, steps)
    over = torch.zeros(lead, dtype=torch.bool)
    over[::2, -1] = True
    spaces = {**model.observations, "truth": Box((2,))}
    obs = {n: drawn(space, (ROWS, steps + 1), generator) for n, space in spaces.items()}
    action = None if model.actions is None else drawn(model.actions, lead, generator)
    reward, nothing = torch.randn(lead, generator=generator), torch.zeros_like(over)
    first = torch.zeros(ROWS, steps + 1, dtype=torch.bool)
    return Held(Batch(obs, action, reward, over, nothing, ~nothing, first, {}), CONTEXT)


@pytest.mark.parametrize(("kind", "name"), MODELS + ORACLES)
def test_every_metric_takes_every_model(kind, name, generator, monkeypatch):
    monkeypatch.setattr(probes, "UPDATES", 20)
    model = registry.lookup("oracle", name)() if kind == "oracle" else _small(name)
    held = random_held(model, generator)
    before = torch.get_rng_state()
    found = [
        *prediction.measures(model, held, truth="truth", oracle=model, generator=generator),
        *probabilistic.measures(model, held, draws=4, generator=generator),
        *understanding.measures(model, held, truth="truth", untrained=model, generator=generator),
        *imagination.measures(model, held, oracle=model, generator=generator),
        *surprise.measures(model, held, oracle=model, generator=generator),
    ]
    assert torch.equal(before, torch.get_rng_state())  # all randomness is the generator's
    assert len({m.name for m in found}) == len(found) > 0
    for m in found:
        assert measure_from_json(m.to_json()) == m
        for x in (m.value, *m.curve, *m.baselines.values()):
            assert x.low <= x.value <= x.high and all(map(math.isfinite, x)), m.name
    assert simulator.verdict(found)


def _small(name):
    torch.manual_seed(0)
    return registry.instance(name, small=True).eval()
