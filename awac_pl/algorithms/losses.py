"""The equations of AWAC (Nair et al., arXiv 2006.09359), IQL and RLPD as pure functions of tensors.

Shapes: ``B`` transitions, ``E`` critics. Rewards, flags, values, weights and log-probabilities are ``[B]``; critics are
``[E, B]``. A mismatch raises, nothing broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

WeightForm = Literal["softmax", "exp"]


def td_target(
    reward: Tensor,
    discount: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    target_range: tuple[float, float] | None = None,
) -> Tensor:
    """Bootstrapped target ``y = r + gamma * (1 - terminated) * min_e Q'_e(s', a')``.

    Args:
        reward: ``[B]``.
        discount: ``[B]``, gamma, or gamma^k where a transition spans k steps.
        terminated: ``[B]`` bool; a truncated step is not terminated and bootstraps.
        next_q: ``[E, B]``, target critics at the next observation and an action of the current policy there.
        target_range: smallest and largest return the reward allows, to clamp y; None for no clamp.

    Returns:
        ``[B]``, detached.
    """
    _same_batch(reward=reward, discount=discount, terminated=terminated, next_q=next_q[0])
    with torch.no_grad():
        target = torch.where(terminated, reward, reward + discount * next_q.amin(dim=0))
        return target if target_range is None else target.clamp(*target_range)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """``sum_e mean_B (Q_e(s, a) - y)^2``.

    Args:
        q: ``[E, B]``, the critics that learn.
        target: ``[B]``, from ``td_target``.
    """
    _same_batch(q=q[0], target=target)
    return (q - target.detach().expand_as(q)).square().mean(dim=1).sum()


def advantage_weights(
    advantage: Tensor,
    temperature: float,
    *,
    form: WeightForm = "softmax",
    clip: float | None = None,
    max_weight: float | None = None,
) -> Tensor:
    """Weights of the likelihood, ``exp(A / lambda)`` up to a factor.

    ``softmax``: ``B * softmax_B(min(A, clip) / lambda)`` (the authors' code). Its mean is exactly 1, so the learning rate
    has the same meaning at every batch size. ``exp``: ``min(exp(A / lambda), max_weight)`` (the paper, eq. 13).

    Args:
        advantage: ``[B]``, in units of return.
        temperature: lambda > 0. Small follows the best actions of the batch, large clones it.
        form: see above.
        clip: largest advantage that still adds weight; None for no bound.
        max_weight: largest weight of the ``exp`` form; None for no bound.

    Returns:
        ``[B]``, detached.
    """
    _same_batch(advantage=advantage)
    scaled = (advantage.detach() if clip is None else advantage.detach().clamp(max=clip)) / temperature
    if form == "softmax":
        return scaled.softmax(dim=0) * len(scaled)
    weights = scaled.exp()
    return weights if max_weight is None else weights.clamp(max=max_weight)


def actor_loss(log_prob: Tensor, weights: Tensor) -> Tensor:
    """Weighted maximum likelihood, ``-mean_B (w * log pi(a|s))``.

    Args:
        log_prob: ``[B]``, of the actions in the batch under the policy that learns.
        weights: ``[B]``, from ``advantage_weights``; no gradient passes through them.
    """
    _same_batch(log_prob=log_prob, weights=weights)
    return -(weights.detach() * log_prob).mean()


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """``mean_B |tau - 1(u < 0)| u^2`` (IQL, arXiv 2110.06169, eq. 5): regression towards an expectile instead of the mean.

    Args:
        difference: ``[B]``, u = sample - estimate, with gradient to the estimate.
        expectile: tau in (0, 1); 0.5 is half the mean squared error, towards 1 it is the largest sample.
    """
    _same_batch(difference=difference)
    weight = (expectile - (difference < 0).to(difference.dtype)).abs()
    return (weight * difference.square()).mean()


def soft_actor_loss(q: Tensor, log_prob: Tensor, entropy_weight: Tensor) -> Tensor:
    """``mean_B (alpha * log pi(a_pi|s) - Q(s, a_pi))`` (soft actor-critic, arXiv 1812.05905, eq. 7).

    Args:
        q: ``[B]``, value of the policy's action, with gradient to the action and none to the critics.
        log_prob: ``[B]``, of that action, with gradient.
        entropy_weight: alpha, scalar; no gradient passes.
    """
    _same_batch(q=q, log_prob=log_prob)
    return (entropy_weight.detach() * log_prob - q).mean()


def entropy_loss(log_prob: Tensor, log_entropy_weight: Tensor, target_entropy: float) -> Tensor:
    """``alpha * mean_B (-log pi(a_pi|s) - H)``: alpha rises while the entropy is below H (arXiv 1812.05905, eq. 18).

    Args:
        log_prob: ``[B]``; no gradient passes.
        log_entropy_weight: log alpha, scalar, with gradient.
        target_entropy: H.
    """
    _same_batch(log_prob=log_prob)
    return log_entropy_weight.exp() * (-log_prob.detach() - target_entropy).mean()


def value_gradient_loss(q: Tensor, scale: Tensor) -> Tensor:
    """``-mean_B Q(s, a_pi) / scale``: move the policy uphill (TD3+BC, arXiv 2106.06860; ReBRAC, 2305.09836).

    Args:
        q: ``[B]``, value of the policy's action, with gradient to the action and none to the critics.
        scale: scalar, from ``scale_of``; no gradient passes.
    """
    _same_batch(q=q)
    return -q.mean() / scale.detach()


def scale_of(q: Tensor) -> Tensor:
    """``mean_B |Q|``, at least 1e-6: values ``[B]`` divided by it do not depend on the size of the returns."""
    return q.detach().abs().mean().clamp(min=1e-6)


@torch.no_grad()
def metrics(
    batch: Mapping[str, Tensor],
    discount: float,
    critic_loss: Tensor,
    actor_loss: Tensor,
    q: Tensor,
    target: Tensor,
    advantage: Tensor,
    weights: Tensor,
    log_std: Tensor,
    max_output: float | None = None,
) -> dict[str, Tensor]:
    """Metrics of one update, as scalars.

    ``batch`` holds transitions ``[B]``, ``discount`` is gamma of one environment step. ``q`` is ``[E, B]``, ``log_std`` of
    the policy ``[A]``, the losses are scalars, the rest is ``[B]``. Values at ``max_output``, the critics' clamp, have no
    gradient.
    """
    at_bound = {} if max_output is None else {"train/critic_at_bound": (q >= max_output).float().mean()}
    failing = (batch["discount"] - 1) / (1 - discount)  # reward of a transition without success, if rewards are binary
    rewarded = batch["reward"] > failing + 1e-3
    return at_bound | {
        "train/loss": (critic_loss + actor_loss).detach(),
        "train/critic_loss": critic_loss.detach(),
        "train/actor_loss": actor_loss.detach(),
        "train/q_mean": q.mean(),
        "train/target_mean": target.mean(),
        "train/advantage_std": advantage.std(),
        "train/weight_max": weights.max(),
        # Kish's effective sample size, as a share of the batch
        "train/weight_effective": weights.sum().square() / weights.square().sum() / len(weights),
        "train/success_rows": rewarded.float().mean(),
        "train/success_weight": (weights * rewarded).sum() / weights.sum(),
        "train/policy_std": log_std.exp().mean(),
    }


@torch.no_grad()
def polyak_update(target: Iterable[Tensor], online: Iterable[Tensor], polyak: float) -> None:
    """Move targets in place, ``theta' <- (1 - tau) * theta' + tau * theta``."""
    torch._foreach_lerp_(list(target), list(online), polyak)


def _same_batch(**tensors: Tensor) -> None:
    """Raise unless every tensor is ``[B]`` with one and the same B."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"expected one batch dimension [B], the same for all; got {shapes}")
