"""The update: against its matrix products, against plain AWAC and d3rlpy's, inside the Trainer, and its sampling."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from tensordict import TensorDict

from awac_pl.algorithms.awac import AWAC
from awac_pl.algorithms.compiling import ChunkGraph, CompileMode, choose_mode, compiled, find_obstacles
from awac_pl.replay.buffer import Replay
from awac_pl.replay.data_module import ReplayDataModule
from benchmarks.floor import ceiling, floor, multipliers, products
from benchmarks.measure import compare, in_turn, timed
from benchmarks.peers import PlainAWAC

OBSERVATION_DIM, ACTION_DIM = 45, 24  # pen
CHUNK = 50


def transitions(shape: tuple[int, ...], device: torch.device) -> TensorDict:
    """Random transitions of the pen task's size."""
    return TensorDict(
        {
            "observation": torch.randn(*shape, OBSERVATION_DIM),
            "action": torch.rand(*shape, ACTION_DIM) * 2 - 1,
            "reward": -(torch.rand(shape) > 0.3).float(),
            "discount": torch.full(shape, 0.99),
            "next_observation": torch.randn(*shape, OBSERVATION_DIM),
            "terminated": torch.zeros(shape, dtype=torch.bool),
        },
        batch_size=shape,
    ).to(device)


def make_module(hidden: Sequence[int], device: torch.device, **options: Any) -> AWAC:
    """An untrained module of the pen task's size."""
    module = AWAC(
        observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM, return_range=(-100.0, 0.0),
        actor_hidden_sizes=hidden, critic_hidden_sizes=hidden, **options,
    )  # fmt: skip
    return module.to(device)


def bare(module: AWAC, batches: TensorDict, updates: int, mode: CompileMode = "auto") -> Callable[[], None]:
    """Updates on batches that are there, without the Trainer."""
    device = module.device
    obstacles = find_obstacles(device, "32-true", 1)
    mode = choose_mode(mode, obstacles)
    optimizer = module.configure_optimizers()
    if mode != "off" and not obstacles["by_hand"]:
        fast = module.fast_update(optimizer, mode)  # type: ignore[arg-type]

        def by_hand() -> None:
            for first in range(0, updates, len(batches)):
                fast(batches[: min(len(batches), updates - first)])
                optimizer.step()  # type: ignore[union-attr]
                module.move_targets()

        return by_hand
    loss_of = compiled(module.loss) if mode == "default" else module.loss

    def chunk_of_updates(chunk: TensorDict) -> TensorDict:
        for batch in chunk.unbind(0):
            loss, _ = loss_of(batch, watch=False)
            optimizer.zero_grad()  # type: ignore[union-attr]
            loss.backward()
            optimizer.step()  # type: ignore[union-attr]
            module.move_targets()
        return TensorDict({"loss": loss.detach()})

    in_graph = mode == "graph" or (mode == "default" and not obstacles["graph"])
    step = ChunkGraph(chunk_of_updates) if in_graph else chunk_of_updates

    def run() -> None:
        for first in range(0, updates, len(batches)):
            step(batches[: min(len(batches), updates - first)])
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


