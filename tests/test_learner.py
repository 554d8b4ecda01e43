"""GradientLearner against numbers worked by hand and against torch.optim used directly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reverie.core.errors import BadCheckpoint, BadConfig
from reverie.core.model import Part
from reverie.core.types import Loss, Optim
from reverie.learner import GradientLearner


class Weight(nn.Module):
    """One number."""

    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value))


def two_parts(first: Optim, second: Optim):
    """x = 2, w1 = 3, w2 = 5; a: s = w1 x, loss s^2 / 2; b: loss w2 s.

    By hand: s = 6; d a/d w1 = s x = 12; d b/d w2 = s = 6; d b/d w1 = w2 x = 10.
    """
    a, b, x = Weight(3.0), Weight(5.0), torch.tensor(2.0)

    def loss_a(batch, states):
        assert states is None
        s = a.w * x
        return Loss(s**2 / 2, {"half_square": (s**2 / 2).detach()}, (s[None],))

    def loss_b(batch, states):
        return Loss((b.w * states[0]).sum(), {})

    return a, b, [Part("a", a, loss_a, first), Part("b", b, loss_b, second)]


def test_equal_optims_step_together_and_states_keep_their_graph():
    a, b, parts = two_parts(Optim(lr=0.1), Optim(lr=0.1))
    metrics = GradientLearner(parts).update(None)
    assert a.w.grad.item() == 22.0  # 12 + 10
    assert b.w.grad.item() == 6.0
    assert {k: float(v) for k, v in metrics.items()} == {
        "a/total": 18.0,
        "a/half_square": 18.0,
        "b/total": 30.0,
        "main/grad_norm": pytest.approx(520**0.5),
        "main/lr": 0.1,
    }
    assert a.w.item() == pytest.approx(2.9)  # Adam's first step is the learning rate
    assert b.w.item() == pytest.approx(4.9)


def test_unequal_optims_step_apart_and_states_are_detached_between():
    a, b, parts = two_parts(Optim("one", lr=0.1), Optim("two", lr=0.2))
    metrics = GradientLearner(parts).update(None)
    assert a.w.grad.item() == 12.0
    assert b.w.grad.item() == 6.0
    assert metrics["one/grad_norm"] == 12.0
    assert metrics["two/grad_norm"] == 6.0
    assert a.w.item() == pytest.approx(2.9)
    assert b.w.item() == pytest.approx(4.8)


def test_a_loss_that_passes_through_another_parts_module_leaves_it_alone():
    a, b = Weight(3.0), Weight(5.0)
    parts = [
        Part("a", a, lambda batch, states: Loss(2 * a.w, {}), Optim("one")),
        Part("b", b, lambda batch, states: Loss(7 * a.w * b.w, {}), Optim("two")),
    ]
    learner = GradientLearner(parts)
    for _ in range(2):
        learner.update(None)
        assert a.w.grad.item() == 2.0


def test_parameters_outside_never_change():
    model = nn.ModuleDict({"in": nn.Linear(3, 3), "out": nn.Linear(3, 3)})
    model["in"].bias.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def loss(batch, states):
        return Loss(model["out"](model["in"](torch.ones(3))).square().sum(), {})

    learner = GradientLearner([Part("in", model["in"], loss, Optim(weight_decay=0.1))])
    for _ in range(3):
        learner.update(None)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"in.weight"}
    assert model["out"].weight.grad is None


@pytest.mark.parametrize(
    "optim",
    [
        Optim(lr=0.05, betas=(0.7, 0.9), eps=1e-3),
        Optim(lr=0.05, weight_decay=0.3),
        Optim(lr=0.05, weight_decay=0.3, kind="adamw"),
        Optim(lr=0.05, clip_norm=0.5),
        Optim(lr=0.05, clip_value=0.2),
        Optim(lr=0.05, clip_value=0.2, clip_norm=0.3),
        Optim(lr=0.05, decay=0.8, lr_min=0.02),
    ],
    ids=["adam", "decayed_adam", "adamw", "clip_norm", "clip_value", "both_clips", "lr_decay"],
)
def test_every_setting_does_what_torch_does(optim):
    def make():
        torch.manual_seed(0)
        return nn.Linear(4, 2), torch.randn(12, 4)

    def loss_of(net, x):
        return (net(x).exp() - x[:, :2]).square().mean()

    net, x = make()
    learner = GradientLearner([Part("p", net, lambda b, s: Loss(loss_of(net, b), {}), optim)])
    norms, rates = [], []
    for row in x:
        metrics = learner.update(row[None])
        norms.append(float(metrics["main/grad_norm"]))
        rates.append(metrics["main/lr"])

    net2, _ = make()
    kind = torch.optim.AdamW if optim.kind == "adamw" else torch.optim.Adam
    reference = kind(
        net2.parameters(),
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        reference, lambda n: max(optim.decay**n, optim.lr_min / optim.lr)
    )
    norms2, rates2 = [], []
    for row in x:
        reference.zero_grad()
        loss_of(net2, row[None]).backward()
        norms2.append(float(torch.cat([p.grad.flatten() for p in net2.parameters()]).norm()))
        rates2.append(reference.param_groups[0]["lr"])
        if optim.clip_value is not None:
            nn.utils.clip_grad_value_(net2.parameters(), optim.clip_value)
        if optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(net2.parameters(), optim.clip_norm)
        reference.step()
        schedule.step()
    assert norms == pytest.approx(norms2)
    assert rates == pytest.approx(rates2)
    torch.testing.assert_close(net.weight, net2.weight)
    torch.testing.assert_close(net.bias, net2.bias)


@pytest.mark.parametrize("kind", ["adam", "laprop"])
def test_a_learning_rate_warms_up_while_it_decays_and_goes_on_where_it_was(kind):
    optim = Optim(kind=kind, lr=0.1, decay=0.5, lr_min=0.01, warmup=4)
    net = nn.Linear(2, 1)
    part = Part("p", net, lambda b, s: Loss(net(torch.ones(1, 2)).sum(), {}), optim)
    learner = GradientLearner([part])
    before = net.bias.item()
    rates = [learner.update(None)["main/lr"] for _ in range(3)]
    assert before - net.bias.item() == pytest.approx(0.025 + 0.025 + 0.01875, rel=1e-5)
    resumed = GradientLearner([part])
    resumed.load_state_dict(learner.state_dict())
    rates += [resumed.update(None)["main/lr"] for _ in range(3)]
    assert rates == pytest.approx([0.025, 0.025, 0.01875, 0.0125, 0.01, 0.01])


def test_after_is_called_once_a_step_when_the_parameters_have_moved():
    a, _, parts = two_parts(Optim(lr=0.1), Optim(lr=0.1))
    seen = []
    parts[0] = parts[0]._replace(after=lambda: seen.append(round(a.w.item(), 3)))
    GradientLearner(parts).update(None)
    assert seen == [2.9]


def test_groups_go_in_the_order_of_their_first_part():
    order = []

    def part(name, optim):
        module = Weight(1.0)

        def loss(batch, states):
            order.append(name)
            return Loss(module.w**2, {})

        return Part(name, module, loss, Optim(optim))

    GradientLearner([part("a", "x"), part("b", "y"), part("c", "x")]).update(None)
    assert order == ["a", "c", "b"]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_bf16_is_autocast_of_the_loss_alone(precision):
    net, seen = nn.Linear(4, 1), []

    def loss(batch, states):
        out = net(batch)
        seen.append(out.dtype)
        return Loss(out.mean(), {})

    learner = GradientLearner([Part("p", net, loss, Optim())], precision=precision)
    metrics = learner.update(torch.ones(2, 4))
    assert seen == [torch.bfloat16 if precision == "bf16" else torch.float32]
    assert net.weight.dtype == net.weight.grad.dtype == torch.float32
    assert torch.isfinite(metrics["p/total"])


def test_training_mode_is_on_in_updates_only():
    net, seen = nn.Dropout(), []
    net.register_parameter("w", nn.Parameter(torch.ones(())))

    def loss(batch, states):
        seen.append(net.training)
        return Loss(net.w**2, {})

    net.eval()
    GradientLearner([Part("p", net, loss, Optim())]).update(None)
    assert seen == [True]
    assert not net.training


def test_it_goes_on_exactly_where_its_state_was_taken():
    def run(steps, state=None, weights=None):
        torch.manual_seed(0)
        net = nn.Linear(3, 1)
        optim = Optim(lr=0.1, decay=0.9, kind="adamw")
        learner = GradientLearner(
            [Part("p", net, lambda b, s: Loss(net(b).exp().mean(), {}), optim)]
        )
        if state is not None:
            net.load_state_dict(weights)
            learner.load_state_dict(state)
        for _ in range(steps):
            metrics = learner.update(torch.ones(2, 3))
        return net, learner, metrics

    _, _, whole = run(6)
    net, learner, _ = run(3)
    _, _, resumed = run(3, learner.state_dict(), net.state_dict())
    assert {k: float(v) for k, v in whole.items()} == {k: float(v) for k, v in resumed.items()}


def test_a_state_of_other_parts_is_refused():
    _, _, parts = two_parts(Optim("one"), Optim("two"))
    state = GradientLearner(parts).state_dict()
    with pytest.raises(BadCheckpoint, match=r"optimizers \['one', 'two'\], but the parts name"):
        GradientLearner(parts[:1]).load_state_dict(state)
    _, _, together = two_parts(Optim(), Optim())
    state = {"main": state["one"]}
    with pytest.raises(BadCheckpoint, match="'main' steps other parameters"):
        GradientLearner(together).load_state_dict(state)


def test_what_cannot_be_stepped_is_refused():
    a, _, parts = two_parts(Optim("x"), Optim("x", lr=0.5))
    with pytest.raises(BadConfig, match="x stands for more than one unequal Optim"):
        GradientLearner(parts)
    with pytest.raises(BadConfig, match="a stands for more than one part"):
        GradientLearner([parts[0], parts[0]])
    with pytest.raises(BadConfig, match="stepped by both Optim 'x' and Optim 'y'"):
        GradientLearner([parts[0], parts[1]._replace(module=a, optim=Optim("y"))])
    with pytest.raises(BadConfig, match="steps a, which have no trainable parameter"):
        GradientLearner([parts[0]._replace(module=nn.Identity())])
    with pytest.raises(BadConfig, match="of kind 'sgd'. Choose"):
        GradientLearner([parts[0]._replace(optim=Optim(kind="sgd"))])
    with pytest.raises(BadConfig, match="precision is 'fp8'"):
        GradientLearner(parts[:1], precision="fp8")


def test_two_parts_of_one_group_may_share_a_module():
    a, _, parts = two_parts(Optim(), Optim())
    shared = parts[1]._replace(module=nn.ModuleList([a, parts[1].module]))
    learner = GradientLearner([parts[0], shared])
    learner.update(None)
    assert a.w.grad.item() == 22.0
