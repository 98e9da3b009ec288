"""Measure speed and memory, and print ratios of things that ran in turn.

    python -m benchmarks                        everything, on one thread; about 10 minutes on 2 cores
    python -m benchmarks update --threads 2     one part of it
    python -m benchmarks update --compile default --d3rlpy ../d3rlpy-env/bin/python --jax ../jax-env/bin/python
    python -m benchmarks --device cuda          the update with every compile mode, too

Peers go into environments of their own: python -m venv ENV && ENV/bin/pip install torch==2.13.0 d3rlpy (or: jax)
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch

from awac_pl.policies.products import choose_engine, processor
from awac_pl.runs.manifest import git_commit
from benchmarks import acting, deploying, process, profiling, reading, updating
from benchmarks.measure import show

PARTS = ("update", "trainer", "profile", "sampling", "steps", "overlap", "reading", "start", "memory", "latency")


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars of updates per second, one panel per size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {name: table for name, table in results.items() if name.startswith("update")}
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 3.6), layout="constrained", squeeze=False)
    for axis, (name, table) in zip(axes[0], panels.items(), strict=True):
        names = list(table)
        speeds = [table[key]["per_second"] for key in names]
        colours = ["tab:gray" if key.startswith("matrix products") else "tab:blue" if "awac_pl" in key else "tab:orange"
                   for key in names]  # fmt: skip
        bars = axis.barh(names, speeds, color=colours)
        axis.bar_label(bars, [f"{speed:.3g}" for speed in speeds], padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set(xlabel="updates per second", title=name.removeprefix("update, "))
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def save(results: dict[str, Any], to: Path | None) -> None:
    """What there is so far, so that a part that fails takes nothing with it."""
    if to is None:
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    to.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    if any(name.startswith("update") for name in results):
        draw(results, to.with_suffix(".png"))


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="part", help=f"of {', '.join(PARTS)}; all of them")
    parser.add_argument("--rounds", type=int, default=7, help="of every comparison")
    parser.add_argument("--threads", type=int, default=1, help="of torch in this process")
    parser.add_argument("--device", default="cpu", help="of the update: cpu or cuda")
    parser.add_argument("--compile", nargs="*", default=None, help="modes of model.compile to measure; on cuda all of them")
    parser.add_argument("--d3rlpy", type=Path, help="Python of an environment with d3rlpy, to measure its AWAC, too")
    parser.add_argument("--jax", type=Path, help="Python of an environment with jax, to measure AWAC in JAX, too")
    parser.add_argument("--to", type=Path, help="write FILE.json, and FILE.png where the update was measured")
    options = parser.parse_args()
    parts = options.parts or PARTS
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    modes = options.compile
    if modes is None:
        modes = ["default", "graph"] if device.type == "cuda" else []
    results: dict[str, Any] = {
        "machine": {
            "commit": git_commit(), "torch": torch.__version__, "processor": processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(), "matmul_engine": choose_engine(),
            "cores": os.cpu_count(), "threads": options.threads, "device": str(device),
            "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None, "rounds": options.rounds,
        }
    }  # fmt: skip
    print(json.dumps(results["machine"]))
    jax = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # else it takes three quarters of a GPU's memory
    found: dict[str, tuple[Path | None, str, dict[str, str]]] = {
        "d3rlpy": (options.d3rlpy, "peers.py", {}),
        "AWAC in JAX, jitted": (options.jax, "jax_awac.py", jax | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),  # as ours
    }
    if device.type == "cuda":  # JAX's own default there is TF32
        found["AWAC in JAX, jitted, TF32"] = (
            options.jax,
            "jax_awac.py",
            jax | {"JAX_DEFAULT_MATMUL_PRECISION": "default"},
        )
    peers = {name: (python, script, given) for name, (python, script, given) in found.items() if python is not None}
    numbers = (200, 100) if device.type == "cuda" else (40, 5)  # on a GPU in whole chunks of 50
    if "update" in parts:
        for (batch, layers), number in zip(((256, 2), (1024, 4)), numbers, strict=True):
            name = f"update, batch {batch:,}, hidden {layers} x 256"
            results[name] = updating.updates(batch, [256] * layers, device, number, options.rounds, modes, peers)
            show(name, results[name], "updates/s", "plain AWAC")
            ours, table = results[name]["awac_pl"]["per_second"], results[name]
            top = max(row["per_second"] for key, row in table.items() if key.startswith("matrix products"))
            results[f"floor of {name}"] = least = updating.floor_of(batch, [256] * layers, device)
            rates = ", ".join(f"{engine} {rate:.3g}" for engine, rate in least["gflops_of"].items())
            print(
                f"  share of the fastest products' speed: {ours / top:.2f}\n  floor: {least['gflop']:.3g} GFLOP at "
                f"{least['gflops']:.3g} GFLOP/s ({rates}), {least['megabytes']:.3g} MB at "
                f"{least['gigabytes_per_s']:.3g} GB/s: "
                f"{least['updates_per_s']:.4g} updates/s, share of it: {ours / least['updates_per_s']:.2f}",
                flush=True,
            )
            save(results, options.to)
    if "trainer" in parts:
        results["trainer"] = updating.in_the_trainer(256, 100, options.rounds)
        show("the Trainer, batch 256", results["trainer"], "updates/s", "bare update")
        save(results, options.to)
    if "profile" in parts:
        results["profile"] = profiling.online_epoch()
        print("\none online epoch, batch 256: shares of the trainer's time")
        for name, share in sorted(results["profile"].items(), key=lambda item: -item[1]):
            print(f"  {name:<40} {100 * share:5.1f} %", flush=True)
        save(results, options.to)
    if "sampling" in parts:
        results["sampling"] = updating.sampling(256, options.rounds)
        show("sampling, batch 256, 100,000 transitions", results["sampling"], "batches/s", "packed rows")
        save(results, options.to)
    if "steps" in parts:
        results["steps"] = acting.environment_steps((1, 2, 4), min(options.rounds, 5))
        show("environment steps, pen", results["steps"], "steps/s", "this process")
        for name, row in results["steps"].items():
            if "ratio_to_unconnected" in row:
                low, high = row["ratio_to_unconnected_range"]
                print(f"  {name}: {row['ratio_to_unconnected']:.2f} ({low:.2f} to {high:.2f}) of as many processes that "
                      "nobody talks to", flush=True)  # fmt: skip
        save(results, options.to)
    if "overlap" in parts:
        results["overlap"] = []
        print("\nan online epoch of 400 updates (batch 256) and 800 environment steps")
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            for workers in (1, 2):
                row = acting.overlap(workers, 256, 400, 800, min(options.rounds, 5))
                results["overlap"].append(row)
                low, high = row["epoch_over_the_larger_range"]
                print(
                    f"  {threads} thread(s), {workers} worker(s): updates alone {row['updates_s']:.1f} s, steps alone "
                    f"{row['steps_s']:.1f} s, overlapped {row['epoch_s']:.1f} s = {row['epoch_over_the_larger']:.2f} "
                    f"({low:.2f} to {high:.2f}) x the larger, {row['epoch_over_the_sum']:.2f} x the sum",
                    flush=True,
                )
        torch.set_num_threads(options.threads)
        save(results, options.to)
    if "reading" in parts:
        results["reading"] = reading.against_minari(min(options.rounds, 3))
        show("100,000 transitions of a dataset with infos", results["reading"], "transitions/s", "Minari's own way")
        results["reading_memory"] = memory = reading.reading_memory()
        print(f"  a dataset of {memory['dataset_mib']:.0f} MiB into a memory-mapped buffer, {memory['allowed_mib']:.0f} MiB "
              f"allowed: {memory['peak_mib']:.0f} MiB more at the peak", flush=True)  # fmt: skip
        save(results, options.to)
    if "start" in parts:
        seconds = [process.start_up() for _ in range(3)]
        results["start"] = {"seconds": seconds, "median": statistics.median(seconds)}
        print(f"\nfrom the command to the first update: {statistics.median(seconds):.1f} s "
              f"({min(seconds):.1f} to {max(seconds):.1f})", flush=True)  # fmt: skip
        save(results, options.to)
    if "memory" in parts:
        results["buffer"] = process.buffer_memory()
        results["memory"] = process.memory_over_a_run()
        print(
            f"\na full buffer: {results['buffer']['resident_mib']:.0f} MiB, {results['buffer']['ratio']:.3f} x its columns"
        )
        print(f"resident memory over {results['memory']['epochs']} epochs: {results['memory']['warm_mib']:.0f} MiB warm, "
              f"{results['memory']['last_mib']:.0f} MiB at the end")  # fmt: skip
        save(results, options.to)
    if "latency" in parts:
        results["latency"] = deploying.latency((256, 256), options.rounds)
        print("\none action, hidden 2 x 256, one thread")
        for name, row in results["latency"].items():
            print(f"  {name:<34} {row['p50_us']:8.1f} µs   99th percentile {row['p99_us']:.1f} µs", flush=True)
        save(results, options.to)


if __name__ == "__main__":
    main()