class Peer:
    """Another implementation's update, in the Python of an environment of its own.

    Args:
        python: of that environment.
        script: beside this file; it prints ``ready …``, then the seconds of its updates for every line that it is sent.
        hidden: width of each hidden layer.
        batch: B.
        updates: per line.
        chunk: updates compiled together, where it compiles any.
        device: that it runs on.
        environment: variables for it.
    """

    def __init__(
        self, python: Path, script: str, hidden: Sequence[int], batch: int, updates: int, chunk: int, device: torch.device,
        environment: Mapping[str, str],
    ) -> None:  # fmt: skip
        sizes = ",".join(map(str, hidden))
        self.name = script
        command = [
            python, Path(__file__).with_name(script), OBSERVATION_DIM, ACTION_DIM, sizes, batch, updates, chunk, device.type,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | environment | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        )  # fmt: skip
        while not (line := self._read()).startswith("ready"):
            pass
        print(f"  {line.removeprefix('ready ').strip()}", file=sys.stderr)

    def __call__(self) -> float:
        """Seconds of the updates."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        while True:
            try:
                return float(self._read())
            except ValueError:  # its log
                continue

    def _read(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"{self.name} ended; is what it needs installed for that Python?")
        return line


def updates(
    batch: int,
    hidden: Sequence[int],
    device: torch.device,
    number: int,
    rounds: int,
    modes: Sequence[CompileMode],
    peers: Mapping[str, tuple[Path, str, Mapping[str, str]]],
) -> dict[str, dict[str, Any]]:
    """Updates per second of everything there is; ``peers`` are others' Pythons, scripts and variables, by name."""
    torch.manual_seed(0)
    length = CHUNK if device.type == "cuda" else min(number, 8)
    chunk = transitions((length, batch), device)
    shapes = products(OBSERVATION_DIM, ACTION_DIM, hidden, batch)
    plain = PlainAWAC(OBSERVATION_DIM, ACTION_DIM, hidden, device)
    rows = [dict(row.items()) for row in chunk.unbind(0)]

    def run_plain() -> None:
        for index in range(number):
            plain.update(rows[index % len(rows)])
        if device.type == "cuda":
            torch.cuda.synchronize()

    quick = {"critic_layer_norm": True, "advantage": "td", "value_gradient": 100.0}
    before: dict[str, Any] = {"matmul_engine": "native"}
    variants = {
        f"matrix products alone, {name}": timed(ceiling(shapes, device, number, multiply))
        for name, multiply in multipliers(device).items()
    }
    variants |= {
        "plain AWAC": timed(run_plain),
        "awac_pl": timed(bare(make_module(hidden, device), chunk, number)),
        "awac_pl, options of preset quick": timed(bare(make_module(hidden, device, **quick), chunk, number)),
        "awac_pl 0.1: autograd, torch.mm": timed(bare(make_module(hidden, device, **before), chunk, number, "off")),
        "awac_pl 0.1, options of preset quick": timed(
            bare(make_module(hidden, device, **quick, **before), chunk, number, "off")
        ),
    }
    for mode in modes:
        variants[f"awac_pl, compile: {mode}"] = timed(bare(make_module(hidden, device), chunk, number, mode))
    for name, (python, script, environment) in peers.items():
        variants[name] = Peer(python, script, hidden, batch, number, length, device, environment)
    return compare(in_turn(variants, rounds), "plain AWAC", number)


def floor_of(batch: int, hidden: Sequence[int], device: torch.device) -> dict[str, Any]:
    """See ``floor.floor``."""
    module = make_module(hidden, device)
    trained = sum(parameter.numel() for parameter in module.critics.parameters())
    parameters = trained + sum(parameter.numel() for parameter in module.actor.parameters())
    return floor(products(OBSERVATION_DIM, ACTION_DIM, hidden, batch), parameters, trained, device)


class EpochClock(Callback):
    """Seconds of each epoch, from taking in its block, where there is one, to its last update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop."""
        self.seconds.append(time.perf_counter() - self.start)


def in_the_trainer(batch: int, number: int, rounds: int) -> dict[str, dict[str, Any]]:
    """The bare update against Lightning's loop, sampling included, at several K."""
    data = ReplayDataModule(
        task="pen", datasets=["awac/pen/expert-v0"], batch_size=batch, updates_per_epoch=number, workers=0
    )
    module = make_module((256, 256), torch.device("cpu"))
    data.setup("fit")

    def epoch(chunk_size: int) -> float:
        clock = EpochClock()
        data.chunk_size = chunk_size
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[clock], limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        return clock.seconds[0]

    batches = data.replay.sample(CHUNK, batch)
    variants: dict[str, Callable[[], float]] = {"bare update": timed(bare(module, batches, number))}
    for chunk_size in (1, 10, 50):
        variants[f"Trainer, K = {chunk_size}"] = lambda chunk_size=chunk_size: epoch(chunk_size)  # type: ignore[misc]
    return compare(in_turn(variants, rounds), "bare update", number)


def sampling(batch: int, rounds: int, size: int = 100_000) -> dict[str, dict[str, Any]]:
    """Batches per second from the buffer, against one index_select of packed rows."""
    replay = Replay(size)
    replay.buffer.extend(transitions((size,), torch.device("cpu")))
    packed = torch.randn(size, 2 * OBSERVATION_DIM + ACTION_DIM + 3)

    def select() -> None:
        for _ in range(CHUNK):
            packed.index_select(0, (torch.rand(batch, dtype=torch.float64) * size).long())

    def one_by_one() -> None:
        for _ in range(CHUNK):
            replay.sample(1, batch)

    variants = {
        "packed rows, index_select": timed(select),
        "replay.sample, K = 50": timed(lambda: replay.sample(CHUNK, batch)),
        "replay.sample, K = 1": timed(one_by_one),
    }
    return compare(in_turn(variants, rounds), "packed rows, index_select", CHUNK)
