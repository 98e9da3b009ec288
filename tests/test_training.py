"""Data module, interaction and records at work: schedule, counters, live data, resuming, errors. On the toy task."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from awac_pl.algorithms.awac import AWAC
from awac_pl.callbacks import interaction as interaction_file
from awac_pl.callbacks.interaction import EnvironmentInteraction
from awac_pl.callbacks.progress import AwacProgressBar
from awac_pl.callbacks.run_writer import RunWriter
from awac_pl.datasets.catalog import read_metadata
from awac_pl.datasets.cloned import cloned_id, cloning_task
from awac_pl.datasets.minari_io import save_dataset
from awac_pl.envs.rollouts import Block, RolloutWorkers, collect_block
from awac_pl.envs.tasks import Spaces, Task, find_task
from awac_pl.errors import AwacError, DatasetError, TrainingDivergedError
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.policies.policy import UniformPolicy
from awac_pl.replay.data_module import ReplayDataModule
from awac_pl.runs.metrics import read_metrics
from awac_pl.runs.reading import read_run
from awac_pl.runs.summary import stages
from tests.conftest import REACH
from tests.toy import constant_policy, make_episode, reach_episodes


def make_data(dataset: str, **options) -> ReplayDataModule:
    defaults = {
        "task": REACH, "datasets": [dataset], "batch_size": 16, "chunk_size": 5, "updates_per_epoch": 20,
        "offline_epochs": 2, "evaluation_episodes": 4, "milestone_episodes": 8, "workers": 0, "capacity": 5000,
        "progress": False,
    }  # fmt: skip
    return ReplayDataModule(**{**defaults, **options})


def make_module(data: ReplayDataModule, **options) -> AWAC:
    torch.manual_seed(1)
    sizes = {"actor_hidden_sizes": (16, 16), "critic_hidden_sizes": (16, 16)}
    return AWAC(
        observation_dim=data.observation_dim, action_dim=data.action_dim, return_range=data.return_range, **sizes, **options
    )


def make_trainer(folder: Path, *callbacks: Callback, **options) -> lightning.Trainer:
    defaults = {"max_epochs": 5, "check_val_every_n_epoch": 1, "num_sanity_val_steps": 0}
    return lightning.Trainer(
        **{**defaults, **options}, accelerator="cpu", logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
    )  # fmt: skip


class Watch(Callback):
    """Notes the sizes of the buffer and of the batches as training goes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.batches: list[tuple[int, ...]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.sizes.append(len(trainer.datamodule.replay))
        self.batches.append(tuple(batch.shape))


def fit(folder: Path, data: ReplayDataModule, *callbacks: Callback, module: AWAC | None = None, **options) -> AWAC:
    module = module or make_module(data)
    ckpt_path = options.pop("ckpt_path", None)
    make_trainer(folder, *callbacks, **options).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


@pytest.mark.parametrize(("synchronous", "workers"), [(True, 0), (True, 1), (False, 1), (False, 2)])
def test_schedule_and_counters(tmp_path: Path, reach_dataset: str, synchronous: bool, workers: int) -> None:
    data, watch = make_data(reach_dataset, workers=workers), Watch()
    interaction = EnvironmentInteraction(env_steps_per_epoch=25, synchronous=synchronous)
    record = RunWriter({"task": "reach"})
    module = fit(tmp_path, data, interaction, watch, record)
    assert int(module.updates) == 100
    assert int(module.env_steps) == 80  # whole episodes of 10: 30, then 20 that were due, then 30
    assert watch.sizes[::4] == [200, 200, 230, 250, 280]
    assert set(watch.batches) == {(5, 16)}
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["updates"] for row in rows] == [20, 40, 60, 80, 100]
    assert [row["env_steps"] for row in rows] == [0, 0, 30, 50, 80]
    assert [row["eval/episodes"] for row in rows] == [4, 8, 4, 4, 8]  # milestones: end of pretraining, end of the run
    assert ["rollout/regret" in row for row in rows] == [False, False, True, True, True]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["datasets"][0]["transitions"] == 200
    assert len(manifest["datasets"][0]["sha256"]) == 64
    assert (manifest["compile"], manifest["matmul_engine"]) == ("by_hand", module.actor.engine)
    assert manifest["processor"]


