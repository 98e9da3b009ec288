"""Run `awac fit` with several seeds or settings, on this machine or on a Ray cluster. Other arguments are those of awac fit.

awac sweep --task relocate --preset quick --seeds 0,1,2
awac sweep --task pen --preset quick --seeds 0-4 --grid model.temperature=1,3,10 data.n_step=5,10
awac sweep --task pen --preset quick --search model.temperature=loguniform:0.3:10 --trials 30
awac sweep … --address auto --cpus_per_run 2     on the cluster that this machine belongs to
awac sweep … --dry_run                           list the runs and their commands
awac sweep --resume sweeps/relocate-quick
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from awac_pl.commands.arguments import number
from awac_pl.errors import AwacError, without_credentials
from awac_pl.settings import Count, NotNegative, Positive
from awac_pl.sweeps.plan import METRICS

if TYPE_CHECKING:
    from awac_pl.sweeps.plan import Plan

#: ``main`` leaves what is unknown here to ``run``, as ``options.others``.
PASSES_ON = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac sweep``."""
    parser.allow_abbrev = False  # --seed would be --seeds, and everything else is awac fit's
    parser.add_argument("--seeds", default=None, metavar="0,1,2", help="of each setting; also 0-9 (default: 0)")
    grid_help = "settings, each with all its values: every combination is run with every seed"
    parser.add_argument("--grid", nargs="+", action="extend", default=[], metavar="KEY=A,B", help=grid_help)
    search_help = "settings to search: KIND is uniform, loguniform, int (each LOW:HIGH) or choice (A:B:C)"
    parser.add_argument("--search", nargs="+", action="extend", default=[], metavar="KEY=KIND:…", help=search_help)
    parser.add_argument("--trials", type=number(Count), metavar="N", help="of --search")
    metric_help = f"what --search makes large, and what ranks settings (default: {METRICS[0]})"
    parser.add_argument("--metric", choices=METRICS, help=metric_help)
    parser.add_argument("--cpus_per_run", type=number(Positive), default=None, metavar="N", help="(default: 1)")
    parser.add_argument("--gpus_per_run", type=number(NotNegative), default=None, metavar="N", help="(default: 0)")
    address_help = "a Ray cluster: auto, or HOST:PORT (default: Ray is started on this machine, for this command)"
    parser.add_argument("--address", metavar="ADDRESS", help=address_help)
    storage_help = (
        "where the sweep's folder lies: a folder, best one that all machines see, or a URI such as s3://bucket/sweeps"
    )
    parser.add_argument("--storage", metavar="PLACE", default=None, help=f"{storage_help} (default: sweeps)")
    parser.add_argument("--resume", type=Path, metavar="SWEEP", help="folder of a sweep to go on with")
    parser.add_argument("--dry_run", action="store_true", help="list the runs and their commands, and stop")


def run(options: argparse.Namespace) -> None:
    """Run ``awac sweep``."""
    from awac_pl.parallel import cluster, interruption

    if any(argument.partition("=")[0] == "--overrides" for argument in options.others):
        from awac_pl.commands.main import own_parser
        from awac_pl.commands.presets import with_overrides

        _, options.others = own_parser("sweep").parse_known_args(with_overrides(options.others), options)
    if not options.dry_run:
        cluster.import_ray("awac sweep")
    plan, text, config = (_resumed if options.resume else _planned)(options)
    if options.dry_run:
        from awac_pl.runs.manifest import shown_command

        runs = plan.grid_runs() if not plan.search else [plan.trial(1, {key: ":".join(v) for key, v in plan.search.items()})]
        print("\n".join(shown_command(plan.command(one.settings, one.seed)) for one in runs))
        print(f"{plan.count} runs in {plan.folder}", file=sys.stderr)
        return
    with cluster.connected(plan.place["address"], "awac sweep") as ray:
        cluster.check_resources(ray, plan.cpus, plan.gpus)
        if not options.resume:
            _make_folder(plan)
        _prepare(plan, text, config)
        _train(ray, plan, text)
    if plan.storage is not None:
        _fetch(plan)
    from awac_pl.sweeps.results import finish

    finish(plan)
    if interruption.received():
        print(f"awac: go on with: awac sweep --resume {plan.folder}", file=sys.stderr)
        interruption.check()
    failed = {name: entry["error"] for name, entry in sorted(plan.runs.items()) if entry["outcome"] == "failed"}
    if failed:
        first = next(iter(failed))
        raise AwacError(f"{len(failed)} of {plan.count} runs failed, the others went on; {first}: {failed[first]} "
                        f"(awac sweep --resume {plan.folder} tries again)")  # fmt: skip


