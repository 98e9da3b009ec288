"""What the update is compared with: AWAC as published implementations structure it.

``python benchmarks/peers.py …`` is d3rlpy's AWAC, to be run by the Python of an environment that has it.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class PlainAWAC:
    """AWAC the usual way: a module per critic, three optimizers, a backward pass per loss, forwards repeated where needed.

    The actor's loss evaluates Q(s, a) again, as the published PyTorch implementations do (rlkit, CORL).
    """

    def __init__(self, observation_dim: int, action_dim: int, hidden: Sequence[int], device: torch.device) -> None:
        def network(sizes: Sequence[int]) -> nn.Sequential:
            layers: list[nn.Module] = []
            for pair in pairwise(sizes):
                layers += [nn.Linear(*pair), nn.ReLU()]
            return nn.Sequential(*layers[:-1]).to(device)

        self.actor = network([observation_dim, *hidden, action_dim])
        self.log_std = nn.Parameter(torch.full((action_dim,), -3.0, device=device))
        self.critics = [network([observation_dim + action_dim, *hidden, 1]) for _ in range(2)]
        self.targets = copy.deepcopy(self.critics)
        self.actor_optimizer = torch.optim.Adam([*self.actor.parameters(), self.log_std], lr=3e-4)
        self.critic_optimizers = [torch.optim.Adam(critic.parameters(), lr=3e-4) for critic in self.critics]

    def _policy(self, observation: Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(torch.tanh(self.actor(observation)), self.log_std.exp())

    @staticmethod
    def _least(critics: Sequence[nn.Module], observation: Tensor, action: Tensor) -> Tensor:
        joint = torch.cat([observation, action], dim=-1)
        return torch.min(critics[0](joint), critics[1](joint))

    def update(self, batch: dict[str, Tensor]) -> None:
        """One gradient update of critics and actor, then the targets."""
        observation, action, next_observation = batch["observation"], batch["action"], batch["next_observation"]
        with torch.no_grad():
            next_action = self._policy(next_observation).sample().clamp(-1, 1)
            next_q = self._least(self.targets, next_observation, next_action)
            target = batch["reward"][:, None] + 0.99 * (~batch["terminated"][:, None]) * next_q
        joint = torch.cat([observation, action], dim=-1)
        critic_loss = sum(nn.functional.mse_loss(critic(joint), target) for critic in self.critics)
        for optimizer in self.critic_optimizers:
            optimizer.zero_grad()
        critic_loss.backward()
        for optimizer in self.critic_optimizers:
            optimizer.step()
        with torch.no_grad():
            value = self._least(self.critics, observation, self._policy(observation).sample())
            advantage = self._least(self.critics, observation, action) - value
            weight = (advantage / 0.5).exp().clamp(max=100)
        actor_loss = -(self._policy(observation).log_prob(action).sum(-1, keepdim=True) * weight).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        for critic, slow in zip(self.critics, self.targets, strict=True):
            for online, moved in zip(critic.parameters(), slow.parameters(), strict=True):
                moved.data.copy_(0.995 * moved.data + 0.005 * online.data)


def serve_d3rlpy(
    observation_dim: int, action_dim: int, hidden: Sequence[int], batch: int, updates: int, device: str
) -> None:
    """Run ``updates`` updates of d3rlpy's AWAC per line on stdin, and answer with the seconds."""
    import d3rlpy
    import numpy as np

    rng = np.random.default_rng(0)
    episodes = [
        d3rlpy.dataset.Episode(
            observations=rng.normal(size=(200, observation_dim)).astype(np.float32),
            actions=rng.uniform(-1, 1, size=(200, action_dim)).astype(np.float32),
            rewards=rng.normal(size=(200, 1)).astype(np.float32),
            terminated=False,
        )
        for _ in range(25)
    ]
    buffer = d3rlpy.dataset.create_infinite_replay_buffer(episodes=episodes)
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=list(hidden))
    awac = d3rlpy.algos.AWACConfig(batch_size=batch, actor_encoder_factory=encoder, critic_encoder_factory=encoder).create(
        device=f"{device}:0"
    )
    awac.build_with_dataset(buffer)
    batches = [buffer.sample_transition_batch(batch) for _ in range(16)]
    print("ready", f"d3rlpy {d3rlpy.__version__}, torch {torch.__version__}", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for index in range(updates):
            awac.update(batches[index % len(batches)])
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    _, _observation, _action, _hidden, _batch, _updates, _chunk, _device = sys.argv
    _sizes = [int(size) for size in _hidden.split(",")]
    serve_d3rlpy(int(_observation), int(_action), _sizes, int(_batch), int(_updates), _device)