def test_the_overlapped_block_is_acted_by_the_policy_of_the_epoch_before(tmp_path: Path, reach_dataset: str) -> None:
    snapshots: list[np.ndarray] = []

    class Snapshots(Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            snapshots.append(pl_module.policy())

    data = make_data(reach_dataset, workers=1)
    fit(tmp_path, data, Snapshots(), EnvironmentInteraction(env_steps_per_epoch=20))
    workers = RolloutWorkers(find_task(REACH), 0)
    first = collect_block(workers, snapshots[2], 0, 20).episodes  # the first block is waited for
    second = collect_block(workers, snapshots[2], 2, 20).episodes  # collected while the first was trained on
    third = collect_block(workers, snapshots[3], 4, 20).episodes
    expected = np.concatenate([episode.actions for episode in [*first, *second, *third]])
    np.testing.assert_array_equal(data.replay.buffer[200:]["action"].numpy(), expected)


def test_a_block_does_not_depend_on_the_number_of_workers() -> None:
    blocks = []
    for workers in (0, 2):
        pool = RolloutWorkers(find_task(REACH, terminate_on_success=True), workers)
        blocks.append(collect_block(pool, constant_policy(), 0, 57).episodes)
        pool.close()
    assert sum(len(episode) for episode in blocks[0]) >= 57
    assert [episode.seed for episode in blocks[0]] == list(range(len(blocks[0])))
    for one, other in zip(*blocks, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)


def test_evaluation_is_deterministic_on_fixed_seeds_and_whole(tmp_path: Path, reach_dataset: str) -> None:
    data = make_data(reach_dataset, terminate_on_success=True)
    module = make_module(data)
    trainer = make_trainer(tmp_path)
    first, second = (trainer.validate(module, datamodule=data, verbose=False)[0] for _ in range(2))
    assert first == second
    assert (first["eval/episodes"], first["eval/episode_length"]) == (8, 10)
    assert trainer.test(module, datamodule=data, verbose=False)[0] == first


RISING = {"value_gradient": 5.0, "offline_value_gradient": 1.0, "value_gradient_epochs": 32}


@pytest.mark.parametrize("options", [{}, {"normalize_observations": True, "actor_average": 0.01}, RISING])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path, reach_dataset: str, options: dict) -> None:
    def callbacks(folder: str) -> list[Callback]:
        return [
            EnvironmentInteraction(env_steps_per_epoch=20, synchronous=True),
            RunWriter({}),
            ModelCheckpoint(tmp_path / folder / "checkpoints", save_last=True, save_on_train_epoch_end=True),
        ]

    def make() -> ReplayDataModule:
        return make_data(reach_dataset, workers=1, seed=4, milestone_episodes=4)

    straight_data = make()
    module = make_module(straight_data, **options)
    straight = fit(tmp_path / "straight", straight_data, *callbacks("straight"), module=module, max_epochs=7)
    module = make_module(straight_data, **options)
    fit(tmp_path / "cut", make(), *callbacks("cut"), module=module, max_epochs=4)

    torch.manual_seed(99)  # whatever state the new process is in
    data = make()
    resumed = AWAC(observation_dim=2, action_dim=1, return_range=data.return_range, actor_hidden_sizes=(16, 16),
                   critic_hidden_sizes=(16, 16), **options)  # fmt: skip
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "cut", data, *callbacks("cut"), module=resumed, max_epochs=7, ckpt_path=last)

    torch.testing.assert_close(resumed.state_dict(), straight.state_dict(), rtol=0, atol=0)
    for key in ("observation", "action", "reward"):
        torch.testing.assert_close(data.replay.buffer[:][key], straight_data.replay.buffer[:][key], rtol=0, atol=0)
    one, other = (read_metrics(tmp_path / folder / "metrics.csv") for folder in ("straight", "cut"))
    for row in [*one, *other]:
        del row["seconds"]
        row.pop("rollout/env_steps_per_s", None)
    assert one == other


