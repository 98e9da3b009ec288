"""Runs that differ only in their seed: in MLflow they are children of a parent run with their mean and deviation."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from awac_pl.runs.manifest import REPETITION, WORKING

if TYPE_CHECKING:  # slow to import
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

GROUP_TAG, PARENT_TAG, NOTE_TAG = "awac.group", "mlflow.parentRunId", "mlflow.note.content"
#: Metrics to average over the seeds, and the names of the averages.
MEASURES = {"eval/success_rate": "success_rate", "eval/episode_return": "episode_return"}
#: Beginnings of the parameters in which the runs of a group may differ.
OWN_PARAMETERS = (*REPETITION, *WORKING, "data.chunk_size", "data.seed", "mlflow_uri")
Curve = dict[int, float]


def find_parent(client: MlflowClient, experiment_id: str, group: str) -> str:
    """Id of the group's parent run; creates it if there is none.

    Runs that start at the same moment may create one each. Every run asks again when it ends: the oldest parent remains,
    others are deleted once they have no children.
    """
    condition, oldest_first = f"tags.`{GROUP_TAG}` = '{group}'", ["attributes.start_time ASC", "attributes.run_id ASC"]
    parents = client.search_runs([experiment_id], condition, order_by=oldest_first)
    if not parents:
        tags = {GROUP_TAG: group, "mlflow.source.name": "awac fit --group", "mlflow.source.type": "LOCAL"}
        client.create_run(experiment_id, tags=tags, run_name=group)
        parents = client.search_runs([experiment_id], condition, order_by=oldest_first)
    for run in parents[1:]:
        if not _children(client, run):
            client.delete_run(run.info.run_id)
    return parents[0].info.run_id


def leave_parent(client: MlflowClient, experiment_id: str, parent_id: str) -> None:
    """Remove the parent that a run has left for another group; the runs that stay get a new one.

    MLflow keeps every point, so the old parent would show means with that run for ever. Parents that are not ours stay.
    """
    found = client.search_runs([experiment_id], f"attributes.run_id = '{parent_id}'")  # empty if it is gone
    group = found[0].data.tags.get(GROUP_TAG) if found else None
    if group is None:
        return
    client.delete_run(parent_id)
    if remaining := _children(client, found[0]):
        successor = find_parent(client, experiment_id, group)
        for child in remaining:
            client.set_tag(child.info.run_id, PARENT_TAG, successor)
        summarise(client, successor)


def summarise(client: MlflowClient, parent_id: str) -> None:
    """Set the parent's metrics, description and status to those of its children.

    Each child calls this when it starts and when it ends, with what MLflow has of all children. Two may do so at the same
    moment. So points have the time at which their children were read, the latest point of a step is valid, and whoever
    finds changed children after writing starts again.

    ``seeds/finished`` counts the finished children; ``seeds/final_…`` are mean and sample standard deviation of their last
    evaluations. ``3_seeds/…`` are the curves of the first three to finish, over the environment steps that were due at each
    evaluation (episodes are whole, so the actual steps differ between seeds). The number is part of the name because MLflow
    keeps every point that it receives. Children with different settings have no means.
    """
    parent = client.get_run(parent_id)
    summarised, children = None, _children(client, parent)
    while summarised != (statuses := {child.info.run_id: child.info.status for child in children}):
        _write_summary(client, parent_id, children)
        summarised, children = statuses, _children(client, parent)


def _write_summary(client: MlflowClient, parent_id: str, children: Sequence[Run]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    finished = [child for child in children if child.info.status == "FINISHED"]
    alike = [] if _differing(children) else finished  # a mean over settings says nothing
    curves = {name: [_curve(client, child, measure) for child in alike] for measure, name in MEASURES.items()}
    points = aggregate(curves) | {("seeds/finished", 0): float(len(finished))}
    known = {name: latest_values(client.get_metric_history(parent_id, name)) for name in {name for name, _ in points}}
    new = [Metric(name, value, now, step) for (name, step), value in points.items() if known[name].get(step) != value]
    client.log_batch(parent_id, metrics=new)
    client.set_tag(parent_id, NOTE_TAG, _describe(children))
    if any(child.info.status == "RUNNING" for child in children):
        client.update_run(parent_id, "RUNNING")
    elif children:
        client.set_terminated(parent_id, "FINISHED", max(child.info.end_time for child in children))


def aggregate(curves: Mapping[str, Sequence[Curve]]) -> dict[tuple[str, int], float]:
    """Mean and standard deviation over seeds: of the last values, and of the curves at steps that all of them have.

    Args:
        curves: of each measure one curve per seed, environment steps to value; empty if the measure is unknown.

    Returns:
        (metric, step) to value.
    """
    points = {}
    for name, of_seeds in curves.items():
        samples = {(f"seeds/final_{name}", 0): [curve[max(curve)] for curve in of_seeds if curve]}
        if len(of_seeds) > 1:
            for step in set.intersection(*(set(curve) for curve in of_seeds)):
                samples[f"{len(of_seeds)}_seeds/{name}", step] = [curve[step] for curve in of_seeds]
        for (measure, step), values in samples.items():
            if values:
                points[f"{measure}_mean", step] = statistics.fmean(values)
            if len(values) > 1:
                points[f"{measure}_std", step] = statistics.stdev(values)
    return points


def latest_values(history: Iterable[Metric]) -> Curve:
    """Step to value; the latest one if a step has several points."""
    return {point.step: point.value for point in sorted(history, key=lambda point: point.timestamp)}


def _children(client: MlflowClient, parent: Run) -> Sequence[Run]:
    condition = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'"
    return client.search_runs([parent.info.experiment_id], condition, order_by=["attributes.start_time ASC"])


def _curve(client: MlflowClient, child: Run, measure: str) -> Curve:
    """The finite values of a measure, over the environment steps that were due."""
    if measure not in child.data.metrics:
        return {}
    values, epochs = (latest_values(client.get_metric_history(child.info.run_id, name)) for name in (measure, "epoch"))
    names = ("data.offline_epochs", "interaction.env_steps_per_epoch")
    offline_epochs, per_epoch = (float(child.data.params.get(name, 0)) for name in names)
    due = {
        step: round((epochs[step] + 1 - offline_epochs) * per_epoch) if step > 0 and per_epoch else step for step in values
    }
    return {due[step]: value for step, value in values.items() if math.isfinite(value)}


def _describe(children: Sequence[Run]) -> str:
    lines = ["Mean and standard deviation over seeds, of the finished ones; recomputed whenever one ends.", ""]
    lines += ["| run | seed | status | success rate | episode return |", "|---|---|---|---|---|"]
    for child in children:
        scores = [child.data.metrics.get(measure, math.nan) for measure in MEASURES]
        cells = [child.info.run_name, child.data.tags.get("seed", "?"), child.info.status.lower()]
        cells += [f"{score:.4g}" if math.isfinite(score) else "" for score in scores]
        lines.append(f"| {' | '.join(cells)} |")
    if differing := _differing(children):
        lines[0] = "Runs with different settings, therefore without means."
        lines += ["", f"**Not the same in all of them: {', '.join(f'`{name}`' for name in differing)}.**"]
    return "\n".join(lines)


def _differing(children: Sequence[Run]) -> list[str]:
    """Parameters, apart from their own, in which runs differ."""
    parameters = [child.data.params for child in children if child.data.params]
    names = {name for run in parameters for name in run if not name.startswith(OWN_PARAMETERS)}
    return sorted(name for name in names if len({run.get(name, "") for run in parameters}) > 1)