def _planned(options: argparse.Namespace) -> tuple[Plan, str, dict[str, Any]]:
    """A new sweep, with every value checked as ``awac fit`` would."""
    from awac_pl.commands.presets import run_name
    from awac_pl.sweeps.plan import OWN_ARGUMENTS, Plan, parse_grid, parse_search, parse_seeds

    for argument in options.others:
        if (flag := argument.partition("=")[0]) in OWN_ARGUMENTS:
            raise AwacError(f"{flag} is the sweep's to give; use {OWN_ARGUMENTS[flag]}")
    if options.grid and options.search:
        raise AwacError("--grid and --search exclude each other; --search data.n_step=choice:5:10 searches given values")
    if bool(options.search) != bool(options.trials):
        raise AwacError("--search and --trials N belong together")
    _check_address(options, options.address)
    seeds, grid, search = parse_seeds(options.seeds or "0"), parse_grid(options.grid), parse_search(options.search)
    if options.search and len(seeds) > 1:
        raise AwacError("--search takes one seed; its last line is the command that trains the best setting with more")
    from awac_pl.callbacks.stopping import chunks_per_epoch, whole_epochs  # slow to import
    from awac_pl.commands.resolving import resolve

    config, text = resolve(options.others)
    plan = Plan(
        name=run_name(config), folder="", arguments=list(map(without_credentials, options.others)), seeds=seeds, grid=grid,
        search=search, trials=options.trials or 0, metric=options.metric or METRICS[0],
        cpus=options.cpus_per_run or 1, gpus=options.gpus_per_run or 0, key=uuid.uuid4().hex,
        storage=f"{options.storage.rstrip('/')}/" if options.storage and "://" in options.storage else None,
    )  # fmt: skip
    for key, value in plan.candidates():
        resolve([*options.others, f"--{key}={value}"])
    trainer, data = (argparse.Namespace(**config[section]) for section in ("trainer", "data"))
    epochs, updates = whole_epochs(trainer, data), chunks_per_epoch(trainer, data) * data.chunk_size
    if epochs in (None, -1):
        raise AwacError("trainer.max_epochs is without an end; a sweep needs one")
    plan.totals = {
        "updates": epochs * updates, "offline_updates": data.offline_epochs * updates,
        "env_steps": max(0, epochs - data.offline_epochs) * config["interaction"]["env_steps_per_epoch"],
    }  # fmt: skip
    _put(plan, Path("sweeps" if plan.storage else options.storage or "sweeps").absolute())
    plan.place = _place(config) | {"address": options.address}
    return plan, without_credentials(text), config


def _resumed(options: argparse.Namespace) -> tuple[Plan, str, dict[str, Any]]:
    """The sweep of a folder. Where and how fast it runs may change; what it runs may not."""
    from awac_pl.commands.resolving import resolve
    from awac_pl.sweeps.plan import read_plan

    given = [f"--{name}" for name in ("seeds", "grid", "search", "trials", "storage") if getattr(options, name)]
    if given or options.others:
        raise AwacError(f"--resume takes the sweep as it is; leave out {(given + options.others)[0]}")
    plan = read_plan(options.resume)
    plan.cpus = options.cpus_per_run or plan.cpus
    plan.gpus = plan.gpus if options.gpus_per_run is None else options.gpus_per_run
    plan.metric = options.metric or plan.metric
    path, address = Path(plan.folder) / "config.yaml", options.address or plan.place.get("address")
    _check_address(options, address)
    config, text = resolve([f"--config={path}"])
    plan.place = _place(config) | {"address": address}
    return plan, text, config


def _check_address(options: argparse.Namespace, address: str | None) -> None:
    """Ask for the cluster before the configuration is resolved, which takes seconds."""
    from awac_pl.parallel.cluster import check_address

    if address not in (None, "auto") and not options.dry_run:
        check_address(address)


def _place(config: dict[str, Any]) -> dict[str, Any]:
    """The working folder and the environment that runs on this machine would have."""
    from awac_pl.sweeps.storage import store_places
    from awac_pl.tracking.destination import with_credentials

    return {
        "cwd": os.getcwd(), "environment": store_places(os.environ),
        "paths": [path for path in sys.path if Path(path).is_dir()],
        "mlflow_uri": with_credentials(config["mlflow_uri"] or os.environ.get("MLFLOW_TRACKING_URI") or ""), "threads": "",
    }  # fmt: skip


def _put(plan: Plan, parent: Path) -> None:
    """Choose the sweep's folder: the first of NAME, NAME-2, NAME-3, … that does not exist. Its store has the same name."""
    candidates = [parent / plan.name, *(parent / f"{plan.name}-{number}" for number in range(2, 10_000))]
    folder = next(path for path in candidates if not path.exists())
    plan.folder = str(folder)
    if plan.storage is not None:
        plan.storage = f"{plan.storage.rpartition('/')[0]}/{folder.name}"


def _make_folder(plan: Plan) -> None:
    """Make the folder of a new sweep. If a sweep that began meanwhile has taken its name, the next free one."""
    while True:
        try:
            Path(plan.folder).mkdir(parents=True)
            return
        except FileExistsError:
            _put(plan, Path(plan.folder).parent)


def _prepare(plan: Plan, text: str, config: dict[str, Any]) -> None:
    """Fill the sweep's folder, and make the datasets that its runs would otherwise all make for themselves."""
    from awac_pl.files import write_text
    from awac_pl.replay.data_module import ReplayDataModule
    from awac_pl.settings import settings_of
    from awac_pl.sweeps.storage import UriStore

    if plan.storage is not None:
        UriStore(plan.storage)  # refuses one that cannot be written to
    plan.place["threads"] = str(max(1, int(plan.cpus)))
    plan.save()
    write_text(Path(plan.folder) / "config.yaml", text)
    known = settings_of(ReplayDataModule)
    ReplayDataModule(**{name: value for name, value in config["data"].items() if name in known}).prepare_data()


def _train(ray: Any, plan: Plan, text: str) -> None:
    from awac_pl.sweeps.table import ProgressTable
    from awac_pl.sweeps.tuning import tune_runs

    table = ProgressTable(plan)
    print(f"{plan.count} runs in {plan.folder}", file=sys.stderr, flush=True)
    try:
        tune_runs(ray, plan, text, table.show, table.draw)
    finally:
        table.clear()
        print(table.summary(), file=sys.stderr, flush=True)


def _fetch(plan: Plan) -> None:
    """Copy the runs of an object store back."""
    from awac_pl.sweeps.storage import UriStore, pull

    for name in plan.runs:
        pull(UriStore(str(plan.storage)), name, Path(plan.folder) / name)
