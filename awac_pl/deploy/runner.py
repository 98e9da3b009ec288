"""Act with an exported policy, without torch, Lightning and MLflow: for a robot's computer.

runner = PolicyRunner.load("exported/pen", action_limits=(-0.5, 0.5))
action = runner.act(observation)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from awac_pl.deploy.contract import ONNX, WEIGHTS, Contract, read_contract
from awac_pl.envs.faults import check_number, own_errors, step_fault
from awac_pl.envs.observations import as_vector, describe_layout, environment_layout
from awac_pl.envs.tasks import SUCCESS_KEYS, scale_action
from awac_pl.errors import AwacError, first_line
from awac_pl.policies.numpy_policy import NumpyPolicy

if TYPE_CHECKING:
    import gymnasium

Backend = Literal["onnxruntime", "numpy"]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """Result of ``PolicyRunner.run``.

    Args:
        env_steps: of all episodes.
        environment_returns: sum of the environment's rewards, one per episode.
        successes: whether any step succeeded, one per episode; None if the environment does not report success.
        rate_hz: actions per second, resets not counted.
        deadlines_missed: steps that ended after the next action was due; 0 without a rate.
        action_us: median and 99th percentile of one ``act``, in microseconds.
    """

    env_steps: int
    environment_returns: tuple[float, ...]
    successes: tuple[bool | None, ...]
    rate_hz: float
    deadlines_missed: int
    action_us: tuple[float, float]


class PolicyRunner:
    """The deterministic policy of an export, within action limits that its user must name.

    Args:
        contract: of the export.
        policy: observation ``[O]`` to action ``[A]``, float32, in the environment's units.
        action_limits: lowest and highest action, in the environment's units, each one number or ``[A]``; inside the
            contract's bounds.

    Raises:
        AwacError: the limits are not two finite bounds in order, or reach outside of the contract's.
    """

    def __init__(
        self,
        contract: Contract,
        policy: Callable[[np.ndarray], np.ndarray],
        action_limits: tuple[ArrayLike, ArrayLike],
    ) -> None:
        self.contract = contract
        self._policy = policy
        self.low, self.high = _check_limits(action_limits, contract)

    @classmethod
    def load(
        cls, folder: str | Path, *, action_limits: tuple[ArrayLike, ArrayLike], backend: Backend = "onnxruntime"
    ) -> PolicyRunner:
        """Read an export.

        Args:
            folder: what ``awac export`` wrote.
            action_limits: see the class.
            backend: ``onnxruntime`` runs ``policy.onnx``, ``numpy`` runs ``policy.safetensors``; on one thread.

        Raises:
            AwacError: the export was changed (see ``read_contract``), or the limits do not fit.
        """
        folder = Path(folder)
        contract = read_contract(folder)
        if backend == "onnxruntime":
            policy = onnx_policy((folder / ONNX).read_bytes())
        elif backend == "numpy":
            policy = numpy_policy(NumpyPolicy.load(folder / WEIGHTS), contract.action_low, contract.action_high)
        else:
            raise AwacError(f"unknown backend '{backend}': onnxruntime or numpy")
        return cls(contract, policy, action_limits)

    def act(self, observation: ArrayLike | Mapping[str, Any] | tuple) -> np.ndarray:
        """Action ``[A]`` float32 within the limits, in the environment's units, for one observation.

        Args:
            observation: ``[O]`` numbers; or the dict or tuple that the training environment returned, by the contract's
                ``observation.layout``.

        Raises:
            AwacError: the observation has a wrong size, is not an array of numbers, or a number in it or in the action is
                not finite.
        """
        return self._act(observation, (len(self.contract.observation_names),))

    def act_batch(self, observations: ArrayLike) -> np.ndarray:
        """Actions ``[N, A]`` for observations ``[N, O]``; the rest is as in ``act``."""
        return self._act(observations, ("N", len(self.contract.observation_names)))

    def _act(self, observation: Any, shape: tuple[str | int, ...]) -> np.ndarray:
        try:
            given = as_vector(observation, self.contract.observation_layout)
        except ValueError as error:
            raise AwacError(f"the observation is no array ({error})") from error
        if given.ndim != len(shape) or given.shape[-1] != shape[-1] or given.dtype.kind not in "fiu":
            wanted = ", ".join(map(str, shape))
            raise AwacError(f"the observation is {given.dtype} {list(given.shape)}, the policy takes numbers [{wanted}]")
        with np.errstate(over="ignore"):  # the value becomes infinite and is refused below
            row = given.astype(np.float32)
        if not np.isfinite(row).all():
            at = tuple(np.argwhere(~np.isfinite(row))[0].tolist())
            which = "the observation" if len(at) == 1 else f"observation {at[0]}"
            name = self.contract.observation_names[at[-1]]
            raise AwacError(f"{which} is not finite: value {at[-1]} ({name}) is {given[at]}")
        action = self._policy(row)
        if not np.isfinite(action).all():
            raise AwacError(f"the action is not finite: value {np.argwhere(~np.isfinite(action))[0, -1]}")
        return np.clip(action, self.low, self.high)

    def run(
        self,
        environment: gymnasium.Env,
        seeds: Iterable[int],
        *,
        rate_hz: float | None = None,
        on_episode: Callable[[], object] = lambda: None,
    ) -> RunReport:
        """Run one episode per seed, until the environment ends it or the contract's horizon is reached.

        Args:
            environment: with the contract's observations, as ``[O]`` or by name, and a Box of ``[A]`` actions.
            seeds: of the resets.
            rate_hz: actions per second; None acts as soon as the environment has answered. A late step counts as a missed
                deadline, and the next one is due one period after it.
            on_episode: called after each episode.

        Raises:
            AwacError: the environment does not fit or fails, or an observation or an action is not finite: the run stops
                there.
        """
        self._check_environment(environment)
        if rate_hz is not None and not 0 < rate_hz < np.inf:
            raise AwacError(f"the rate is {rate_hz} Hz; it must be above 0")
        results = []
        latencies: list[float] = []
        for seed in seeds:
            results.append(self._run_episode(environment, seed, None if rate_hz is None else 1 / rate_hz, latencies))
            on_episode()
        if not results:
            raise AwacError("no seeds to run")
        returns, successes, seconds, missed = zip(*results, strict=True)
        median, slow = (1e6 * np.percentile(latencies, [50, 99])).tolist()
        return RunReport(
            env_steps=len(latencies),
            environment_returns=returns,
            successes=successes,
            rate_hz=len(latencies) / sum(seconds),
            deadlines_missed=sum(missed),
            action_us=(median, slow),
        )

    def _run_episode(
        self, environment: gymnasium.Env, seed: int, period: float | None, latencies: list[float]
    ) -> tuple[float, bool | None, float, int]:
        """One episode with ``period`` seconds between actions; appends the seconds of each ``act`` to ``latencies``.

        Returns:
            Sum of rewards, success, seconds without the reset, deadlines missed.
        """
        observation, _ = _asked(partial(environment.reset, seed=seed), 2, f"seed {seed}: reset")
        total, success, missed = 0.0, None, 0
        named = self.contract.facts.get("success_key")
        keys = SUCCESS_KEYS if named is None else (named,)
        start = due = time.perf_counter()
        for step in range(self.contract.horizon):
            called = time.perf_counter()
            try:
                action = self.act(observation)
            except AwacError as error:
                raise AwacError(f"seed {seed}: step {step}: {error}") from error
            latencies.append(time.perf_counter() - called)
            where = f"seed {seed}: step {step}"
            observation, reward, terminated, truncated, info = _asked(partial(environment.step, action), 5, where)
            total += check_number(reward, f"reward of {where}")
            if not isinstance(info, Mapping):
                raise AwacError(f"{where}: info is a {type(info).__name__}, not a dict")
            if (key := next((key for key in keys if key in info), None)) is not None:
                success = bool(check_number(0 if info[key] is None else info[key], f"success of {where}")) or bool(success)
            if period is not None:
                due += period
                early = due - time.perf_counter()
                if early < 0:
                    missed += 1
                    due -= early
                else:
                    time.sleep(early)
            if terminated or truncated:
                break
        return total, success, time.perf_counter() - start, missed

    def _check_environment(self, environment: gymnasium.Env) -> None:
        from gymnasium.spaces import Box

        observations, actions = environment.observation_space, environment.action_space
        expected, trained = (len(self.contract.observation_names),), self.contract.observation_layout
        layout = environment_layout(environment)
        if not (layout == trained if layout and trained else observations.shape == expected):
            found = describe_layout(layout) if layout else str(observations.shape)
            taken = describe_layout(trained) if trained else str(expected)
            raise AwacError(f"the environment's observations are {found}, the policy takes {taken}")
        if not isinstance(actions, Box) or actions.shape != self.low.shape:
            raise AwacError(f"the environment's action space is {actions}, the policy acts in {self.low.shape}")
        if (self.low < np.float32(actions.low)).any() or (self.high > np.float32(actions.high)).any():
            raise AwacError(f"the action limits reach outside of the environment's action space {actions}; narrow them")


def _asked(call: Callable[[], Any], values: int, where: str) -> tuple[Any, ...]:
    """What ``reset`` or ``step`` returns: two or five values.

    Raises:
        AwacError: it raises, or returns something else.
    """
    with own_errors(lambda error: AwacError(f"{where}: {step_fault(error)}")):
        answer = call()
    if not isinstance(answer, tuple) or len(answer) != values:
        raise AwacError(f"{where}: the environment returned no tuple of {values} values")
    return answer


def onnx_policy(graph: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """A policy graph as a function of ``[O]``, or of ``[N, O]``, run by onnxruntime on one thread.

    Raises:
        AwacError: onnxruntime is not installed, or too old.
    """
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # not installed, older than the graph; its errors have no common type
        reason = first_line(error)
        raise AwacError(f"onnxruntime cannot run the graph ({reason}); update it, or use backend numpy") from error

    def policy(observation: np.ndarray) -> np.ndarray:
        rows = session.run(["action"], {"observation": np.atleast_2d(observation)})[0]
        return rows.reshape(*observation.shape[:-1], rows.shape[-1])

    return policy


def numpy_policy(policy: NumpyPolicy, low: np.ndarray, high: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The mean action of a policy as a function of ``[O]``, or of ``[N, O]``, in the environment's units."""
    mean, unused = replace(policy, deterministic=True), np.random.default_rng(0)
    return lambda observation: np.clip(scale_action(mean.act(observation, unused), low, high), low, high)


def _check_limits(limits: tuple[ArrayLike, ArrayLike], contract: Contract) -> tuple[np.ndarray, np.ndarray]:
    size = contract.action_low.shape
    try:
        low, high = (np.broadcast_to(np.asarray(limit, dtype=np.float32), size) for limit in limits)
    except (TypeError, ValueError):
        raise AwacError(f"action_limits are (low, high), each one number or one for each of the {size[0]} actions") from None
    if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
        raise AwacError(f"action_limits {limits}: must be finite, the lower ones below the higher ones")
    outside = (low < contract.action_low) | (high > contract.action_high)
    if outside.any():
        index = int(np.flatnonzero(outside)[0])
        bounds = f"[{contract.action_low[index]:g}, {contract.action_high[index]:g}]"
        asked = f"[{low[index]:g}, {high[index]:g}]"
        raise AwacError(f"action_limits {asked} of action {index} reach outside of the contract's {bounds}; narrow them")
    return low, high
