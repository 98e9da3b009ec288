"""The whole update against a plain reference written from the equations, and the Lightning wiring around it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tensordict import TensorDict
from torch import Tensor, nn

from awac_pl.algorithms.awac import AWAC
from awac_pl.algorithms.critics import wake_critics
from awac_pl.algorithms.iql import IQL
from awac_pl.algorithms.rlpd import RLPD
from awac_pl.errors import TrainingDivergedError

OBSERVATION_DIM, ACTION_DIM, BATCH = 4, 2, 32


def make_chunk(num_batches: int, seed: int = 0, batch: int = BATCH) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_batches, batch)
    return TensorDict(
        {
            "observation": torch.randn(*shape, OBSERVATION_DIM, generator=generator),
            "action": torch.rand(*shape, ACTION_DIM, generator=generator) * 2 - 1,
            "reward": -(torch.rand(shape, generator=generator) > 0.3).float(),
            "discount": torch.full(shape, 0.99),
            "next_observation": torch.randn(*shape, OBSERVATION_DIM, generator=generator),
            "terminated": torch.rand(shape, generator=generator) < 0.1,
            "truncated": torch.zeros(shape, dtype=torch.bool),
        },
        batch_size=shape,
    )


def double_chunk(num_batches: int, seed: int = 0) -> TensorDict:
    return make_chunk(num_batches, seed).apply(lambda column: column.double() if column.is_floating_point() else column)


class Chunks(lightning.LightningDataModule):
    """Chunks that were made beforehand."""

    def __init__(self, chunks: list[TensorDict]) -> None:
        super().__init__()
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[TensorDict]:
        return iter(self.chunks)

    def train_dataloader(self) -> Chunks:
        return self

    def val_dataloader(self) -> list:
        return []


def train(
    module: AWAC, chunks: list[TensorDict], seed: int = 7, datamodule: Chunks | None = None, **options
) -> lightning.Trainer:
    trainer = lightning.Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", **options}, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    trainer.fit(module, datamodule=datamodule or Chunks(chunks))
    return trainer


def no_noise(like: Tensor) -> Tensor:
    """In place of ``torch.randn_like``. With ``torch.zeros_like`` itself there, no later test of the process can compile."""
    return torch.zeros_like(like)


def make_module(**options) -> AWAC:
    torch.manual_seed(1)
    defaults = {"return_range": (-100.0, 0.0), "actor_hidden_sizes": (16, 16), "critic_hidden_sizes": (16, 16)}
    return AWAC(observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM, **{**defaults, **options})


class Reference:
    """AWAC written down a second time: one network per critic, two optimizers, nothing shared with the package."""

    def __init__(self, module: AWAC, form: str, baseline: str, clip: float | None, advantage: str) -> None:
        hparams = module.hparams
        self.value_gradient = hparams["value_gradient"]
        self.form, self.baseline, self.clip, self.advantage = form, baseline, clip, advantage
        self.discount, self.tau, self.temperature = hparams["discount"], hparams["polyak"], hparams["temperature"]
        self.target_range = module.target_range
        self.policy = nn.Sequential(
            nn.Linear(OBSERVATION_DIM, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, ACTION_DIM), nn.Tanh()
        )
        linear = [layer for layer in self.policy if isinstance(layer, nn.Linear)]
        for mine, theirs in zip(linear, module.actor.layers, strict=True):
            mine.load_state_dict(theirs.state_dict())
        self.logit = nn.Parameter(module.actor.std_logit.detach().clone())
        self.critics = [self._critic(module, index) for index in range(2)]
        self.targets = copy.deepcopy(self.critics)
        self.actor_optimizer = torch.optim.Adam([*self.policy.parameters(), self.logit], lr=3e-4, weight_decay=1e-4)
        critic_parameters = itertools.chain(*(critic.parameters() for critic in self.critics))
        self.critic_optimizer = torch.optim.Adam(critic_parameters, lr=3e-4)

    def to(self, dtype: torch.dtype) -> None:
        for network in (self.policy, *self.critics, *self.targets):
            network.to(dtype)
        self.logit.data = self.logit.data.to(dtype)

    @staticmethod
    def _critic(module: AWAC, index: int) -> nn.Sequential:
        critic = nn.Sequential(
            nn.Linear(OBSERVATION_DIM + ACTION_DIM, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)
        )
        linear = [layer for layer in critic if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for layer, weight, bias in zip(linear, module.critics.weights, module.critics.biases, strict=True):
                layer.weight.copy_(weight[index].T)
                layer.bias.copy_(bias[index, 0])
        return critic

    def std(self) -> Tensor:
        return (-6 + 6 * torch.sigmoid(self.logit)).exp()

    def q(self, critics: list[nn.Sequential], observation: Tensor, action: Tensor) -> list[Tensor]:
        return [critic(torch.cat([observation, action], 1))[:, 0] for critic in critics]

    def update(self, batch: TensorDict) -> None:
        s, a, r, s2, d = (batch[key] for key in ("observation", "action", "reward", "next_observation", "terminated"))
        with torch.no_grad():
            mean2 = self.policy(s2)
            a2 = (mean2 + torch.randn_like(mean2) * self.std()).clamp(-1, 1)
            y = r + self.discount * (1 - d.float()) * torch.minimum(*self.q(self.targets, s2, a2))
            y = y if self.target_range is None else y.clamp(*self.target_range)
        q = self.q(self.critics, s, a)
        critic_loss = sum(((one - y) ** 2).mean() for one in q)
        mean = self.policy(s)
        actions = [mean]
        if self.baseline == "sampled_actions":
            actions = [(mean + torch.randn_like(mean) * self.std().detach()).clamp(-1, 1) for _ in range(3)]
        policy_q = [self.q(self.critics, s, action) for action in actions]
        uphill = sum((one + other) / 2 for one, other in policy_q) / len(actions)
        with torch.no_grad():
            value = sum(torch.minimum(*pair) for pair in policy_q) / len(actions)
            advantage = (y if self.advantage == "td" else torch.minimum(*q)) - value
            advantage = advantage if self.clip is None else torch.minimum(advantage, torch.tensor(self.clip))
            weight = torch.exp(advantage / self.temperature)
            weight = weight / weight.sum() * len(weight) if self.form == "softmax" else weight.clamp(max=20.0)
        log_prob = torch.distributions.Normal(self.policy(s), self.std()).log_prob(a).sum(1)
        actor_loss = -(weight * log_prob).mean()
        actor_loss = actor_loss - self.value_gradient * uphill.mean() / uphill.detach().abs().mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.critic_optimizer.zero_grad()  # the actor's loss left gradients there
        critic_loss.backward()
        self.critic_optimizer.step()
        self.actor_optimizer.step()
        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for online, slow in zip(critic.parameters(), target.parameters(), strict=True):
                    slow.copy_((1 - self.tau) * slow + self.tau * online)


@pytest.mark.parametrize("compile_mode", ["off", "by_hand"])
@pytest.mark.parametrize(
    ("form", "baseline", "clip", "clamp", "advantage", "value_gradient", "dtype"),
    [
        ("softmax", "mean_action", 0.5, True, "critic", 0.0, torch.float32),
        ("softmax", "mean_action", 0.5, True, "critic", 0.0, torch.float64),
        ("exp", "sampled_actions", None, False, "critic", 0.0, torch.float32),
        ("softmax", "mean_action", 0.5, True, "td", 2.5, torch.float32),
        ("softmax", "sampled_actions", 0.5, True, "td", 2.5, torch.float64),
    ],
)
def test_updates_equal_the_reference_parameter_by_parameter(
    form: str, baseline: str, clip: float | None, clamp: bool, advantage: str, value_gradient: float, dtype: torch.dtype,
    compile_mode: str,
) -> None:  # fmt: skip
    """After 20 updates in single precision, and after 200 in double, where rounding has no time to grow."""
    module = make_module(
        weight_form=form,
        baseline=baseline,
        baseline_samples=3,
        advantage_clip=clip,
        clamp_target=clamp,
        max_weight=20.0,
        advantage=advantage,
        value_gradient=value_gradient,
        compile=compile_mode,
    )
    single = dtype == torch.float32
    reference = Reference(module, form, baseline, clip, advantage)
    reference.to(dtype)
    chunk = make_chunk(20 if single else 200)
    chunk = chunk.apply(lambda column: column.to(dtype) if column.is_floating_point() else column)
    torch.manual_seed(7)
    for batch in chunk.unbind(0):
        reference.update(batch)
    train(module, [chunk], precision="32-true" if single else "64-true")

    close = {"rtol": 1e-4, "atol": 1e-6} if single else {"rtol": 1e-9, "atol": 1e-11}
    linear = [layer for layer in reference.policy if isinstance(layer, nn.Linear)]
    for mine, theirs in zip(module.actor.layers, linear, strict=True):
        torch.testing.assert_close(mine.weight, theirs.weight, **close)
        torch.testing.assert_close(mine.bias, theirs.bias, **close)
    torch.testing.assert_close(module.actor.std_logit, reference.logit, **close)
    for ours, expected in ((module.critics, reference.critics), (module.target_critics, reference.targets)):
        for index, critic in enumerate(expected):
            linear = [layer for layer in critic if isinstance(layer, nn.Linear)]
            for layer, weight, bias in zip(linear, ours.weights, ours.biases, strict=True):
                torch.testing.assert_close(weight[index].T, layer.weight, **close)
                torch.testing.assert_close(bias[index, 0], layer.bias, **close)


OPTIONS = [
    {},
    {"critic_layer_norm": True, "advantage": "td", "value_gradient": 3.0, "log_std_range": (-5.0, -2.0)},
    {"critic_layer_norm": True, "num_critics": 3, "clip_next_action": False, "initial_std": 0.6},
    {"critic_max_output": -0.02, "clamp_target": False, "value_gradient": 2.0},  # above some of the values, below others
    {
        "baseline": "sampled_actions", "baseline_samples": 2, "initial_std": 0.8, "value_gradient": 1.0,
        "critic_max_output": 0.0, "critic_layer_norm": True,
    },
    {"baseline": "sampled_actions", "initial_std": 0.8, "value_gradient": 1.0, "clip_next_action": False},
    {"weight_form": "exp", "temperature": 2.0, "max_weight": 1.5, "advantage_clip": None, "actor_weight_decay": 0.0},
    {"actor_hidden_sizes": (9,), "critic_hidden_sizes": (7, 5, 3), "learning_rate": 1e-2},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_written_out_equal_autograds(options: dict) -> None:
    """200 updates in double precision; and the metrics, and what the optimizer holds."""
    chunk = make_chunk(100).apply(lambda column: column.double() if column.is_floating_point() else column)
    modules, metrics, states = [], [], []
    for mode in ("off", "by_hand"):
        module = make_module(compile=mode, **options)
        trainer = train(module, [chunk, chunk], precision="64-true")
        assert module.compile_mode == mode
        modules.append(module.state_dict())
        metrics.append(dict(trainer.callback_metrics))
        states.append(trainer.optimizers[0].state_dict())
    close = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(modules[0], modules[1], **close)
    torch.testing.assert_close(metrics[0], metrics[1], **close)
    torch.testing.assert_close(states[0], states[1], **close)


@pytest.mark.parametrize("mode", ["off", "by_hand"])
def test_critics_that_start_above_their_clamp_are_woken_and_learn(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every value starts above the bound of one critic: unaided, no gradient would ever reach it."""
    module = make_module(critic_max_output=0.0, compile=mode)
    with torch.no_grad():
        for ensemble in (module.critics, module.target_critics):
            ensemble.biases[-1][0] = 5.0
            ensemble.biases[-1][1] = -5.0
    batch = make_chunk(1)[0]
    assert (module.critics(batch["observation"], batch["action"])[0] == 0).all()
    module.loss(batch)[0].backward()
    assert not any(weight.grad[0].any() for weight in module.critics.weights)
    module.zero_grad()
    before = [weight.detach().clone() for weight in module.critics.weights]
    trainer = train(module, [make_chunk(5), make_chunk(5, seed=1)])
    (line,) = [record.message for record in caplog.records if "critic_max_output" in record.message]
    assert line.startswith("critic 0 starts with all its values above model.critic_max_output 0 and would never learn")
    for old, new in zip(before, module.critics.weights, strict=True):
        assert (old[0] != new[0]).any()
        assert (old[1] != new[1]).any()
    assert 0 < trainer.callback_metrics["train/critic_at_bound"] < 1


