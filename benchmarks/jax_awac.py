"""AWAC in JAX as fast JAX code is written: one jitted scan over the updates of a chunk, parameters donated.

``python benchmarks/jax_awac.py …`` is to be run by the Python of an environment that has jax; see ``updating.Peer``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

CRITICS, DISCOUNT, POLYAK, RATE, TEMPERATURE, CLIP = 2, 0.99, 0.005, 3e-4, 0.5, 0.5


def serve(
    observation_dim: int, action_dim: int, hidden: Sequence[int], batch: int, updates: int, chunk: int, device: str
) -> None:
    """Run ``updates`` updates per line on stdin, and answer with the seconds."""
    os.environ["JAX_PLATFORMS"] = device
    if device == "cpu":  # XLA has no other number of threads
        cores = sorted(os.sched_getaffinity(0))[: int(os.environ["OMP_NUM_THREADS"])]
        os.sched_setaffinity(0, cores)
    import jax
    import jax.numpy as jnp

    def network(key: Any, sizes: Sequence[int], copies: int) -> list[tuple[Any, Any]]:
        layers = []
        for fan_in, fan_out in pairwise(sizes):
            key, part = jax.random.split(key)
            bound = fan_in**-0.5
            weight = jax.random.uniform(part, (copies, fan_in, fan_out), minval=-bound, maxval=bound)
            layers.append((weight, jnp.zeros((copies, 1, fan_out))))
        return layers

    def forward(layers: list[tuple[Any, Any]], rows: Any) -> Any:
        hidden_rows = jnp.broadcast_to(rows, (len(layers[0][0]), *rows.shape))
        for index, (weight, bias) in enumerate(layers):
            hidden_rows = hidden_rows @ weight + bias
            hidden_rows = jax.nn.relu(hidden_rows) if index < len(layers) - 1 else hidden_rows
        return hidden_rows

    def q(layers: list[tuple[Any, Any]], observation: Any, action: Any) -> Any:
        return forward(layers, jnp.concatenate([observation, action], axis=-1))[..., 0]

    def mean(layers: list[tuple[Any, Any]], observation: Any) -> Any:
        return jnp.tanh(forward(layers, observation)[0])

    def loss(parameters: Any, targets: Any, rows: Any, key: Any) -> Any:
        std = jnp.exp(parameters["log_std"])
        next_mean = mean(parameters["actor"], rows["next_observation"])
        next_action = jnp.clip(next_mean + std * jax.random.normal(key, next_mean.shape), -1, 1)
        next_q = q(targets, rows["next_observation"], next_action).min(axis=0)
        target = jnp.clip(rows["reward"] + DISCOUNT * (1 - rows["terminated"]) * next_q, -1 / (1 - DISCOUNT), 0)
        values = q(parameters["critics"], rows["observation"], rows["action"])
        critic_loss = jnp.square(values - jax.lax.stop_gradient(target)).mean(axis=1).sum()
        policy_mean = mean(parameters["actor"], rows["observation"])
        value = q(parameters["critics"], rows["observation"], policy_mean).min(axis=0)
        advantage = jax.lax.stop_gradient(values.min(axis=0) - value)
        weights = jax.nn.softmax(jnp.minimum(advantage, CLIP) / TEMPERATURE) * len(advantage)
        log_prob = jax.scipy.stats.norm.logpdf(rows["action"], policy_mean, std).sum(axis=-1)
        return critic_loss - (weights * log_prob).mean()

    def update(state: Any, rows: Any) -> tuple[Any, None]:
        parameters, targets, first, second, count, key = state
        key, part = jax.random.split(key)
        gradients = jax.grad(loss)(parameters, targets, rows, part)
        count = count + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
        parameters = jax.tree.map(
            lambda p, m, v: p - RATE * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8),
            parameters, first, second,
        )  # fmt: skip
        targets = jax.tree.map(lambda t, p: (1 - POLYAK) * t + POLYAK * p, targets, parameters["critics"])
        return (parameters, targets, first, second, count, key), None

    run = jax.jit(lambda state, rows: jax.lax.scan(update, state, rows)[0], donate_argnums=0)
    keys = jax.random.split(jax.random.PRNGKey(0), 8)
    parameters = {
        "actor": network(keys[0], [observation_dim, *hidden, action_dim], 1),
        "log_std": jnp.full(action_dim, -3.0),
        "critics": network(keys[1], [observation_dim + action_dim, *hidden, 1], CRITICS),
    }
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    targets = jax.tree.map(jnp.copy, parameters["critics"])
    state = (parameters, targets, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros(()), keys[2])
    rows = {
        "observation": jax.random.normal(keys[3], (chunk, batch, observation_dim)),
        "action": jax.random.uniform(keys[4], (chunk, batch, action_dim), minval=-1, maxval=1),
        "next_observation": jax.random.normal(keys[5], (chunk, batch, observation_dim)),
        "reward": -(jax.random.uniform(keys[6], (chunk, batch)) > 0.3).astype(jnp.float32),
        "terminated": jnp.zeros((chunk, batch)),
    }
    state = jax.block_until_ready(run(state, rows))
    print("ready", f"jax {jax.__version__} on {jax.devices()[0].platform}", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(updates // chunk):
            state = run(state, rows)
        jax.block_until_ready(state)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    _, _observation, _action, _hidden, _batch, _updates, _chunk, _device = sys.argv
    _sizes = [int(size) for size in _hidden.split(",")]
    serve(int(_observation), int(_action), _sizes, int(_batch), int(_updates), int(_chunk), _device)
