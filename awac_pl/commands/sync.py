"""``awac sync``: make MLflow equal to run folders, of runs that it could not be told of at the time."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tqdm import tqdm

from awac_pl.errors import AwacError
from awac_pl.runs.folder import RunFolder
from awac_pl.runs.manifest import read_manifest
from awac_pl.tracking.content import parameters_of
from awac_pl.tracking.destination import find_destination
from awac_pl.tracking.mirror import Mirror, reason

DESCRIPTION = """\
Make MLflow equal to run folders: what it has not got is sent, what it has is not sent again. A run that MLflow does not
know is made there; one that was killed before it could say so is marked KILLED. A run that is still going on is passed
over: it sends everything itself.
"""
EXAMPLES = """\
examples:
  awac sync runs/pen-quick-seed0
  awac sync runs/* --mlflow_uri http://tracking.example.org:5000     what ran without a server, to that server
  awac sync runs/pen-quick-seed* --group pen-quick                   together below one parent run
"""


def run(arguments: list[str]) -> None:
    """Run ``awac sync …``.

    Raises:
        AwacError: what is named is no run folder, or MLflow does not take it.
    """
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("awac sync", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=plain)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument(
        "--mlflow_uri", metavar="URI", help="server or database (default: the run's own, then $MLFLOW_TRACKING_URI, then "
        "sqlite:///mlflow.db)",
    )  # fmt: skip
    parser.add_argument("--mlflow_experiment", metavar="NAME", help="for new runs (default: what fit was told)")
    parser.add_argument("--group", metavar="NAME", help="runs that differ in their seed alone: one parent run for them")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for folder in options.runs:
        _check(folder)
    failed = []
    for folder in options.runs:
        try:
            print(f"{folder}: {_sync(folder, options)}")
        except AwacError:
            raise
        except Exception as error:  # of MLflow, in any of its libraries; another run may be another server's
            print(f"{folder}: MLflow does not take it: {reason(error)}")
            failed.append(folder)
    if failed:
        raise AwacError(f"{len(failed)} of {len(options.runs)} runs not sent: {' '.join(map(str, failed))}")


def _check(folder: Path) -> None:
    if not {"status", "seconds_count_from", "offline_updates"} <= set(read_manifest(folder)):
        raise AwacError(f"{folder / 'manifest.json'} was written by a version of awac_pl that cannot be sent")


def _sync(folder: Path, options: argparse.Namespace) -> str:
    """Send a run; what was done."""
    if RunFolder(folder).busy:
        return "still going on, sends everything itself"
    told = parameters_of(folder)  # a run with --mlflow_uri=none has no destination yet
    experiment, group = options.mlflow_experiment or told.get("mlflow_experiment"), options.group or told.get("group")
    destination = find_destination(folder, options.mlflow_uri, experiment=experiment, group=group)
    lock = RunFolder(folder)
    lock.take()  # nobody goes on with the run meanwhile
    try:
        mirror = Mirror(folder, destination, live=False)
        mirror.update()
        files = mirror.missing_files()
        size = sum(path.stat().st_size for path in files)
        with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=not files) as bar:
            for path in files:
                bar.set_description(path.name)
                mirror.send_file(path)
                bar.update(path.stat().st_size)
    finally:
        lock.release()
    what = f"{mirror.points_sent} points and {len(files)} files sent" if mirror.points_sent or files else "nothing to send"
    return f"{what}, run {mirror.run_id} at {destination.shown_uri}"