def test_critics_that_can_learn_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    module = make_module(critic_max_output=0.0)
    with torch.no_grad():
        module.critics.biases[-1].fill_(-1.0)
    before = module.critics.biases[-1].clone()
    batch = make_chunk(1)[0]
    wake_critics(module.critics, module.target_critics, batch["observation"], batch["action"])
    torch.testing.assert_close(before, module.critics.biases[-1], rtol=0, atol=0)
    assert not caplog.records


def test_the_next_action_is_clipped_where_asked() -> None:
    """Targets that are Q'(s', a') = a'_0, an actor that says 0 and a deviation of 0.9: unclipped, some lie above 1."""
    for clip in (True, False):
        module = make_module(
            clip_next_action=clip, clamp_target=False, critic_hidden_sizes=(), discount=1.0 - 1e-6, initial_std=0.9
        )
        with torch.no_grad():
            for parameter in (*module.target_critics.parameters(), *module.actor.layers.parameters()):
                parameter.zero_()
            module.target_critics.weights[0][:, OBSERVATION_DIM] = 1.0
        batch = make_chunk(1, batch=4096)[0]
        batch["reward"].zero_()
        batch["discount"].fill_(1.0)
        batch["terminated"].zero_()
        torch.manual_seed(0)
        target_mean_square = module.loss(batch)[1]["train/critic_loss"].item()
        noise = 0.9 * torch.randn(1_000_000)
        noise = noise.clamp(-1, 1) if clip else noise
        q = module.critics(batch["observation"], batch["action"])
        expected = 2 * noise.square().mean() + q.square().mean(dim=1).sum()  # noise is independent of q
        assert target_mean_square == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize("options", [{}, OPTIONS[-1]])
