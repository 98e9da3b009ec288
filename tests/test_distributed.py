"""Several processes on one machine: equal to one process on the union of what they have."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tensordict import TensorDict
from torch import Tensor

from awac_pl.algorithms.awac import AWAC
from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.bc import BC
from awac_pl.algorithms.iql import IQL
from awac_pl.algorithms.rlpd import RLPD
from awac_pl.errors import AwacError
from awac_pl.parallel import ranks
from awac_pl.policies.actor import Actor
from awac_pl.replay.buffer import Replay, merge_states
from awac_pl.runs.metrics import read_metrics
from tests.test_cli import SMALL, fit
from tests.test_module import ACTION_DIM, OBSERVATION_DIM, Chunks, make_chunk, make_module, no_noise, train
from tests.toy import reach_episodes

ROOT = Path(__file__).parents[1]


class Quiet(Actor):
    """Samples without noise: then one process and two do the same with the same batch."""

    def sample(self, mean: Tensor) -> Tensor:
        return mean


class Unsynchronised(AWAC):
    """Forgets to average the gradients."""

    def manual_backward(self, loss: Tensor, *args, **kwargs) -> None:
        loss.backward()


class Shares(Chunks):
    """Every rank gets its part of each batch."""

    def train_dataloader(self) -> Chunks:
        size = self.chunks[0].shape[1] // self.trainer.world_size
        first = self.trainer.global_rank * size
        return Chunks([chunk[:, first : first + size] for chunk in self.chunks])


class KeepParameters(Callback):
    """Writes each rank's parameters at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module) -> None:
        torch.save(dict(pl_module.state_dict()), self.folder / f"{trainer.global_rank}.pt")


def quiet(module: AWAC) -> AWAC:
    module.actor.__class__ = Quiet
    return module


def train_two(module: Learner, chunks: list[TensorDict], folder: Path) -> list[dict[str, Tensor]]:
    strategy = "ddp_spawn" if torch.cuda.is_initialized() else "ddp_fork"  # which has nothing to import
    trainer = lightning.Trainer(
        max_epochs=1, limit_val_batches=0, accelerator="cpu", devices=2, strategy=strategy, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[KeepParameters(folder)],
    )  # fmt: skip
    trainer.fit(module, datamodule=Shares(chunks))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


