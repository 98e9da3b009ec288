"""Behaviour cloning: a policy fitted to recorded episodes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from awac_pl.episode import Episode, to_transitions
from awac_pl.errors import DatasetError
from awac_pl.policies.actor import Actor, Normalizer, moments
from awac_pl.policies.numpy_policy import NumpyPolicy

#: Transitions per update, Adam's settings, and the share of the episodes that is held out.
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY, HELD_OUT = 256, 1e-3, 1e-4, 0.1
#: Observations ``[N, O]`` and actions ``[N, A]``.
Pairs = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A cloned policy and how well it predicts unseen actions.

    Args:
        actor: the network, at the update with the best held-out likelihood.
        updates: number of this update.
        held_out_log_prob: mean log-likelihood per transition of the held-out episodes.
        train_log_prob: the same of the episodes it was fitted to.
        early_stopping: settings of the early stopping, and the update at which it stopped.
        normalizer: of the observations; None if they are not normalised.
    """

    actor: Actor
    updates: int
    held_out_log_prob: float
    train_log_prob: float
    early_stopping: dict[str, int]
    normalizer: Normalizer | None = None

    def policy(self, deterministic: bool = False) -> NumpyPolicy:
        """The policy for workers."""
        return self.actor.to_numpy(deterministic, self.normalizer)


def fit_clone(
    episodes: Sequence[Episode],
    *,
    seed: int = 0,
    max_updates: int = 20_000,
    patience: int = 10,
    check_every: int = 250,
    normalize_observations: bool = False,
    progress: bool = True,
) -> Clone:
    """Fit a policy to episodes by maximum likelihood, until the held-out likelihood stops rising.

    Args:
        episodes: at least 2.
        seed: of initial weights, batches and the choice of held-out episodes.
        max_updates: gradient updates at most.
        patience: stop after so many checks without a better likelihood.
        check_every: updates between checks.
        normalize_observations: to mean 0 and deviation 1 in the episodes it is fitted to.
        progress: show a progress bar.

    Raises:
        DatasetError: fewer than 2 episodes.
    """
    if len(episodes) < 2:
        raise DatasetError(f"cloning needs at least 2 episodes (one is held out), got {len(episodes)}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(episodes), generator=generator).tolist()
    num_held_out = max(1, round(HELD_OUT * len(episodes)))
    held_out, train = (_pairs(episodes, part) for part in (order[:num_held_out], order[num_held_out:]))
    normalizer = None
    if normalize_observations:
        normalizer = Normalizer(train[0].shape[1])
        normalizer.measure([moments(train[0])])
        held_out, train = ((normalizer(observation), action) for observation, action in (held_out, train))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = Actor(train[0].shape[1], train[1].shape[1])
    with tqdm(total=max_updates, desc="cloning", unit="update", disable=not progress or None, leave=False) as bar:
        best, updates, stopped_at = _fit(actor, train, held_out, generator, max_updates, patience, check_every, bar)
    return Clone(
        actor=actor, normalizer=normalizer, updates=updates, held_out_log_prob=best,
        train_log_prob=_likelihood(actor, train),
        early_stopping={
            "held_out_episodes": num_held_out, "check_every": check_every, "patience": patience,
            "max_updates": max_updates, "stopped_at": stopped_at,
        },
    )  # fmt: skip


def _pairs(episodes: Sequence[Episode], chosen: Iterable[int]) -> Pairs:
    columns = to_transitions([episodes[index] for index in chosen])
    return torch.from_numpy(columns["observation"]), torch.from_numpy(columns["action"])


@torch.no_grad()
def _likelihood(actor: Actor, pairs: Pairs) -> float:
    """Mean log-likelihood per transition."""
    return float(actor.log_prob(actor(pairs[0]), pairs[1]).mean())


def _fit(
    actor: Actor, train: Pairs, held_out: Pairs, generator: torch.Generator, max_updates: int, patience: int,
    check_every: int, bar: tqdm,
) -> tuple[float, int, int]:  # fmt: skip
    """Leaves the actor at its best check; returns the likelihood and the update of this check, and the last update."""
    optimizer = torch.optim.Adam(actor.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    best, best_state, best_update, checks = -np.inf, copy.deepcopy(actor.state_dict()), 0, 0
    for update in range(1, max_updates + 1):
        index = torch.randint(len(train[0]), (BATCH_SIZE,), generator=generator)
        loss = -actor.log_prob(actor(train[0][index]), train[1][index]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % check_every:
            continue
        likelihood = _likelihood(actor, held_out)
        bar.update(check_every)
        bar.set_postfix(held_out=f"{likelihood:.2f}")
        checks += 1
        if likelihood > best:
            best, best_state, best_update, checks = likelihood, copy.deepcopy(actor.state_dict()), update, 0
        elif checks >= patience:
            break
    actor.load_state_dict(best_state)
    return best, best_update, update