def test_a_run_that_is_resumed_within_an_epoch_has_that_epochs_value_gradient(tmp_path: Path, reach_dataset: str) -> None:
    """Two chunks an epoch, one epoch offline; the checkpoint is from the middle of the third epoch.

    Of the first 2, 4 and 6 training episodes 1, 1 and 2 succeed: over 32 s^2 epochs is 1/2 of the way at 1/4, 9/16 at 1/3.
    """

    class Save(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            seen.append(float(pl_module.value_gradient))
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    for ckpt_path, expected in ((None, [1, 1, 1, 1, 3, 3, 3.25, 3.25]), (tmp_path / "middle.ckpt", [3, 3.25, 3.25])):
        seen: list[float] = []
        data = make_data(reach_dataset, offline_epochs=1, updates_per_epoch=10)
        module = make_module(data, **RISING)
        callbacks = (EnvironmentInteraction(20), Save(), RunWriter({}))
        fit(tmp_path, data, *callbacks, module=module, max_epochs=4, ckpt_path=ckpt_path)
        assert seen == expected
    assert [row["train/value_gradient"] for row in read_metrics(tmp_path / "metrics.csv")] == [1, 1, 3, 3.25]


def test_checkpoints_load_without_running_code(tmp_path: Path, reach_dataset: str) -> None:
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    fit(tmp_path, make_data(reach_dataset), EnvironmentInteraction(20), checkpoint, max_epochs=3)
    assert (tmp_path / "last.ckpt").stat().st_size < 300_000  # 20 online rows, not the buffer's capacity of 5,000
    loaded = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert {"state_dict", "optimizer_states", "ReplayDataModule", "callbacks", "random_state"} <= set(loaded)
    assert {"actor", "critics", "target_critics", "updates", "env_steps"} <= {
        key.split(".")[0] for key in loaded["state_dict"]
    }


def test_resuming_with_other_data_is_refused(tmp_path: Path, reach, reach_dataset: str) -> None:
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    fit(tmp_path, make_data(reach_dataset), checkpoint, max_epochs=1)
    save_dataset("toy/more-v0", reach_episodes(20, first_seed=50), *reach, {})  # of the same size
    with pytest.raises(
        AwacError, match=r"the checkpoint's run had other data than toy/more-v0; resume with the same datasets"
    ):
        fit(tmp_path, make_data("toy/more-v0"), Watch(), ckpt_path=tmp_path / "last.ckpt")


def test_divergence_keeps_the_last_good_checkpoint_and_says_so(tmp_path: Path, reach_dataset: str) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            if trainer.current_epoch == 2:
                batch["reward"][:] = float("nan")

    data = make_data(reach_dataset)
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", save_last=True, save_on_train_epoch_end=True)
    with pytest.raises(TrainingDivergedError, match=r"the loss is nan at update 45; the last checkpoint is from before it"):
        fit(tmp_path, data, checkpoint, RunWriter({}), Poison())
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert int(kept["updates"]) == 40
    assert all(torch.isfinite(value).all() for value in kept.values())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "nan" in manifest["error"]
    assert len(read_metrics(tmp_path / "metrics.csv")) == 2


def test_an_error_of_the_environment_ends_the_run(tmp_path: Path, reach) -> None:
    save_dataset("toy/broken-v0", reach_episodes(5), find_task("tests.toy:Broken-v0"), reach[1], {})
    data = make_data("toy/broken-v0", task="tests.toy:Broken-v0", workers=1, seed=1)
    with pytest.raises(RuntimeError, match="the simulator exploded"):
        fit(tmp_path, data, EnvironmentInteraction(20), check_val_every_n_epoch=100)
    assert not data.workers._workers


def test_data_serve_again_after_an_error(tmp_path: Path, reach_dataset: str) -> None:
    class Fails(Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            raise ValueError("a user's mistake")

    data = make_data(reach_dataset)
    with pytest.raises(ValueError, match="a user's mistake"):
        fit(tmp_path, data, Fails(), EnvironmentInteraction(20))
    module = fit(tmp_path, data, EnvironmentInteraction(20), max_epochs=3)
    assert int(module.env_steps) == 20


def test_an_evaluation_ends_a_run_only_if_all_its_episodes_fail(tmp_path: Path, reach) -> None:
    """They come in lists: the last one of 11 episodes has one alone, which fails."""
    for name, episodes in (("flaky", 11), ("broken", 1)):
        save_dataset(f"toy/{name}-v0", reach_episodes(5), find_task(f"tests.toy:{name.title()}-v0"), reach[1], {})
        data = make_data(f"toy/{name}-v0", task=f"tests.toy:{name.title()}-v0", milestone_episodes=episodes)
        trainer, module = make_trainer(tmp_path), make_module(data)
        if name == "flaky":
            assert trainer.validate(module, datamodule=data, verbose=False)[0]["eval/episodes"] == 7
        else:
            with pytest.raises(RuntimeError, match="the simulator exploded"):
                trainer.validate(module, datamodule=data, verbose=False)


def test_fewer_failures_may_be_allowed_than_a_run_has_had(reach_dataset: str) -> None:
    interaction, data = EnvironmentInteraction(20, max_failed_episodes=5), make_data(reach_dataset)
    ranks = [{"episodes": 3, "env_steps": 30, "failed": failed} for failed in (4, 6)]  # of each rank 5 may fail
    interaction.load_state_dict({"episodes": 6, "failures": 0.0, "ranks": ranks, "env_steps_due": 60})
    assert (interaction.own_episodes, interaction.own_failed) == (6, 6)
    *_, most = interaction._job(data, constant_policy())
    assert most == 0
    assert len(collect_block(data.workers, constant_policy(), 0, 20, max_failed=most).episodes) == 2


def test_failed_episodes_are_counted_and_seeds_go_on(tmp_path: Path, reach, caplog: pytest.LogCaptureFixture) -> None:
    save_dataset("toy/flaky-v0", reach_episodes(5), find_task("tests.toy:Flaky-v0"), reach[1], {})
    data = make_data("toy/flaky-v0", task="tests.toy:Flaky-v0")
    interaction = EnvironmentInteraction(20)
    module = fit(tmp_path, data, interaction, max_epochs=4)
    assert (interaction.own_episodes, interaction.own_failed, int(module.env_steps)) == (4, 2, 40)
    assert "and the success rate (2 of at most 10): tests.toy:Flaky-v0: seed 4: OSError" in caplog.text
    assert "an evaluation episode failed and is left out" in caplog.text
    with pytest.raises(RuntimeError, match="seed 4: OSError"):
        fit(
            tmp_path, make_data("toy/flaky-v0", task="tests.toy:Flaky-v0"), EnvironmentInteraction(20, max_failed_episodes=1)
        )


def test_a_block_may_be_empty(tmp_path: Path, reach_dataset: str) -> None:
    """An episode has 10 steps; a block of 4 needs a new one in every second or third epoch alone."""
    data, watch = make_data(reach_dataset), Watch()
    module = fit(tmp_path, data, EnvironmentInteraction(env_steps_per_epoch=4), watch, RunWriter({}), max_epochs=7)
    assert watch.sizes[::4] == [200, 200, 210, 210, 220, 220, 220]
    assert int(module.env_steps) == 20
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["env_steps"] for row in rows] == [0, 0, 10, 10, 20, 20, 20]
    assert ["rollout/episode_return" in row for row in rows] == [False, False, True, False, True, False, False]


def test_a_block_counts_from_its_own_size(tmp_path: Path, reach_dataset: str) -> None:
    """A run of blocks of 30 steps goes on with blocks of 10, and with blocks of 60."""
    last = tmp_path / "checkpoints/last.ckpt"
    checkpoint = ModelCheckpoint(last.parent, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
    for epochs, env_steps in ((4, 30), (6, 10), (7, 60)):
        data = make_data(reach_dataset)
        callbacks = [EnvironmentInteraction(env_steps_per_epoch=env_steps), RunWriter({}), checkpoint]
        fit(tmp_path, data, *callbacks, max_epochs=epochs, ckpt_path=last if last.exists() else None)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["env_steps"] for row in rows] == [0, 0, 30, 60, 70, 80, 140]


def test_success_is_unavailable_where_nobody_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    task = find_task("tests.toy:Wide-v0")
    data = make_data("toy/wide-v0", task=task.env_id)
    save_dataset("toy/wide-v0", [make_episode(success=None, seed=seed) for seed in range(5)], task, data.spaces, {})
    assert data.return_range is None
    record = RunWriter({})
    fit(tmp_path, data, EnvironmentInteraction(20), record)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert np.isnan(rows[-1]["eval/success_rate"])
    assert rows[-1]["eval/episode_return"] < 0
    assert "unavailable: the environment reports no success" in capsys.readouterr().out


@pytest.mark.usefixtures("short_cloning")
def test_the_cloned_dataset_is_made_once_and_its_recipe_is_checked(
    tmp_path: Path, reach, datasets_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dataset("awac/reach/expert-v0", reach_episodes(12), *reach, {})

    def data(**options) -> ReplayDataModule:
        names = ["awac/reach/expert-v0", "awac/reach/cloned-v0"]
        made = make_data("", **{"datasets": names, "clone_episodes": 6, **options})
        made.prepare_data()
        made.setup("fit")
        return made

    assert data().replay.offline_size == 180
    before = (datasets_root / "awac/reach/cloned-v0/data/main_data.hdf5").stat().st_mtime_ns
    assert data().replay.offline_size == 180
    assert (datasets_root / "awac/reach/cloned-v0/data/main_data.hdf5").stat().st_mtime_ns == before
    assert data(num_demonstrations=4).replay.offline_size == 100
    assert read_metadata("awac/reach/cloned-4-v0")["recipe"]["num_demonstrations"] == 4
    assert data(train_split=0.5).replay.offline_size == 6 * 10 + 3 * 10  # of the same clone
    advice = "name another one, such as awac/reach/cloned-2-v0, and it is made"
    with pytest.raises(DatasetError, match=f"was cloned with num_episodes 6 instead of 7; {advice}"):
        data(clone_episodes=7)


def test_presets_with_another_horizon_share_the_cloned_dataset() -> None:
    names = ["awac/pen/expert-v0", "awac/pen/cloned-v0"]
    tasks = [cloning_task(make_data("", task="pen", datasets=names, horizon=horizon).task) for horizon in (None, 1000)]
    assert tasks[0] == tasks[1]
    assert tasks[0].horizon == 200


def test_milestones_are_counted_in_environment_steps(reach_dataset: str) -> None:
    data = make_data(reach_dataset).evaluations
    assert data.episodes_at(1, 0) == 8  # the end of pretraining
    assert data.episodes_at(2, 50_000) == 8
    assert data.episodes_at(2, 99_990) == 4
    assert data.episodes_at(3, 101_000) == 8
    assert data.episodes_at(4, 103_000) == 4


def test_the_progress_bar_shows_phase_speeds_and_success(tmp_path: Path, reach_dataset: str) -> None:
    shown: list[dict] = []

    class Look(AwacProgressBar):
        def on_train_batch_end(self, trainer, pl_module, *args) -> None:
            shown.append(self.get_metrics(trainer, pl_module))

    data = make_data(reach_dataset, workers=1)
    trainer = make_trainer(tmp_path, EnvironmentInteraction(20), max_epochs=4)
    trainer.callbacks.insert(0, Look())
    trainer.fit(make_module(data), datamodule=data)
    assert shown[0]["phase"] == "offline"
    assert set(shown[-1]) == {"phase", "updates/s", "env steps/s", "training success", "eval success"}
    assert shown[-1]["phase"] == "online"
    assert float(shown[-1]["updates/s"]) > 0
    assert 0 <= float(shown[-1]["eval success"]) <= 1


def test_float16_is_refused(tmp_path: Path, reach_dataset: str) -> None:
    data = make_data(reach_dataset)
    trainer = make_trainer(tmp_path)
    trainer.strategy.precision_plugin.precision = "16-mixed"
    with pytest.raises(AwacError, match=r"trainer\.precision is 16-mixed; use 32-true, 64-true, bf16-mixed"):
        trainer.fit(make_module(data), datamodule=data)


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path, reach_dataset: str) -> None:
    data = make_data(reach_dataset, device="cuda")
    module = make_module(data)
    trainer = lightning.Trainer(
        accelerator="gpu", devices=1, max_epochs=4, logger=False, default_root_dir=tmp_path,
        callbacks=[EnvironmentInteraction(20)], num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert int(module.updates) == 80


def test_an_epoch_that_is_cut_short_counts_as_long_as_it_is(tmp_path: Path, reach_dataset: str, caplog) -> None:
    """``trainer.limit_train_batches``: 2 of 4 chunks of 5 updates."""
    caplog.set_level("INFO", "awac_pl")
    data = make_data(reach_dataset)
    trainer = make_trainer(tmp_path, EnvironmentInteraction(20), RunWriter({}), max_epochs=3, limit_train_batches=2)
    trainer.fit(make_module(data), datamodule=data)
    assert json.loads((tmp_path / "manifest.json").read_text())["offline_updates"] == 20
    assert "pretraining: 2 epochs of 10 updates" in caplog.text
    run = read_run(tmp_path)
    assert [run.axis(row) for row in run.rows] == [-10, 0, 20]
    assert "after pretraining" in stages(run)


def test_an_evaluation_reads_no_dataset(tmp_path: Path, reach_dataset: str, datasets_root: Path) -> None:
    data = make_data(reach_dataset)
    module = make_module(data)
    (datasets_root / reach_dataset / "data/metadata.json").write_text("damaged")
    (measures,) = make_trainer(tmp_path).test(module, datamodule=data, verbose=False)
    assert measures["eval/episodes"] == 8


def test_cloned_ids() -> None:
    assert cloned_id("awac/pen/cloned-v0", None) == "awac/pen/cloned-v0"
    assert cloned_id("awac/pen/cloned-v0", 10) == "awac/pen/cloned-10-v0"
    assert cloned_id("awac/pen/cloned-v0", None, clip_actions=False) == "awac/pen/cloned-sampled-v0"
    assert cloned_id("awac/pen/cloned-v0", 10, clip_actions=False) == "awac/pen/cloned-10-sampled-v0"
    assert cloned_id("awac/pen/expert-v0", None, clip_actions=False) == "awac/pen/expert-v0"
    assert cloned_id("awac/pen/cloned-v0", 10, normalize_observations=True) == "awac/pen/cloned-10-normalized-v0"
    assert cloned_id("awac/pen/expert-v0", None, normalize_observations=True) == "awac/pen/expert-v0"
    assert cloned_id("awac/pen/expert-v0", 10) == "awac/pen/expert-v0"
    assert cloned_id("D4RL/pen/cloned-v2", 10) == "D4RL/pen/cloned-v2"


def test_a_memory_mapped_buffer_trains_the_same_and_leaves_no_file(tmp_path: Path, reach_dataset: str) -> None:
    runs = {
        storage: fit(
            tmp_path / storage, make_data(reach_dataset, storage=storage), EnvironmentInteraction(20, synchronous=True)
        )
        for storage in ("memory", "memmap")
    }
    torch.testing.assert_close(runs["memory"].state_dict(), runs["memmap"].state_dict(), rtol=0, atol=0)
    assert list(tmp_path.rglob(".awac-*")) == []


def test_datasets_with_weights(reach, reach_dataset: str) -> None:
    save_dataset("toy/bad-v0", [make_episode(10)], *reach, {})
    data = make_data("", datasets={reach_dataset: 1.0, "toy/bad-v0": 20.0})
    data.setup("fit")
    assert [facts.get("weight") for facts in data.datasets] == [None, 20.0]
    drawn = data.replay.sample(20, 500)["observation"].flatten(0, 1)
    bad = data.replay.buffer[200:]["observation"]
    share = (drawn[:, None] == bad[None]).all(-1).any(-1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.03)  # 10 rows of weight 20 beside 200 of weight 1


def test_clipping_is_said(reach, caplog: pytest.LogCaptureFixture) -> None:
    save_dataset("toy/loud-v0", [make_episode(actions=np.full((10, 1), 1.5, np.float32))], *reach, {})
    make_data("toy/loud-v0").setup("fit")
    assert "toy/loud-v0: 10 of 10 action values (100.0 %) are out of bounds and were clipped" in caplog.text


@pytest.mark.usefixtures("short_cloning")
def test_actions_are_kept_as_they_were_recorded_and_sampled_where_asked(
    reach, datasets_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_dataset("toy/loud-v0", [make_episode(actions=np.full((10, 1), 1.5, np.float32))], *reach, {})
    data = make_data("toy/loud-v0", clip_actions=False)
    data.setup("fit")
    assert "clipped" not in caplog.text
    assert (data.replay.buffer[:]["action"] == 1.5).all()
    assert data.datasets[0]["clipped_action_values"] == 0

    save_dataset("awac/reach/expert-v0", reach_episodes(12), *reach, {})
    names = ["awac/reach/expert-v0", "awac/reach/cloned-v0"]
    data = make_data("", datasets=names, clone_episodes=30, clip_actions=False)
    data.prepare_data()
    data.setup("fit")
    assert data.dataset_ids[1] == "awac/reach/cloned-sampled-v0"
    assert (data.replay.buffer[120:]["action"].abs() > 1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": 200}, "data.capacity is 200, the datasets hold 200 transitions"),
        ({"chunk_size": 7}, "data.updates_per_epoch 20 is no multiple of data.chunk_size 7"),
        ({"offline_ratio": 1.5}, "data.offline_ratio is 1.5"),
        ({"demonstration_ratio": -0.1}, "data.demonstration_ratio is -0.1"),
        ({"datasets": []}, "data.datasets is empty"),
        (
            {"datasets": {"toy/reach-v0": 0.0}},
            r"data.datasets is .*: 0.0}; it must be .* a table, each value a number above 0",
        ),
        ({"train_split": 0.0}, "train_split is 0.0"),
        ({"seed": 1000}, r"data.seed is 1000; it must be a whole number in \[0, 999\]"),
        ({"task": "pen"}, r"was recorded in tests.toy:Reach-v0, the task is AdroitHandPenSparse-v1; if you know"),
    ],
)
def test_refusals_before_anything_starts(reach_dataset: str, options: dict, message: str) -> None:
    with pytest.raises(AwacError, match=message):
        make_data(reach_dataset, **options).setup("fit")


def test_the_snippet_of_the_quickstart_trains_and_tells(tmp_path: Path, reach_dataset: str, monkeypatch, capsys) -> None:
    """Word for word, except for the task and the numbers."""
    text = (Path(__file__).parents[1] / "docs/quickstart.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    small = "updates_per_epoch=10, chunk_size=5, evaluation_episodes=2, milestone_episodes=2, workers=0, progress=False"
    for word, other in {
        '"pen"': f'"{REACH}"',
        '["awac/pen/expert-v0", "awac/pen/cloned-v0"]': f'["{reach_dataset}"], {small}',
        "offline_epochs=5": "offline_epochs=1",
        "max_epochs=30": "max_epochs=2, accelerator='cpu', num_sanity_val_steps=0, enable_model_summary=False",
        "check_val_every_n_epoch=5": "check_val_every_n_epoch=1",
        "EnvironmentInteraction()": "EnvironmentInteraction(10)",
    }.items():
        assert word in code
        code = code.replace(word, other)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(code, names)
    printed = capsys.readouterr().out
    assert "after pretraining" in printed
    assert "after fine-tuning" in printed
    assert [row["updates"] for row in read_metrics(Path("runs/mine/metrics.csv"))] == [10, 20]
    assert Path("runs/mine/report.html").exists()
    assert names["policy"].act(np.zeros(2, np.float32), np.random.default_rng(0)).shape == (1,)


# Options that reach their place


def test_batches_have_their_size_offline_and_online(tmp_path: Path, reach_dataset: str) -> None:
    watch = Watch()
    fit(tmp_path, make_data(reach_dataset, offline_batch_size=8), watch, max_epochs=3)
    assert watch.batches == [(5, 8)] * 8 + [(5, 16)] * 4


def test_the_smallest_return_is_that_of_failing_for_ever(reach_dataset: str) -> None:
    assert make_data(reach_dataset, discount=0.95).return_range == pytest.approx((-20.0, 0.0))


def test_the_first_dataset_alone_has_the_demonstrations(reach: tuple[Task, Spaces], reach_dataset: str) -> None:
    save_dataset("toy/more-v0", [make_episode(10)], *reach, {})
    data = make_data("", datasets=[reach_dataset, "toy/more-v0"], demonstration_ratio=0.5)
    data.setup("fit")
    assert data.demonstrations().shape == (200, 2)
    assert data.replay.sampler.demonstrations.tolist() == list(range(200))


def test_the_data_modules_options_reach_the_replay_buffer(reach_dataset: str) -> None:
    data = make_data(reach_dataset, n_step=3, discount=0.5, offline_ratio=0.25, demonstration_ratio=0.5, self_imitation=True)
    data.setup("fit")
    assert data.replay.buffer[:10]["discount"].tolist() == [0.125] * 8 + [0.25, 0.5]
    assert (data.replay.sampler.offline_ratio, data.replay.sampler.demonstration_ratio) == (0.25, 0.5)
    data.replay.add_online([make_episode(10)])
    assert data.replay.sampler.demonstrations.tolist() == list(range(210))  # its success counts, too


def test_the_scores_of_training_episodes_by_hand() -> None:
    interaction, logged = EnvironmentInteraction(20), []
    module = SimpleNamespace(env_steps=0, log_epoch=logged.append)
    wins, fails = make_episode(10), make_episode(10, success=np.zeros(10, bool))
    interaction._count_and_log(Block([wins, wins, wins, fails], 2.0), module)
    interaction._count_and_log(Block([fails], 1.0), module)
    assert [row["rollout/regret"] for row in logged] == [0.25, 0.4]  # 1 of 4, 2 of 5
    assert [row["rollout/success_rate"] for row in logged] == [0.75, 0.0]
    assert [row["rollout/env_steps_per_s"] for row in logged] == [20.0, 10.0]
    assert module.env_steps == 50


def test_a_resumed_interaction_goes_on_counting() -> None:
    saved, resumed = EnvironmentInteraction(20), EnvironmentInteraction(20)
    saved.own_episodes, saved.own_env_steps, saved.own_failed = 4, 40, 2
    resumed.load_state_dict(saved.state_dict())
    assert (resumed.own_episodes, resumed.own_env_steps, resumed.own_failed) == (4, 40, 2)


def test_the_first_block_is_random_if_that_is_asked_for(
    tmp_path: Path, reach_dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies, collect = [], interaction_file.collect_block

    def watched(workers, policy, *rest):
        policies.append(type(policy))
        return collect(workers, policy, *rest)

    monkeypatch.setattr(interaction_file, "collect_block", watched)
    fit(tmp_path, make_data(reach_dataset), EnvironmentInteraction(20, random_env_steps=30), max_epochs=4)
    assert policies == [UniformPolicy, NumpyPolicy]


def test_ranks_have_episodes_far_apart(reach_dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the million episodes of seed 3, the second of two ranks begins in the middle; it has had 5, and 2 that failed."""
    monkeypatch.setattr(interaction_file, "rank", lambda: 1)
    monkeypatch.setattr(interaction_file, "world_size", lambda: 2)
    interaction, data = EnvironmentInteraction(20), make_data(reach_dataset, seed=3)
    interaction.own_episodes, interaction.own_failed = 5, 2
    _, _, first_seed, steps, _ = interaction._job(data, constant_policy())
    assert (first_seed, steps) == (3_500_007, 10)


def test_where_success_is_unknown_no_episode_counts_as_failed() -> None:
    interaction = EnvironmentInteraction(20)
    assert interaction._success() == 1.0
    interaction.episodes, interaction.failures = 4, 3.0
    assert interaction._success() == 0.25
    interaction.failures = float("nan")
    assert interaction._success() == 1.0
