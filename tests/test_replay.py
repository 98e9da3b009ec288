"""The buffer: order, ring, live sampling, offline share, restoring."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from awac_pl.episode import TRANSITION_KEYS, to_transitions
from awac_pl.errors import AwacError
from awac_pl.replay.buffer import Replay
from awac_pl.replay.streams import EvaluationPlan
from tests.toy import make_episode


def numbered(first: int, steps: int = 4):
    """An episode whose observations count from ``first``."""
    observations = np.arange(first, first + steps + 1, dtype=np.float32)[:, None]
    return make_episode(steps, observations=observations, actions=np.zeros((steps, 1), np.float32))


def failing(first: int, steps: int = 4):
    """The same, of an episode that does not succeed."""
    return dataclasses.replace(numbered(first, steps), success=np.zeros(steps, bool))


def stored(replay: Replay) -> list[int]:
    return replay.buffer[:]["observation"][:, 0].int().tolist()


def test_transitions_line_up() -> None:
    columns = to_transitions([numbered(0), numbered(100)])
    assert columns["observation"][:, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 103]
    assert columns["next_observation"][:, 0].tolist() == [1, 2, 3, 4, 101, 102, 103, 104]
    assert columns["reward"].tolist() == [-1, -1, -1, 0] * 2  # the reward of a step is that of the state it leads to
    assert columns["truncated"].tolist() == [False, False, False, True] * 2
    assert columns["discount"].tolist() == [1] * 8
    assert tuple(columns) == TRANSITION_KEYS


def test_transitions_of_several_steps_by_hand() -> None:
    columns = to_transitions([numbered(0), numbered(100)], n_step=3, discount=0.5)
    assert columns["observation"][:, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 103]
    assert columns["next_observation"][:, 0].tolist() == [3, 4, 4, 4, 103, 104, 104, 104]  # never beyond its own episode
    assert columns["reward"].tolist() == [-1.75, -1.5, -1, 0] * 2  # -1, -1, -1, 0: summed with 1, 1/2, 1/4
    assert columns["discount"].tolist() == [0.125, 0.125, 0.25, 0.5] * 2
    assert columns["truncated"].tolist() == [False, True, True, True] * 2  # the end is among the steps spanned
    long = to_transitions([numbered(0)], n_step=100, discount=0.5)
    assert long["reward"][0] == -1.75
    assert long["discount"].tolist() == [0.0625, 0.125, 0.25, 0.5]


def test_offline_rows_stay_and_online_rows_form_a_ring() -> None:
    replay = Replay(10)
    replay.add_offline([numbered(0)])
    replay.add_online([numbered(100)])
    assert stored(replay) == [0, 1, 2, 3, 100, 101, 102, 103]
    replay.add_online([numbered(200)])  # two rows fit, two replace the oldest online ones
    assert stored(replay) == [0, 1, 2, 3, 202, 203, 102, 103, 200, 201]
    replay.add_online([numbered(300), numbered(400)])  # more than the ring holds at once
    assert stored(replay) == [0, 1, 2, 3, 400, 401, 402, 403, 302, 303]
    assert (replay.offline_size, replay.online_size, len(replay)) == (4, 6, 10)


def test_sampling_is_uniform_over_everything_and_live() -> None:
    replay = Replay(100, seed=1)
    replay.add_offline([numbered(0)])
    assert set(replay.sample(10, 100)["observation"].flatten().int().tolist()) == {0, 1, 2, 3}
    replay.add_online([numbered(100)])
    sample = replay.sample(20, 1000)
    assert sample.shape == (20, 1000)
    values, counts = sample["observation"].int().unique(return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 100, 101, 102, 103]
    assert counts.float().div(2500).sub(1).abs().max() < 0.1
    torch.testing.assert_close(sample["next_observation"], sample["observation"] + 1)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_offline_share_of_each_batch_is_exact(ratio: float) -> None:
    replay = Replay(100, offline_ratio=ratio)
    replay.add_offline([numbered(0)])
    replay.add_online([numbered(100, steps=40)])
    assert (replay.sample(10, 20)["observation"] < 50).sum(dim=(1, 2)).tolist() == [round(20 * ratio)] * 10


def test_same_seed_same_batches_whatever_else_draws_and_however_they_are_cut() -> None:
    one, other = Replay(100, seed=3), Replay(100, seed=3)
    for replay in (one, other):
        replay.add_offline([numbered(0, steps=40)])
    first = one.sample(6, 5)["observation"]
    torch.rand(7)
    second = torch.cat([other.sample(2, 5)["observation"] for _ in range(3)])
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_torchrls_own_sample_draws_as_training_does() -> None:
    one, other = Replay(100, seed=3, offline_ratio=0.25), Replay(100, seed=3, offline_ratio=0.25)
    for replay in (one, other):
        replay.add_offline([numbered(0)])
        replay.add_online([numbered(100, steps=40)])
    batch = one.buffer.sample(20)
    assert (batch["observation"] < 50).sum() == 5
    torch.testing.assert_close(batch["observation"], other.sample(1, 20)["observation"][0], rtol=0, atol=0)


@pytest.mark.parametrize("blocks", [0, 1, 2, 5])
def test_a_restored_buffer_goes_on_as_the_saved_one(blocks: int) -> None:
    saved, restored = Replay(10, seed=3), Replay(10, seed=8)
    for replay in (saved, restored):
        replay.add_offline([numbered(0)])
    for block in range(blocks):
        saved.add_online([numbered(100 * (block + 1))])
    saved.sample(2, 3)
    restored.load_state_dict(saved.state_dict())
    for replay in (saved, restored):
        replay.add_online([numbered(900)])
    assert stored(saved) == stored(restored)
    torch.testing.assert_close(saved.sample(5, 7).to_dict(), restored.sample(5, 7).to_dict(), rtol=0, atol=0)


def test_a_larger_buffer_goes_on_behind_the_rows_of_a_full_one() -> None:
    full, larger = Replay(10), Replay(14)
    for replay in (full, larger):
        replay.add_offline([numbered(0)])
    full.add_online([numbered(100), numbered(200)])
    larger.load_state_dict(full.state_dict())
    assert stored(larger) == [0, 1, 2, 3, 102, 103, 200, 201, 202, 203]  # the oldest first
    larger.add_online([numbered(300)])
    assert stored(larger)[10:] == [300, 301, 302, 303]  # and no empty rows between them
    larger.add_online([numbered(400)])
    assert stored(larger) == [0, 1, 2, 3, 400, 401, 402, 403, 202, 203, 300, 301, 302, 303]


def test_state_holds_only_online_rows() -> None:
    replay = Replay(1000)
    replay.add_offline([numbered(0, steps=200)])
    replay.add_online([numbered(1000)])
    rows = replay.state_dict()["online"]["observation"]
    assert rows.shape == (4, 1)
    assert rows.untyped_storage().nbytes() == 16  # and not the capacity behind them


def test_refusals() -> None:
    with pytest.raises(AwacError, match=r"data.capacity is 4, the datasets hold 4 transitions"):
        Replay(4).add_offline([numbered(0)])
    source, target = Replay(20), Replay(20)
    source.add_offline([numbered(0)])
    target.add_offline([numbered(0, steps=7)])
    with pytest.raises(AwacError, match="had 4 offline transitions, this one has 7"):
        target.load_state_dict(source.state_dict())


def test_weights_say_how_often_a_datasets_rows_are_drawn() -> None:
    replay = Replay(100, seed=1)
    replay.add_offline([numbered(0)], weight=3.0)
    replay.add_offline([numbered(100)], weight=0.5)
    replay.add_online([numbered(200)])
    values, counts = replay.sample(20, 1000)["observation"].int().unique(return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 100, 101, 102, 103, 200, 201, 202, 203]
    expected = torch.tensor([3.0] * 4 + [0.5] * 4 + [1.0] * 4) * 20_000 / 18
    assert (counts / expected - 1).abs().max() < 0.15


def test_weights_and_an_offline_ratio() -> None:
    replay = Replay(100, seed=1, offline_ratio=0.25)
    replay.add_offline([numbered(0)], weight=3.0)
    replay.add_offline([numbered(100)])
    replay.add_online([numbered(200)])
    drawn = replay.sample(50, 400)["observation"].flatten()
    shares = [((drawn >= low) & (drawn < low + 100)).float().mean().item() for low in (0, 100, 200)]
    assert shares[2] == 0.75
    assert shares[0] == pytest.approx(0.25 * 0.75, abs=0.01)


@pytest.mark.parametrize("online", [0, 40])
@pytest.mark.parametrize("ratio", [0.25, 1.0])
def test_a_share_of_each_batch_comes_from_the_demonstrations(ratio: float, online: int) -> None:
    """Exactly that share apart, and beside it what the uniform draw over everything gives."""
    replay = Replay(200, seed=1, demonstration_ratio=ratio)
    replay.add_offline([numbered(0)], demonstrations=True)
    replay.add_offline([numbered(10)], demonstrations=True)  # a dataset arrives in blocks
    replay.add_offline([numbered(100, steps=32)])
    if online:
        replay.add_online([numbered(150, steps=online)])
    drawn = replay.sample(200, 40)["observation"][..., 0]
    apart = round(ratio * 40)
    assert (drawn[:, :apart] < 50).all()
    assert sorted(drawn[:, :apart].unique().tolist()) == [0, 1, 2, 3, 10, 11, 12, 13]
    if apart < 40:
        rest = drawn[:, apart:]
        assert (rest < 50).float().mean().item() == pytest.approx(8 / (40 + online), abs=0.02)
        assert (rest >= 150).float().mean().item() == pytest.approx(online / (40 + online), abs=0.03)


def test_without_a_share_of_demonstrations_the_draws_are_those_of_before() -> None:
    plain, shared = Replay(100, seed=4), Replay(100, seed=4, demonstration_ratio=0.5)
    for replay in (plain, shared):
        replay.add_offline([numbered(0, steps=32)])  # nobody said that these are demonstrations
    torch.testing.assert_close(plain.sample(3, 8)["observation"], shared.sample(3, 8)["observation"], rtol=0, atol=0)


def test_with_self_imitation_episodes_that_succeed_are_demonstrations() -> None:
    """By hand: the demonstration, the recorded success, the online successes while the ring holds them; no failure."""
    replay = Replay(24, seed=1, demonstration_ratio=0.5, self_imitation=True)
    replay.add_offline([failing(0)], demonstrations=True)
    replay.add_offline([failing(10), numbered(20)])

    def apart() -> list[int]:
        return sorted(replay.sample(100, 8)["observation"][:, :4, 0].unique().tolist())

    assert apart() == [0, 1, 2, 3, 20, 21, 22, 23]
    replay.add_online([failing(100), numbered(110), failing(120)])
    assert apart() == [0, 1, 2, 3, 20, 21, 22, 23, 110, 111, 112, 113]
    again = Replay(24, demonstration_ratio=0.5, self_imitation=True)
    again.add_offline([failing(0)], demonstrations=True)
    again.add_offline([failing(10), numbered(20)])
    again.load_state_dict(replay.state_dict())
    assert again.sampler.demonstrations.tolist() == replay.sampler.demonstrations.tolist()
    replay.add_online([failing(130), failing(140)])  # in the places of 100 to 113
    assert apart() == [0, 1, 2, 3, 20, 21, 22, 23]


def test_without_self_imitation_no_success_is_a_demonstration() -> None:
    replay = Replay(24, demonstration_ratio=0.5)
    replay.add_offline([failing(0)], demonstrations=True)
    replay.add_offline([numbered(20)])
    replay.add_online([numbered(110)])
    assert replay.sampler.demonstrations.tolist() == [0, 1, 2, 3]


def test_a_memory_mapped_buffer_holds_the_same(tmp_path) -> None:
    mapped, plain = Replay(50, seed=2, scratch=str(tmp_path)), Replay(50, seed=2)
    for replay in (mapped, plain):
        replay.add_offline([numbered(0)])
        replay.add_online([numbered(100), numbered(200)])
    for key in TRANSITION_KEYS:
        torch.testing.assert_close(mapped.sample(3, 8)[key], plain.sample(3, 8)[key], rtol=0, atol=0)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.memmap")) >= 50 * 4 * 3


def test_a_memory_mapped_buffer_stays_in_its_file_whatever_trains(tmp_path) -> None:
    replay = Replay(50, device="cuda", scratch=str(tmp_path))
    replay.add_offline([numbered(0)])
    assert replay.sample(1, 4).device == torch.device("cpu")


def test_draws_of_another_kind_of_device_are_made_anew_and_said(caplog: pytest.LogCaptureFixture) -> None:
    replay = Replay(20, seed=3)
    replay.add_offline([numbered(0)])
    state = replay.state_dict() | {"generator": torch.zeros(16, dtype=torch.uint8)}  # as long as a CUDA generator's
    replay.load_state_dict(state)
    assert "this run draws other batches" in caplog.text
    assert len(replay.sample(2, 3)) == 2


def test_only_episodes_given_as_demonstrations_count_as_such() -> None:
    replay = Replay(100)
    replay.add_offline([numbered(0)], demonstrations=True)
    replay.add_offline([numbered(10, steps=7)])
    assert replay.demonstration_size == 4


def test_an_episode_that_succeeds_and_fails_again_counts_for_self_imitation() -> None:
    replay = Replay(100, demonstration_ratio=0.5, self_imitation=True)
    replay.add_offline([dataclasses.replace(numbered(0), success=np.array([False, True, False, False]))])
    assert replay.sampler.demonstrations.tolist() == [0, 1, 2, 3]


def test_online_rows_of_a_checkpoint_of_version_0_1_are_no_demonstrations() -> None:
    saved, restored = (Replay(50, demonstration_ratio=0.5) for _ in range(2))
    for replay in (saved, restored):
        replay.add_offline([numbered(0)], demonstrations=True)
    saved.add_online([numbered(100)])
    state = saved.state_dict()
    del state["online"]["demonstration"]
    restored.load_state_dict(state)
    assert restored.sampler.demonstrations.tolist() == [0, 1, 2, 3]


def test_the_offline_share_is_one_of_what_the_demonstrations_leave() -> None:
    replay = Replay(200, seed=1, demonstration_ratio=0.5, offline_ratio=0.5)
    replay.add_offline([numbered(0)], demonstrations=True)
    replay.add_offline([numbered(10, steps=16)])
    replay.add_online([numbered(100, steps=40)])
    drawn = replay.sample(50, 40)["observation"][..., 0]
    assert (drawn[:, :20] < 5).all()
    assert (drawn[:, 20:] < 100).sum(dim=1).tolist() == [10] * 50


def test_every_transition_that_spans_the_end_of_an_episode_is_terminated() -> None:
    ended = dataclasses.replace(numbered(0), terminated=np.array([False, False, False, True]), truncated=np.zeros(4, bool))
    assert to_transitions([ended], n_step=3)["terminated"].tolist() == [False, True, True, True]


@pytest.mark.parametrize("epoch", [3, 4])
def test_a_resumed_run_knows_which_milestones_it_has_passed(epoch: int) -> None:
    """Saved in epoch 3, whose evaluation may begin again: 50,000 steps were passed before both."""
    plan, resumed = (EvaluationPlan(4, 8, offline_epochs=2) for _ in range(2))
    assert [plan.episodes_at(2, 60_000), plan.episodes_at(3, 70_000)] == [8, 4]
    resumed.load_state_dict(plan.state_dict())
    assert resumed.episodes_at(epoch, 10_000 * (epoch + 4)) == 4
