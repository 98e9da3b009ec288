"""Runs that differ in their seed alone, in MLflow: children of one parent run, which has the mean and the spread of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from awac_pl.runs.manifest import REPETITION

if TYPE_CHECKING:  # slow to import
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

GROUP_TAG, PARENT_TAG, NOTE_TAG = "awac.group", "mlflow.parentRunId", "mlflow.note.content"
#: What is averaged over the seeds, and the name that it gets.
MEASURES = {"eval/success_rate": "success_rate", "eval/episode_return": "episode_return"}
#: Parameters in which the runs of a group may differ.
OWN_PARAMETERS = {*REPETITION, "data.seed", "data.workers", "data.progress", "mlflow_uri"}
Curve = dict[int, float]


def find_parent(client: MlflowClient, experiment_id: str, group: str) -> str:
    """Id of the group's parent run, which is made where there is none.

    Runs that start at the same moment may make one each. The oldest counts, each run asks again when it ends, and one
    without children goes.
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


def summarise(client: MlflowClient, parent_id: str) -> None:
    """Make the parent's metrics, description and status those of its children as they are now.

    Each child does so when it starts and when it ends, from what MLflow has of all of them. Two may do so at the same
    moment: points bear the time of the look that they come from, of several points of a step the latest is the valid one,
    and whoever finds its look outdated after writing looks again.

    ``seeds/finished`` is how many have, ``seeds/final_…`` are mean and standard deviation (of a sample) of their last
    evaluations. ``3_seeds/…`` are the curves of the first three to finish, evaluation by evaluation, against the environment
    steps that were due by then (episodes are whole, so seeds differ by some steps). A name for each number, as MLflow keeps
    every point that it was ever sent.
    """
    parent = client.get_run(parent_id)
    seen, children = None, _children(client, parent)
    while seen != (now := {child.info.run_id: child.info.status for child in children}):
        _write_summary(client, parent, children)
        seen, children = now, _children(client, parent)


def _write_summary(client: MlflowClient, parent: Run, children: Sequence[Run]) -> None:
    from mlflow.entities import Metric

    looked_at, parent_id = int(time.time() * 1000), parent.info.run_id
    finished = [child for child in children if child.info.status == "FINISHED"]
    curves = {name: [_curve(client, child, measure) for child in finished] for measure, name in MEASURES.items()}
    points = aggregate(curves) | {("seeds/finished", 0): float(len(finished))}
    there = {name: latest_values(client.get_metric_history(parent_id, name)) for name in {name for name, _ in points}}
    new = [Metric(name, value, looked_at, step) for (name, step), value in points.items() if there[name].get(step) != value]
    for start in range(0, len(new), 1000):  # MLflow takes no more at once
        client.log_batch(parent_id, metrics=new[start : start + 1000])
    client.set_tag(parent_id, NOTE_TAG, _describe(children))
    if any(child.info.status == "RUNNING" for child in children):
        client.update_run(parent_id, "RUNNING")
    elif children:
        client.set_terminated(parent_id, "FINISHED", max(child.info.end_time for child in children))


def aggregate(curves: Mapping[str, Sequence[Curve]]) -> dict[tuple[str, int], float]:
    """Mean and standard deviation over seeds: of the last values, and of the curves where all of them have a value.

    Args:
        curves: of each measure, one curve per seed: environment steps to value. Empty where the measure is not known.

    Returns:
        (metric, step) to value.
    """
    points = {}
    for name, of_seeds in curves.items():
        columns = {(f"seeds/final_{name}", 0): [curve[max(curve)] for curve in of_seeds if curve]}
        if len(of_seeds) > 1:
            for step in set.intersection(*(set(curve) for curve in of_seeds)):
                columns[f"{len(of_seeds)}_seeds/{name}", step] = [curve[step] for curve in of_seeds]
        for (measure, step), values in columns.items():
            if values:
                points[f"{measure}_mean", step] = statistics.fmean(values)
            if len(values) > 1:
                points[f"{measure}_std", step] = statistics.stdev(values)
    return points


def latest_values(history: Iterable[Metric]) -> Curve:
    """Step to value; of a step with several points, that of the latest."""
    return {point.step: point.value for point in sorted(history, key=lambda point: point.timestamp)}


def _children(client: MlflowClient, parent: Run) -> Sequence[Run]:
    condition = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'"
    return client.search_runs([parent.info.experiment_id], condition, order_by=["attributes.start_time ASC"])


def _curve(client: MlflowClient, child: Run, measure: str) -> Curve:
    """The measure where it is known, against the environment steps that were due."""
    parameters, run_id = child.data.params, child.info.run_id
    values = latest_values(client.get_metric_history(run_id, measure)) if measure in child.data.metrics else {}
    epochs = latest_values(client.get_metric_history(run_id, "epoch")) if values else {}
    names = ("data.offline_epochs", "interaction.env_steps_per_epoch")
    offline, block = (float(parameters.get(name, 0)) for name in names)
    due = {step: round((epochs[step] + 1 - offline) * block) if step > 0 and block else step for step in values}
    return {due[step]: value for step, value in values.items() if math.isfinite(value)}


def _describe(children: Sequence[Run]) -> str:
    lines = ["Mean and standard deviation over seeds, of the finished ones; recomputed whenever one ends.", ""]
    lines += ["| run | seed | status | success rate | episode return |", "|---|---|---|---|---|"]
    for child in children:
        scores = [child.data.metrics.get(measure, math.nan) for measure in MEASURES]
        cells = [child.info.run_name, child.data.tags.get("seed", "?"), child.info.status.lower()]
        cells += [f"{score:.4g}" if math.isfinite(score) else "" for score in scores]
        lines.append(f"| {' | '.join(cells)} |")
    names = {name for child in children for name in child.data.params} - OWN_PARAMETERS
    values = {name: {child.data.params.get(name, "") for child in children if child.data.params} for name in names}
    differing = sorted(name for name, there in values.items() if len(there) > 1)
    if differing:
        lines += ["", f"**Not the same in all of them: {', '.join(f'`{name}`' for name in differing)}.**"]
    return "\n".join(lines)
