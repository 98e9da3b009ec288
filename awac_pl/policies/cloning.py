"""Behaviour cloning: a policy fitted to recorded episodes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from awac_pl.episode import Episode, to_transitions
from awac_pl.errors import DatasetError
from awac_pl.policies.actor import Actor, Normalizer, moments
from awac_pl.policies.numpy_policy import NumpyPolicy


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A cloned policy and how well it predicts actions it has not seen.

    Args:
        actor: the network, at the update with the best held-out likelihood.
        updates: how many updates that took.
        held_out_log_prob: mean log-likelihood per transition of the held-out episodes.
        train_log_prob: the same of the episodes it was fitted to.
        early_stopping: how the end was found: episodes held out, updates between checks, checks without a better likelihood.
        normalizer: of the observations; None where the network gets them as they are.
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
    hidden_sizes: Sequence[int] = (256, 256),
    seed: int = 0,
    max_updates: int = 20_000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    held_out: float = 0.1,
    patience: int = 10,
    check_every: int = 250,
    normalize_observations: bool = False,
    progress: bool = True,
) -> Clone:
    """Fit a policy to episodes by maximum likelihood, until the held-out likelihood stops rising.

    Args:
        episodes: at least 2.
        hidden_sizes: of the actor.
        seed: of initial weights, batches and the choice of held-out episodes.
        max_updates: gradient updates at most.
        batch_size: transitions per update.
        learning_rate: Adam's.
        weight_decay: Adam's.
        held_out: share of the episodes held out, at least one.
        patience: stop after so many checks without a better likelihood.
        check_every: updates between checks.
        normalize_observations: to mean 0 and deviation 1 in these episodes.
        progress: show a progress bar.

    Raises:
        DatasetError: fewer than 2 episodes.
    """
    if len(episodes) < 2:
        raise DatasetError(f"cloning needs at least 2 episodes (one is held out), got {len(episodes)}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(episodes), generator=generator).tolist()
    num_held_out = max(1, round(held_out * len(episodes)))
    held_out_columns = to_transitions([episodes[index] for index in order[:num_held_out]])
    train_columns = to_transitions([episodes[index] for index in order[num_held_out:]])
    held_out_pair = [torch.from_numpy(held_out_columns[key]) for key in ("observation", "action")]
    train_pair = [torch.from_numpy(train_columns[key]) for key in ("observation", "action")]
    normalizer = Normalizer(train_pair[0].shape[1]) if normalize_observations else None
    if normalizer is not None:
        normalizer.measure([moments(train_pair[0])])
        train_pair[0], held_out_pair[0] = normalizer(train_pair[0]), normalizer(held_out_pair[0])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        actor = Actor(train_pair[0].shape[1], train_pair[1].shape[1], hidden_sizes)
    optimizer = torch.optim.Adam(actor.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)

    def log_prob(observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return actor.log_prob(actor(observation), action).mean()

    best, best_state, best_update, checks = -np.inf, copy.deepcopy(actor.state_dict()), 0, 0
    with tqdm(total=max_updates, desc="cloning", unit="update", disable=not progress, leave=False) as bar:
        for update in range(1, max_updates + 1):
            index = torch.randint(len(train_pair[0]), (batch_size,), generator=generator)
            loss = -log_prob(train_pair[0][index], train_pair[1][index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if update % check_every:
                continue
            with torch.no_grad():
                likelihood = float(log_prob(*held_out_pair))
            bar.update(check_every)
            bar.set_postfix(held_out=f"{likelihood:.2f}")
            checks = 0 if likelihood > best else checks + 1
            if likelihood > best:
                best, best_state, best_update = likelihood, copy.deepcopy(actor.state_dict()), update
            if checks >= patience:
                break
    actor.load_state_dict(best_state)
    with torch.no_grad():
        return Clone(
            actor=actor,
            normalizer=normalizer,
            updates=best_update,
            held_out_log_prob=best,
            train_log_prob=float(log_prob(*train_pair)),
            early_stopping={
                "held_out_episodes": num_held_out, "check_every": check_every, "patience": patience,
                "max_updates": max_updates, "stopped_at": update,
            },
        )  # fmt: skip
