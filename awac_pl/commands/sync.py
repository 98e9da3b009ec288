"""Make MLflow equal to run folders. Only what MLflow lacks is uploaded. A run that MLflow does not know is
created; a run that was killed is marked KILLED. A run that is still going on is skipped: it uploads everything
itself.

awac sync runs/pen-quick-seed0
awac sync runs/* --mlflow_uri http://tracking.example.org:5000     runs made without a server, to this server
awac sync runs/pen-quick-seed* --group pen-quick                   together below one parent run
"""

from __future__ import annotations

import argparse
from pathlib import Path

from awac_pl.errors import AwacError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac sync``."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    uri_help = "server or database (default: the run's own, then $MLFLOW_TRACKING_URI, then sqlite:///mlflow.db)"
    parser.add_argument("--mlflow_uri", metavar="URI", help=uri_help)
    parser.add_argument("--mlflow_experiment", metavar="NAME", help="for new runs (default: the run's own setting)")
    parser.add_argument("--group", metavar="NAME", help="runs that differ only in their seed: one parent run for them")


def run(options: argparse.Namespace) -> None:
    """Run ``awac sync``."""
    from awac_pl.tracking.mirror import reason

    for folder in options.runs:
        _check(folder)
    failed = []
    for folder in options.runs:
        try:
            result = _sync(folder, options)
        except AwacError as error:
            if len(options.runs) == 1:
                raise
            result = str(error)
            failed.append(folder)
        except Exception as error:  # from any of MLflow's libraries; another run may have another server
            result = f"MLflow does not accept it: {reason(error)}"
            failed.append(folder)
        print(f"{folder}: {result}")
    if failed:
        raise AwacError(f"{len(failed)} of {len(options.runs)} runs not sent: {' '.join(map(str, failed))}")


def _check(folder: Path) -> None:
    from awac_pl.runs.manifest import read_manifest

    if not {"status", "seconds_count_from", "offline_updates"} <= set(read_manifest(folder)):
        raise AwacError(f"{folder / 'manifest.json'} was written by a version of awac_pl that cannot be sent")


def _sync(folder: Path, options: argparse.Namespace) -> str:
    """Upload a run. Returns what was uploaded, as a sentence."""
    from tqdm import tqdm

    from awac_pl.runs.folder import RunFolder
    from awac_pl.tracking.content import parameters_of
    from awac_pl.tracking.destination import find_destination
    from awac_pl.tracking.mirror import Mirror

    lock = RunFolder(folder)
    if lock.busy:
        return "still going on, sends everything itself"
    parameters = parameters_of(folder)  # a run with --mlflow_uri=none has no destination yet
    experiment = options.mlflow_experiment or parameters.get("mlflow_experiment")
    group = options.group or parameters.get("group")
    uri = options.mlflow_uri
    if uri is None and not (folder / "mlflow.json").is_file() and parameters.get("mlflow_uri") != "none":
        uri = parameters.get("mlflow_uri")  # mlflow.json would say
    destination = find_destination(folder, uri, experiment=experiment, group=group)
    lock.take()  # the run cannot be resumed meanwhile
    try:
        mirror = Mirror(folder, destination, live=False)
        mirror.update()
        files = mirror.missing_files()
        size = sum(path.stat().st_size for path in files)
        with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=not files or None) as bar:
            for path in files:
                bar.set_description(path.name)
                mirror.send_file(path)
                bar.update(path.stat().st_size)
    finally:
        lock.release()
    what = f"{mirror.points_sent} points and {len(files)} files sent" if mirror.points_sent or files else "nothing to send"
    return f"{what}, run {mirror.run_id} at {destination.shown_uri}"