@pytest.mark.parametrize("mode", ["off", "by_hand"])
def test_chunks_of_one_and_of_many_give_the_same_numbers(mode: str, options: dict) -> None:
    chunk = make_chunk(12)
    one, many = make_module(compile=mode, **options), make_module(compile=mode, **options)
    train(one, [chunk[index : index + 1] for index in range(12)])
    train(many, [chunk])
    torch.testing.assert_close(one.state_dict(), many.state_dict(), rtol=0, atol=0)


def test_counters_and_lightnings_steps() -> None:
    module = make_module()
    trainer = train(module, [make_chunk(5), make_chunk(5, seed=1)], max_epochs=3)
    assert int(module.updates) == 30
    assert trainer.global_step == 6  # one per chunk: max_steps, checkpoints and loggers count as they should


def test_both_losses_reach_their_own_parameters_alone() -> None:
    module = make_module()
    loss, _ = module.loss(make_chunk(1)[0])
    loss.backward()
    assert all(parameter.grad is not None for part in (module.actor, module.critics) for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in module.target_critics.parameters())
    together = {name: parameter.grad.clone() for name, parameter in module.critics.named_parameters()}

    changed = make_module()
    changed.load_state_dict(module.state_dict())
    torch.manual_seed(0)
    batch = make_chunk(1)[0]
    batch["action"] = batch["action"].clone()
    changed.options = replace(changed.options, temperature=100.0)  # another actor loss altogether
    torch.manual_seed(1)
    module.zero_grad()
    module.loss(batch)[0].backward()
    torch.manual_seed(1)
    changed.loss(batch)[0].backward()
    for name, parameter in changed.critics.named_parameters():
        torch.testing.assert_close(parameter.grad, dict(module.critics.named_parameters())[name].grad, rtol=0, atol=0)
    assert set(together) == {name for name, _ in changed.critics.named_parameters()}