OPTIONS = {"advantage": "td", "value_gradient": 2.0, "critic_layer_norm": True}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_ranks_equal_one_process_on_the_union_of_their_batches(tmp_path: Path) -> None:
    chunks = [make_chunk(10, batch=64)]
    first, second = train_two(quiet(make_module(**OPTIONS)), chunks, tmp_path)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    alone = quiet(make_module(**OPTIONS))
    train(alone, chunks)
    torch.testing.assert_close(first, dict(alone.state_dict()), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("learner", "options"), [(IQL, {}), (RLPD, {"num_critics": 3, "num_target_critics": 3, "actor_every": 2}), (BC, {})]
)
def test_so_do_the_rivals(learner, options: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_initialized():
        pytest.skip("ranks that are not forked do not see the patch")
    monkeypatch.setattr(torch, "randn_like", no_noise)

    def make() -> Learner:
        torch.manual_seed(0)
        return learner(observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM, compile="off", **options)

    chunks = [make_chunk(10, batch=64)]
    first, second = train_two(make(), chunks, tmp_path)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    alone, untrained = make(), make()
    train(alone, chunks)
    torch.testing.assert_close(first, dict(alone.state_dict()), rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(first, dict(untrained.state_dict()), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_averaged_gradients_the_ranks_part(tmp_path: Path) -> None:
    module = quiet(make_module(**OPTIONS))
    module.__class__ = Unsynchronised
    first, second = train_two(module, [make_chunk(10, batch=64)], tmp_path)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_the_shares_of_the_ranks_make_up_the_one_buffer() -> None:
    episodes = reach_episodes(3)
    shares = [Replay(1000, rank=rank, world_size=2) for rank in range(2)]
    whole = Replay(1000)
    for replay in (*shares, whole):
        replay.add_offline(episodes)
    rows = torch.cat([share.buffer[:]["observation"] for share in shares])
    expected = whole.buffer[:]["observation"]
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.tolist()))
    assert [share.capacity for share in shares] == [500, 500]
    first, second = (share.sample(1, 8)["observation"] for share in shares)
    assert not torch.equal(first, second)

    shares[0].add_online(reach_episodes(1))
    shares[1].add_online(reach_episodes(2))
    merged = Replay(1000)
    merged.add_offline(episodes)
    merged.load_state_dict(merge_states([share.state_dict() for share in shares]))
    assert (merged.offline_size, merged.online_size) == (30, 30)


def test_full_buffers_of_ranks_merge_with_their_episodes_in_one_piece() -> None:
    """Each rank's ring of 15 rows holds its last 15: half of its second episode of 10, and its third."""
    shares, episodes = [Replay(40, rank=rank, world_size=2) for rank in range(2)], reach_episodes(7)
    merged = Replay(40)
    for replay in (*shares, merged):
        replay.add_offline(episodes[:1])
    for rank, share in enumerate(shares):
        share.add_online(episodes[1 + 3 * rank : 4 + 3 * rank])
    merged.load_state_dict(merge_states([share.state_dict() for share in shares]))
    kept = [np.concatenate([second.observations[5:10], third.observations[:10]]) for second, third in
            (episodes[2:4], episodes[5:7])]  # fmt: skip
    np.testing.assert_array_equal(merged.buffer[10:]["observation"], np.concatenate(kept))

    merged.add_online(reach_episodes(1))  # in place of the first rank's oldest rows
    np.testing.assert_array_equal(merged.buffer[20:25]["observation"], kept[0][10:])


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(folder: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "awac_pl", "fit", f"--config={ROOT / 'conf/base.yaml'}"]
    return subprocess.Popen(
        [*command, "--config=small.yaml", "--mlflow_uri=none", "--trainer.strategy=ddp", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_PORT": free_port()},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def workplace(tmp_path: Path, reach_dataset: str) -> Path:
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_run_of_two_processes_and_its_resumption(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its resumption goes on from its last checkpoint but one, and ends when a rank dies in the epoch after the last."""
    sync = ("--trainer.devices=2", "--interaction.synchronous=true")
    output = finish(start(workplace, *sync, "--run_dir=whole"))
    assert output.count("run folder  whole") == 2  # one introduction and one summary, by rank 0
    for copy in ("parts", "alone"):
        checkpoints = shutil.copytree(workplace / "whole", workplace / copy) / "checkpoints"
        (checkpoints / "last.previous.ckpt").replace(checkpoints / "last.ckpt")
    state = torch.load(workplace / "parts/checkpoints/last.ckpt", weights_only=True)
    ranks = state["ReplayDataModule"]["replay"]
    assert [len(rank["online"]["reward"]) for rank in ranks] == [10, 10]  # each its half of the 20 steps of a block
    assert not torch.equal(ranks[0]["online"]["observation"], ranks[1]["online"]["observation"])

    (workplace / "die.yaml").write_text("trainer:\n  callbacks:\n    - class_path: tests.callbacks.DieOnRankOne\n")
    more = ("--config=die.yaml", "--trainer.max_epochs=50", "--run_dir=parts", "--ckpt_path=last")
    process = start(workplace, *sync, *more)
    output, _ = process.communicate(timeout=120)  # the other rank ends, too
    assert process.returncode != 0
    assert "rank 1 dies" in output
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(ROOT))
    assert fit("--mlflow_uri=none", "--run_dir=alone", "--ckpt_path=last") == 0
    straight, resumed, merged = (
        torch.load(workplace / run / "checkpoints/last.ckpt", weights_only=True) for run in ("whole", "parts", "alone")
    )
    torch.testing.assert_close(straight["state_dict"], resumed["state_dict"], rtol=0, atol=0)
    assert len(merged["ReplayDataModule"]["replay"][0]["online"]["reward"]) == 40
    assert int(merged["state_dict"]["env_steps"]) == int(straight["state_dict"]["env_steps"]) == 40
    rows = read_metrics(workplace / "whole/metrics.csv")
    assert [row["env_steps"] for row in rows] == [0, 20, 40]
    assert rows[-1]["eval/episodes"] == 4  # shared out among the ranks, scored together
    assert json.loads((workplace / "whole/manifest.json").read_text())["status"] == "finished"


def test_torchrun_on_two_nodes_of_one_process(workplace: Path) -> None:
    port = free_port()
    nodes = [
        start(
            workplace, "--trainer.num_nodes=2", "--trainer.devices=1", "--run_dir=nodes", "--trainer.max_epochs=2",
            launcher=("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", f"--node_rank={node}",
                      "--master_addr=127.0.0.1", f"--master_port={port}"),
        )
        for node in range(2)
    ]  # fmt: skip
    for node in nodes:
        finish(node)
    assert [row["env_steps"] for row in read_metrics(workplace / "nodes/metrics.csv")] == [0, 20]


def test_a_state_of_several_ranks_goes_to_as_many_or_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [{"torch": torch.Generator().manual_seed(seed).get_state(), "cuda": None} for seed in range(2)]
    with torch.random.fork_rng():
        ranks.restore_random_state(states, torch.device("cpu"))
        assert torch.equal(torch.get_rng_state(), states[0]["torch"])
        monkeypatch.setattr(ranks, "world_size", lambda: 2)
        monkeypatch.setattr(ranks, "rank", lambda: 1)
        ranks.restore_random_state(states, torch.device("cpu"))
        assert torch.equal(torch.get_rng_state(), states[1]["torch"])
    line = "the checkpoint's block is that of 3 processes, these are 2; resume with as many, or with one"
    with pytest.raises(AwacError, match=line):
        ranks.own_state([1, 2, 3], "block")
