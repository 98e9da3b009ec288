"""The equations: values by hand, properties, and refusals."""

from __future__ import annotations

import math

import pytest
import torch

from awac_pl.algorithms import losses

LN3 = math.log(3.0)


def test_target_by_hand() -> None:
    target = losses.td_target(
        reward=torch.tensor([-1.0, 0.0, -1.0, -1.9]),
        discount=torch.tensor([0.9, 0.9, 0.9, 0.81]),
        terminated=torch.tensor([False, False, True, False]),
        next_q=torch.tensor([[-10.0, -4.0, -50.0, -10.0], [-20.0, -2.0, -60.0, 0.0]]),
    )
    # r + 0.9 min(Q'); no bootstrap at the end; two steps in one transition: 0.81
    torch.testing.assert_close(target, torch.tensor([-19.0, -3.6, -1.0, -10.0]))


def test_target_is_clamped_to_what_the_reward_allows() -> None:
    flags, discount = torch.zeros(2, dtype=torch.bool), torch.full((2,), 0.99)
    target = losses.td_target(torch.tensor([0.0, -1.0]), discount, flags, torch.tensor([[5.0, -200.0]]), (-100.0, 0.0))
    torch.testing.assert_close(target, torch.tensor([0.0, -100.0]))


def test_target_has_no_gradient() -> None:
    next_q = torch.zeros(2, 3, requires_grad=True)
    assert not losses.td_target(torch.zeros(3), torch.ones(3), torch.zeros(3, dtype=torch.bool), next_q).requires_grad


def test_critic_loss_by_hand() -> None:
    q = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    # critic 0: ((1-0)^2 + (2-4)^2) / 2 = 2.5; critic 1: (0 + 16) / 2 = 8
    assert losses.critic_loss(q, torch.tensor([0.0, 4.0])).item() == pytest.approx(10.5)


def test_softmax_weights_by_hand() -> None:
    weights = losses.advantage_weights(torch.tensor([0.0, LN3]), temperature=1.0)
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5]))  # softmax (1/4, 3/4) times B = 2


def test_softmax_weights_with_temperature_and_clip_by_hand() -> None:
    weights = losses.advantage_weights(torch.tensor([0.0, 7.0]), temperature=0.5, clip=0.5 * LN3)
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5]))  # 7 is clipped to 0.5 ln 3, divided by 0.5


def test_exp_weights_by_hand() -> None:
    weights = losses.advantage_weights(torch.tensor([-LN3, 0.0, 2 * LN3]), 1.0, form="exp", max_weight=5.0)
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1.0, 5.0]))  # 9 is cut to 5


@pytest.mark.parametrize("batch", [1, 2, 7, 1024])
def test_softmax_weights_have_mean_one_and_follow_the_advantage(batch: int) -> None:
    advantage = torch.linspace(-300, 300, batch)
    weights = losses.advantage_weights(advantage, 0.5)
    assert weights.mean().item() == pytest.approx(1.0, rel=1e-5)
    assert (weights.diff() >= 0).all()


def test_softmax_weights_do_not_feel_a_shift() -> None:
    advantage = torch.tensor([0.3, -1.0, 2.0])
    torch.testing.assert_close(
        losses.advantage_weights(advantage, 0.5), losses.advantage_weights(advantage + 40.0, 0.5), rtol=1e-4, atol=1e-6
    )


def test_actor_loss_by_hand_and_its_sign() -> None:
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss = losses.actor_loss(log_prob, torch.tensor([0.5, 1.5]))
    assert loss.item() == pytest.approx(1.75)  # (0.5 * 1 + 1.5 * 2) / 2
    loss.backward()
    torch.testing.assert_close(log_prob.grad, torch.tensor([-0.25, -0.75]))  # descent raises the likelihood of the better


def test_value_gradient_loss_by_hand() -> None:
    q = torch.tensor([-1.0, -3.0], requires_grad=True)
    loss = losses.value_gradient_loss(q, q.abs().mean())
    assert loss.item() == pytest.approx(1.0)  # 2 / 2
    loss.backward()
    torch.testing.assert_close(q.grad, torch.tensor([-0.25, -0.25]))  # descent raises the value; the scale has no gradient


def test_polyak_by_hand() -> None:
    target, online = torch.tensor([1.0, 10.0]), torch.tensor([3.0, 0.0])
    losses.polyak_update([target], [online], 0.25)
    torch.testing.assert_close(target, torch.tensor([1.5, 7.5]))
    torch.testing.assert_close(online, torch.tensor([3.0, 0.0]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.td_target(torch.zeros(3, 1), torch.ones(3), torch.zeros(3, dtype=torch.bool), torch.zeros(2, 3)),
        lambda: losses.td_target(torch.zeros(3), torch.ones(3), torch.zeros(3, dtype=torch.bool), torch.zeros(2, 3, 1)),
        lambda: losses.critic_loss(torch.zeros(2, 3), torch.zeros(3, 1)),
        lambda: losses.critic_loss(torch.zeros(2, 3), torch.zeros(2)),
        lambda: losses.actor_loss(torch.zeros(3, 1), torch.zeros(3)),
        lambda: losses.advantage_weights(torch.zeros(3, 1), 1.0),
        lambda: losses.value_gradient_loss(torch.zeros(3, 1), torch.ones(())),
    ],
)
def test_a_wrong_shape_raises_and_never_broadcasts(call) -> None:
    with pytest.raises(ValueError, match=r"batch dimension \[B\]"):
        call()


def test_metrics_of_two_rows_by_hand() -> None:
    """A transition of two failed steps (gamma 0.9: -1.9), and one whose second step succeeds (-1.0)."""
    batch = {"reward": torch.tensor([-1.9, -1.0]), "discount": torch.full((2,), 0.81)}
    q, zero = torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor(0.0)
    target, advantage, weights = torch.tensor([-4.0, -6.0]), torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0])
    found = losses.metrics(batch, 0.9, zero, zero, q, target, advantage, weights, torch.zeros(1), 6.0)
    expected = {
        "train/success_rows": 0.5, "train/success_weight": 0.75, "train/weight_effective": 4**2 / (1 + 9) / 2,
        "train/advantage_std": math.sqrt(2), "train/weight_max": 3.0, "train/q_mean": 3.0, "train/target_mean": -5.0,
        "train/critic_at_bound": 0.25, "train/policy_std": 1.0,
    }  # fmt: skip
    assert {name: found[name].item() for name in expected} == pytest.approx(expected)


def test_the_scale_of_values_that_are_all_zero_is_not_zero() -> None:
    assert losses.scale_of(torch.zeros(3)).item() == pytest.approx(1e-6)