def test_value_gradient_moves_the_actor_uphill_and_leaves_the_critics_alone() -> None:
    plain, uphill = make_module(), make_module(value_gradient=1e6)
    batch = make_chunk(1)[0]
    gradients = []
    for module in (plain, uphill):
        torch.manual_seed(3)
        module.loss(batch)[0].backward()
        gradients.append([parameter.grad for parameter in module.critics.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)

    def value() -> float:
        observation = batch["observation"]
        return uphill.critics(observation, uphill.actor(observation)).mean().item()

    before = value()
    with torch.no_grad():
        for parameter in uphill.actor.parameters():
            if parameter.grad is not None:
                parameter -= 1e-9 * parameter.grad
    assert value() > before


@pytest.mark.parametrize(
    ("offline", "online", "epochs", "expected"),
    [
        (None, 5.0, 0, [5.0, 5.0, 5.0, 5.0, 5.0]),
        (2.0, 5.0, 0, [2.0, 2.0, 5.0, 5.0, 5.0]),
        (0.0, 5.0, 2, [0.0, 0.0, 0.0, 2.5, 5.0]),
        (8.0, 0.0, 4, [8.0, 8.0, 8.0, 6.0, 4.0]),
    ],
)
def test_the_value_gradient_goes_from_one_value_to_another(
    offline: float | None, online: float, epochs: int, expected: list[float]
) -> None:
    """In the same place in memory, where a CUDA graph and compiled code find it; the options stay as they are."""

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            seen.append(float(pl_module.value_gradient))
            fixed.add((pl_module.value_gradient.data_ptr(), pl_module.options))

    trained = []
    for mode in ("off", "by_hand"):
        seen: list[float] = []
        fixed: set[tuple] = set()
        data = Chunks([make_chunk(3)])
        data.offline_epochs = 2
        module = make_module(
            value_gradient=online, offline_value_gradient=offline, value_gradient_epochs=epochs, compile=mode
        )
        train(module, [], datamodule=data, max_epochs=5, callbacks=[Watch()])
        assert seen == expected
        assert len(fixed) == 1
        trained.append(module.state_dict())
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("success", "online_epoch", "expected"),
    [
        (1.0, -1, 100.0),
        (1.0, 0, 100.0),
        (1.0, 50, 250.0),
        (1.0, 100, 400.0),
        (0.5, 0, 100.0),
        (0.5, 5, 160.0),
        (0.5, 25, 400.0),
        (0.1, 1, 400.0),
        (0.0, 0, 400.0),
        (0.0, -1, 100.0),
    ],
)
def test_the_value_gradient_rises_slowly_where_training_episodes_succeed(
    success: float, online_epoch: int, expected: float
) -> None:
    module = make_module(value_gradient=400.0, offline_value_gradient=100.0, value_gradient_epochs=100)
    module.training_success = success
    assert module.value_gradient_of(online_epoch) == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["off", "by_hand"])
