"""Ray Tune runs the trials: it gives them places, starts them again when a node dies, and stops bad ones early."""

from __future__ import annotations

import itertools
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

from awac_pl.errors import AwacError
from awac_pl.parallel import interruption
from awac_pl.sweeps.plan import Plan
from awac_pl.sweeps.storage import FolderKeeper, KeptStore, Store, UriStore

#: How often a run is started again after its node, or its trial's process, has died.
RESTARTS = 5
#: Where a trial is first compared with others, as a part of its environment steps; one trial in how many goes on.
FIRST_RUNG, KEPT = 1 / 9, 3


def tune_runs(
    ray: Any, plan: Plan, text: str, show: Callable[[str, Mapping[str, Any]], None], wait: Callable[[], None]
) -> None:
    """Run all runs of a plan to their ends, or until a signal; their outcomes go into ``plan.runs``.

    Args:
        ray: connected.
        plan: of the sweep; saved whenever a run begins or ends.
        text: the sweep's configuration.
        show: called with a run's name and its last result.
        wait: called several times a second, in this thread.

    Raises:
        AwacError: the search cannot go on.
    """
    from ray import tune

    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="awac-tune-") as scratch, _Stop() as stop:
        tuner = tune.Tuner(
            _trainable(ray, plan, text),
            param_space=_space(plan),
            tune_config=_tune_config(plan),
            run_config=tune.RunConfig(
                storage_path=scratch, verbose=0, callbacks=[_observer(plan, show)], stop=stop.stopper(),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
            ),
        )  # fmt: skip
        failed: list[BaseException] = []

        def fit() -> None:
            try:
                tuner.fit()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=fit, name="awac-sweep")  # Tune takes over no signals outside the main thread
        thread.start()
        with interruption.deferred():
            while thread.is_alive():
                thread.join(0.2)
                wait()
                if interruption.received():
                    stop.asked = True
        if failed:
            raise AwacError(f"Ray Tune: {' '.join(str(failed[0]).split())[-300:]}") from failed[0]


def store_of(ray: Any, plan: Plan) -> Store | None:
    """Where run folders go from machines that do not see the sweep's; None without a cluster, which may grow."""
    if plan.storage is not None:
        return UriStore(plan.storage)
    if plan.place.get("address") is None and sum(node["Alive"] for node in ray.nodes()) < 2:
        return None
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return KeptStore(ray.remote(FolderKeeper).options(num_cpus=0, scheduling_strategy=here).remote(plan.folder))


def _trainable(ray: Any, plan: Plan, text: str) -> Any:
    from ray import tune

    from awac_pl.sweeps.trial import RunTrial

    heartbeat = max(2.0, plan.count / 50)  # seconds: some 50 results a second in all
    trial = tune.with_parameters(RunTrial, plan=plan, text=text, store=store_of(ray, plan), heartbeat=heartbeat)
    return tune.with_resources(trial, {"cpu": plan.cpus, "gpu": plan.gpus})


def _space(plan: Plan) -> dict[str, Any]:
    from ray import tune

    if not plan.search:
        return {"run": tune.grid_search(list(range(plan.count)))}
    kinds: dict[str, Callable[..., Any]] = {
        "uniform": lambda low, high: tune.uniform(float(low), float(high)),
        "loguniform": lambda low, high: tune.loguniform(float(low), float(high)),
        "int": lambda low, high: tune.randint(int(low), int(high) + 1),
        "choice": lambda *values: tune.choice(list(values)),
    }
    return {key: kinds[kind](*values) for key, (kind, *values) in plan.search.items()}


def _tune_config(plan: Plan) -> Any:
    from ray import tune

    names = {"trial_name_creator": _names(plan), "trial_dirname_creator": lambda trial: trial.trial_id}
    if not plan.search:
        return tune.TuneConfig(metric=plan.metric, mode="max", **names)
    import optuna
    from ray.tune.schedulers import AsyncHyperBandScheduler
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = [
        run["values"] for _, run in sorted(plan.runs.items(), key=lambda item: (len(item[0]), item[0]))
    ]  # in the order in which they began
    seed = plan.seeds[0] + 1000 * len(known)  # with the same seed it would draw the known values again
    search = OptunaSearch(metric=plan.metric, mode="max", seed=seed, points_to_evaluate=known or None)
    steps = max(1.0, plan.totals["env_steps"])
    halving = AsyncHyperBandScheduler(
        time_attr="env_steps", metric=plan.metric, mode="max", max_t=steps * 10,  # the run ends itself
        grace_period=max(1.0, steps * FIRST_RUNG), reduction_factor=KEPT,
    )  # fmt: skip
    return tune.TuneConfig(num_samples=plan.trials, search_alg=search, scheduler=halving, **names)


def _names(plan: Plan) -> Callable[[Any], str]:
    """Names trials as runs: Tune's name is the run's, by which a resumed sweep finds its folder.

    A function, because Tune copies objects for each trial, and with them their counts.
    """
    from awac_pl.sweeps.trial import run_of

    numbers = itertools.count(1)
    return lambda trial: run_of(plan, trial.config, f"trial{next(numbers)}").name


class _Stop:
    """Ends all trials after a signal, each with a checkpoint."""

    asked = False

    def __enter__(self) -> _Stop:
        return self

    def __exit__(self, *error: object) -> None:
        self.asked = True

    def stopper(self) -> Any:
        """As Tune takes it."""
        from ray import tune

        class Stopper(tune.Stopper):
            def __call__(stopper, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: N805
                return False

            def stop_all(stopper) -> bool:  # noqa: N805
                return self.asked

        return Stopper()


def _observer(plan: Plan, show: Callable[[str, Mapping[str, Any]], None]) -> Any:
    """Writes down what becomes of each trial, as it does."""
    from ray import tune

    from awac_pl.sweeps.trial import reason, run_of

    class Observer(tune.Callback):
        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            values = {key: value for key, value in trial.config.items() if key != "run"}
            run = run_of(plan, trial.config, str(trial))
            known = plan.runs.get(run.name, {})
            plan.runs[run.name] = {"seed": run.seed, "settings": run.settings, "values": values, "outcome": ""} | known
            plan.runs[run.name]["outcome"] = "" if known.get("outcome") == "failed" else known.get("outcome", "")
            plan.save()
            show(run.name, {"outcome": "starting"})

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            nodes = plan.runs[str(trial)].setdefault("nodes", [])
            if result["node"] not in nodes:
                nodes.append(result["node"])
            show(str(trial), result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            result = trial.last_result or {}
            self._ended(str(trial), {"outcome": result.get("outcome") or "stopped early", "error": result.get("error", "")})

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            error = trial.get_pickled_error() or trial.get_error() or ""
            self._ended(str(trial), {"outcome": "failed", "error": reason(RuntimeError(str(error)))})

        def _ended(self, name: str, outcome: dict[str, str]) -> None:
            if outcome["outcome"] == "stopped early" and interruption.received():
                outcome["outcome"] = ""  # by the user, not by the search
            plan.runs[name] |= outcome
            plan.save()
            show(name, plan.runs[name])

    return Observer()
