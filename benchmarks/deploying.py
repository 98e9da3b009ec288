"""Microseconds of one action of an exported policy: torch, onnxruntime, numpy, and the runner with its checks around."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import threadpoolctl
import torch

from awac_pl.deploy.contract import Contract
from awac_pl.deploy.runner import PolicyRunner, numpy_policy, onnx_policy
from awac_pl.policies.onnx_graph import policy_graph
from benchmarks.updating import ACTION_DIM, OBSERVATION_DIM, make_module


def latency(hidden: Sequence[int], rounds: int, actions: int = 1000) -> dict[str, dict[str, float]]:
    """Median and 99th percentile over all rounds but the first; one thread, the variants in turn within a round."""
    module = make_module(hidden, torch.device("cpu"))
    policy = module.policy(deterministic=True)
    low, high = -np.ones(ACTION_DIM, np.float32), np.ones(ACTION_DIM, np.float32)
    names = tuple(f"observation_{index}" for index in range(OBSERVATION_DIM))
    contract = Contract("pen", 200, 100.0, names, low, high, {})

    def in_torch(observation: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module.actor(torch.from_numpy(observation)[None])[0].numpy()

    forms = {"onnxruntime": onnx_policy(policy_graph(policy, low, high)), "numpy": numpy_policy(policy, low, high)}
    runners = {f"runner, {name}": PolicyRunner(contract, form, (low, high)).act for name, form in forms.items()}
    variants: dict[str, Callable[[np.ndarray], np.ndarray]] = {"torch": in_torch, **forms, **runners}
    observations = np.random.default_rng(0).standard_normal((actions, OBSERVATION_DIM)).astype(np.float32)
    taken: dict[str, list[int]] = {name: [] for name in variants}
    with threadpoolctl.threadpool_limits(limits=1):
        for number in range(rounds + 1):
            for name, act in variants.items():
                for observation in observations:
                    start = time.perf_counter_ns()
                    act(observation)
                    if number:
                        taken[name].append(time.perf_counter_ns() - start)
    quantiles = {name: np.percentile(values, [50, 99]) / 1000 for name, values in taken.items()}
    return {name: {"p50_us": float(median), "p99_us": float(slow)} for name, (median, slow) in quantiles.items()}