def test_the_value_gradient_of_an_epoch_is_the_one_of_the_update(mode: str) -> None:
    """One epoch with 3 is one epoch whose value would be 5 later on."""
    now = make_module(value_gradient=3.0, compile=mode)
    later = make_module(value_gradient=5.0, offline_value_gradient=3.0, value_gradient_epochs=1, compile=mode)
    for module in (now, later):
        train(module, [make_chunk(4)])
    torch.testing.assert_close(now.state_dict(), later.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["off", "by_hand"])
def test_the_average_of_the_actor_acts_and_changes_no_update(mode: str) -> None:
    """By hand: after each update the average moves a tenth of the way to the actor."""
    plain, averaged = make_module(compile=mode), make_module(compile=mode, actor_average=0.1)
    expected = [parameter.detach().clone() for parameter in averaged.actor.parameters()]
    for index in range(6):
        chunk = make_chunk(1, seed=index)
        train(plain, [chunk], seed=index)
        train(averaged, [chunk], seed=index)
        for slow, now in zip(expected, plain.actor.parameters(), strict=True):
            slow += 0.1 * (now.detach() - slow)
    torch.testing.assert_close(dict(plain.actor.named_parameters()), dict(averaged.actor.named_parameters()), rtol=0, atol=0)
    assert averaged.average_actor is not None
    torch.testing.assert_close(list(averaged.average_actor.parameters()), expected, rtol=1e-5, atol=1e-7)
    observation = torch.randn(OBSERVATION_DIM)
    acted = averaged.policy(deterministic=True).act(observation.numpy(), np.random.default_rng(0))
    torch.testing.assert_close(torch.from_numpy(acted), averaged.average_actor(observation[None])[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(torch.from_numpy(acted), averaged.actor(observation[None])[0], rtol=1e-5, atol=1e-6)


def test_chunks_of_one_move_the_average_as_chunks_of_many_do() -> None:
    chunk = make_chunk(12)
    one, many = make_module(actor_average=0.05), make_module(actor_average=0.05)
    train(one, [chunk[index : index + 1] for index in range(12)])
    train(many, [chunk])
    torch.testing.assert_close(one.state_dict(), many.state_dict(), rtol=0, atol=0)


def test_a_run_without_an_average_has_the_state_of_version_0_1() -> None:
    assert {name.split(".")[0] for name in make_module().state_dict()} == {
        "actor", "critics", "target_critics", "updates", "env_steps",
    }  # fmt: skip


def test_targets_start_as_copies_or_on_their_own() -> None:
    def equal(module: AWAC) -> bool:
        return all(torch.equal(*pair) for pair in zip(module.critics.weights, module.target_critics.weights, strict=True))

    assert equal(make_module())
    assert not equal(make_module(initialization="rlkit"))


@pytest.mark.parametrize("mode", ["off", "by_hand"])
def test_normalised_observations_are_those_of_the_demonstrations(mode: str) -> None:
    """A run on observations in other units learns as one on normalised observations, and acts on them as they come."""
    demonstrations = make_chunk(1, seed=5)[0]["observation"] * 3 + 7
    mean, scale = demonstrations.mean(dim=0), demonstrations.std(dim=0, correction=0)
    chunk = make_chunk(10)
    columns = {key: chunk[key] * scale + mean for key in ("observation", "next_observation")}
    data = Chunks([chunk.copy().update(columns)])
    data.demonstrations = lambda: demonstrations
    there = make_module(normalize_observations=True, compile=mode)
    train(there, [], datamodule=data)
    here = make_module(compile=mode)
    train(here, [chunk])
    for name, weight in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    seen = columns["observation"][0]
    action = there.policy(deterministic=True).act(seen[0].numpy(), np.random.default_rng(0))
    torch.testing.assert_close(torch.from_numpy(action), there.mean_action(seen)[0].detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(there.mean_action(seen), here.mean_action(chunk["observation"][0]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("learner", [AWAC, IQL, RLPD])
@pytest.mark.parametrize(("normalize_critics", "expected"), [(1.0, 1.5), (0.5, 3.0), (0.0, 6.0)])
def test_critics_get_normalised_observations_or_keep_their_deviations(
    learner, normalize_critics: float, expected: float
) -> None:
    """Every call of a critic in the loss, by an observation of 10 whose mean is 4 and whose deviation is 4."""
    module = learner(
        observation_dim=OBSERVATION_DIM,
        action_dim=ACTION_DIM,
        normalize_observations=True,
        normalize_critics=normalize_critics,
    )
    module.normalizer.mean.fill_(4.0)
    module.normalizer.scale.fill_(4.0)
    batch = make_chunk(1)[0]
    columns = {key: torch.full_like(batch[key], 10.0) for key in ("observation", "next_observation")}
    seen: list[float] = []
    for name in ("critics", "target_critics", "value"):
        if hasattr(module, name):
            getattr(module, name).register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].flatten().tolist()))
    module.loss(module.normalized(batch.copy().update(columns)))
    assert set(seen) == {expected}


def test_critics_that_keep_the_deviations_learn_the_same_by_hand() -> None:
    demonstrations = make_chunk(1, seed=5)[0]["observation"] * torch.arange(1.0, OBSERVATION_DIM + 1) + 7
    trained = []
    for mode in ("off", "by_hand"):
        data = Chunks([make_chunk(10)])
        data.demonstrations = lambda: demonstrations
        module = make_module(normalize_observations=True, normalize_critics=0.5, value_gradient=10.0, compile=mode)
        train(module, [], datamodule=data)
        trained.append(module.state_dict())
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-4, atol=1e-5)


def test_it_is_said_that_half_normalised_critics_need_normalised_observations(caplog: pytest.LogCaptureFixture) -> None:
    train(make_module(normalize_critics=0.5), [make_chunk(2)])
    assert "model.normalize_critics 0.5 does nothing without model.normalize_observations" in caplog.messages


def test_weight_decay_is_the_actors_alone() -> None:
    groups = make_module(actor_weight_decay=0.01).configure_optimizers().param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    chunk = make_chunk(5)
    chunk["reward"][3, 0] = float("nan")
    with pytest.raises(TrainingDivergedError, match="the loss is nan at update 5"):
        train(make_module(), [chunk])


def test_metrics_by_hand() -> None:
    module = make_module(weight_form="exp", temperature=1e9, advantage_clip=None)  # all weights are 1
    batch = make_chunk(1)[0]
    metrics = module.loss(batch)[1]
    assert metrics["train/weight_effective"].item() == pytest.approx(1.0)
    assert metrics["train/success_rows"].item() == pytest.approx((batch["reward"] == 0).float().mean().item())
    assert metrics["train/success_weight"].item() == pytest.approx(metrics["train/success_rows"].item())
    assert metrics["train/policy_std"].item() == pytest.approx(0.05)


def test_it_prefers_the_better_action() -> None:
    """One state, two actions, one rewarded: the policy must move to it, and would not with the advantage's sign flipped."""
    generator = torch.Generator().manual_seed(0)
    action = torch.where(torch.rand(60, 64, 1, generator=generator) < 0.5, -0.5, 0.5)
    chunk = TensorDict(
        {
            "observation": torch.ones(60, 64, 1),
            "action": action,
            "reward": torch.where(action[..., 0] > 0, 0.0, -1.0),
            "discount": torch.full((60, 64), 0.99),
            "next_observation": torch.ones(60, 64, 1),
            "terminated": torch.ones(60, 64, dtype=torch.bool),
            "truncated": torch.zeros(60, 64, dtype=torch.bool),
        },
        batch_size=[60, 64],
    )
    torch.manual_seed(0)
    module = AWAC(observation_dim=1, action_dim=1, learning_rate=3e-3, temperature=0.1, advantage_clip=None)
    train(module, [chunk] * 5)
    assert module.actor(torch.ones(1, 1)).item() > 0.4


def test_the_uphill_step_is_scaled_by_the_values_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other rank's values are 9 times as large: the scale is 5 times this rank's own."""
    gradients = []
    for together in (False, True):
        module = make_module(value_gradient=10.0 if together else 2.0, weight_form="exp", max_weight=1.0)
        if together:
            monkeypatch.setattr("awac_pl.algorithms.awac.gather", lambda value: torch.cat([value, 9 * value]))
            monkeypatch.setattr("awac_pl.algorithms.awac.own_part", lambda value: value[: len(value) // 2])
        torch.manual_seed(3)
        module.loss(make_chunk(1)[0])[0].backward()
        gradients.append([parameter.grad for parameter in module.actor.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_average_actor_starts_as_the_actor_also_with_rlkits_weights() -> None:
    module = make_module(initialization="rlkit", actor_average=0.1)
    assert module.average_actor is not None
    torch.testing.assert_close(module.average_actor.state_dict(), module.actor.state_dict(), rtol=0, atol=0)


def test_critics_are_woken_with_the_observations_that_they_get(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr("awac_pl.algorithms.awac.wake_critics", lambda critics, targets, state, action: seen.append(state))
    module = make_module(critic_max_output=0.0, normalize_observations=True, normalize_critics=0.0)
    assert module.normalizer is not None
    module.normalizer.scale.fill_(4.0)
    batch = make_chunk(1)[0]
    module.before_first_update(batch)
    torch.testing.assert_close(seen[0], 4 * batch["observation"])


@pytest.mark.parametrize("mean", [0.01, 5.0])
def test_only_critics_that_cannot_learn_are_lowered_and_their_targets_with_them(mean: float) -> None:
    """With a mean of 0.01 some values lie below the bound of 0, so that critic learns; with 5 none does."""
    module = make_module(critic_max_output=0.0)
    batch = make_chunk(1)[0]
    pair = batch["observation"], batch["action"]
    with torch.no_grad():
        module.critics.biases[-1][0] += mean - module.critics.unclamped(*pair)[0].mean()
    module.target_critics.load_state_dict(module.critics.state_dict())
    before = module.critics.biases[-1].detach().clone()
    wake_critics(module.critics, module.target_critics, *pair)
    values = module.critics.unclamped(*pair)[0]
    torch.testing.assert_close(module.target_critics.state_dict(), module.critics.state_dict(), rtol=0, atol=0)
    if mean == 5.0:
        assert values.mean().item() == pytest.approx(0, abs=1e-5)
    else:
        assert values.min() < 0 < values.mean()
        torch.testing.assert_close(module.critics.biases[-1], before, rtol=0, atol=0)
