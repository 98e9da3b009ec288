"""IQL, RLPD and BC: their losses by hand, their updates against plain references, their policy in its two forms."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from awac_pl.algorithms import losses
from awac_pl.algorithms.base import Learner
from awac_pl.algorithms.bc import BC
from awac_pl.algorithms.checkpoints import load_module
from awac_pl.algorithms.critics import CriticEnsemble
from awac_pl.algorithms.iql import IQL
from awac_pl.algorithms.rlpd import RLPD
from awac_pl.commands.main import main
from awac_pl.commands.presets import algorithm_of
from awac_pl.deploy.runner import PolicyRunner
from awac_pl.errors import AwacError
from awac_pl.policies.actor import Normalizer, SquashedActor
from awac_pl.policies.policy import UniformPolicy
from awac_pl.report.improvement import improvement_rows
from awac_pl.report.page import write_report
from awac_pl.report.statistics import probability_of_improvement
from awac_pl.runs.grouping import group_runs
from awac_pl.runs.manifest import read_manifest
from awac_pl.runs.metrics import read_metrics
from awac_pl.runs.reading import read_runs
from tests.conftest import REACH, ROOT
from tests.run_folders import make_rows, make_run
from tests.test_module import ACTION_DIM, OBSERVATION_DIM, Chunks, double_chunk, make_chunk, train

CLOSE = {"rtol": 1e-7, "atol": 1e-9}


def make(algorithm: type[Learner], **options) -> Learner:
    torch.manual_seed(1)
    critics = {} if algorithm is BC else {"critic_hidden_sizes": (16, 16)}
    return algorithm(
        observation_dim=OBSERVATION_DIM, action_dim=ACTION_DIM, actor_hidden_sizes=(16, 16), actor_weight_decay=0.0,
        **critics, **options,
    )  # fmt: skip


def test_the_target_takes_no_more_critics_than_there_are() -> None:
    with pytest.raises(AwacError, match=r"model.num_target_critics is 2; model.num_critics is 1 only"):
        make(RLPD, num_critics=1)


def network(weights: list[Tensor], biases: list[Tensor], norm: bool = False) -> nn.Sequential:
    """A plain network in double precision, of weights ``[in, out]``."""
    parts: list[nn.Module] = []
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        layer = nn.Linear(*weight.shape).double()
        with torch.no_grad():
            layer.weight.copy_(weight.T)
            layer.bias.copy_(bias)
        parts.append(layer)
        if index < len(weights) - 1:
            parts += [nn.LayerNorm(weight.shape[1], elementwise_affine=False).double()] if norm else []
            parts.append(nn.ReLU())
    return nn.Sequential(*parts)


def members(ensemble: CriticEnsemble, norm: bool = False) -> list[nn.Sequential]:
    return [
        network([weight[index] for weight in ensemble.weights], [bias[index, 0] for bias in ensemble.biases], norm)
        for index in range(len(ensemble.weights[0]))
    ]


def actor_network(module: Learner) -> nn.Sequential:
    return network([layer.weight.T for layer in module.actor.layers], [layer.bias for layer in module.actor.layers])


def check(ours: CriticEnsemble, expected: list[nn.Sequential]) -> None:
    for index, critic in enumerate(expected):
        linear = [layer for layer in critic if isinstance(layer, nn.Linear)]
        for layer, weight, bias in zip(linear, ours.weights, ours.biases, strict=True):
            torch.testing.assert_close(weight[index].T, layer.weight, **CLOSE)
            torch.testing.assert_close(bias[index, 0], layer.bias, **CLOSE)


def check_actor(module: Learner, expected: nn.Sequential) -> None:
    linear = [layer for layer in expected if isinstance(layer, nn.Linear)]
    for mine, theirs in zip(module.actor.layers, linear, strict=True):
        torch.testing.assert_close(mine.weight, theirs.weight, **CLOSE)
        torch.testing.assert_close(mine.bias, theirs.bias, **CLOSE)


def adam(*networks: nn.Module, extra: tuple[Tensor, ...] = ()) -> torch.optim.Adam:
    return torch.optim.Adam([*(parameter for one in networks for parameter in one.parameters()), *extra], lr=3e-4)


def move(targets: list[nn.Sequential], onlines: list[nn.Sequential]) -> None:
    with torch.no_grad():
        for target, online in zip(targets, onlines, strict=True):
            for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
                slow.copy_(0.995 * slow + 0.005 * fast)


def gaussian(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, log_std.exp()).log_prob(action).sum(1)


def test_expectile_loss_by_hand() -> None:
    difference = torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert losses.expectile_loss(difference, 0.8).item() == pytest.approx((0.8 * 4 + 0.2 * 1) / 2)
    assert losses.expectile_loss(difference, 0.5).item() == pytest.approx(0.5 * (4 + 1) / 2)


def test_its_minimum_is_the_expectile() -> None:
    """Of the values 0 and 1 it is tau: there, tau (1 - v) = (1 - tau) v."""
    estimate = torch.tensor(0.7, requires_grad=True)
    losses.expectile_loss(torch.tensor([0.0, 1.0]) - estimate, 0.7).backward()
    assert estimate.grad.item() == pytest.approx(0, abs=1e-6)


def test_soft_actor_and_entropy_losses_by_hand() -> None:
    q, log_prob = torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 4.0])
    assert losses.soft_actor_loss(q, log_prob, torch.tensor(0.5)).item() == pytest.approx((-1 - 1 + 2 - 3) / 2)
    log_weight = torch.tensor(math.log(0.5), requires_grad=True)
    loss = losses.entropy_loss(log_prob, log_weight, target_entropy=-3.0)
    assert loss.item() == pytest.approx(0.5 * ((2 + 3) + (-4 + 3)) / 2)
    loss.backward()
    assert log_weight.grad.item() == pytest.approx(1.0)  # entropy -1 is above its target -3: the weight falls
    with pytest.raises(ValueError, match="expected one batch dimension"):
        losses.soft_actor_loss(q[:, None], log_prob, torch.tensor(0.5))


def test_iql_equals_a_plain_reference() -> None:
    module = make(IQL, temperature=0.4, max_weight=1.5)
    actor, value = actor_network(module), members(module.value)[0]
    critics = members(module.critics)
    targets, logit = copy.deepcopy(critics), nn.Parameter(module.actor.std_logit.detach().double())
    optimizer = adam(actor, value, *critics, extra=(logit,))
    chunk = double_chunk(20)
    for batch in chunk.unbind(0):
        s, a, s2 = batch["observation"], batch["action"], batch["next_observation"]
        pair = torch.cat([s, a], 1)
        with torch.no_grad():
            q_target = torch.minimum(*(target(pair)[:, 0] for target in targets))
            y = batch["reward"] + 0.99 * (1 - batch["terminated"].double()) * value(s2)[:, 0]
        difference = q_target - value(s)[:, 0]
        loss = sum(tau * part.square().sum() for tau, part in ((0.8, difference.relu()), (0.2, (-difference).relu()))) / len(
            s
        )
        loss = loss + sum(((critic(pair)[:, 0] - y) ** 2).mean() for critic in critics)
        weight = (difference.detach() / 0.4).exp().clamp(max=1.5)
        log_std = -6 + 6 * torch.sigmoid(logit)
        loss = loss - (weight * gaussian(torch.tanh(actor(s)), log_std, a)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        move(targets, critics)
    train(module, [chunk], precision="64-true")
    check(module.critics, critics)
    check(module.target_critics, targets)
    check(module.value, [value])
    check_actor(module, actor)
    torch.testing.assert_close(module.actor.std_logit, logit, **CLOSE)


@pytest.mark.parametrize(("actor_every", "entropy_in_target"), [(1, False), (4, True)])
def test_rlpd_equals_a_plain_reference(actor_every: int, entropy_in_target: bool) -> None:
    module = make(
        RLPD, num_critics=4, actor_every=actor_every, entropy_in_target=entropy_in_target, initial_entropy_weight=0.3
    )
    actor, critics = actor_network(module), members(module.critics, norm=True)
    targets, log_alpha = copy.deepcopy(critics), nn.Parameter(module.log_entropy_weight.detach().double())
    optimizers = adam(actor, extra=(log_alpha,)), adam(*critics)
    chunk = double_chunk(20)

    def sample(observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor(observation).chunk(2, dim=1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = mean + torch.randn_like(mean) * log_std.clamp(-20, 2).exp()
        return torch.tanh(u), (normal.log_prob(u) - torch.log(1 - torch.tanh(u) ** 2)).sum(1)

    torch.manual_seed(7)
    for index, batch in enumerate(chunk.unbind(0)):
        s, a, s2 = batch["observation"], batch["action"], batch["next_observation"]
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            a2, log_prob2 = sample(s2)
            one, other = torch.rand(4, dtype=torch.float64).topk(2).indices.tolist()
            q2 = torch.minimum(*(targets[k](torch.cat([s2, a2], 1))[:, 0] for k in (one, other)))
            q2 = q2 - alpha * log_prob2 if entropy_in_target else q2
            y = batch["reward"] + 0.99 * (1 - batch["terminated"].double()) * q2
        critic_loss = sum(((critic(torch.cat([s, a], 1))[:, 0] - y) ** 2).mean() for critic in critics)
        if turn := index % actor_every == actor_every - 1:
            action, log_prob = sample(s)
            q = sum(critic(torch.cat([s, action], 1))[:, 0] for critic in critics) / 4
            actor_loss = (alpha * log_prob - q).mean() + log_alpha.exp() * (-log_prob.detach() + ACTION_DIM / 2).mean()
            optimizers[0].zero_grad()
            actor_loss.backward()
        optimizers[1].zero_grad()
        critic_loss.backward()
        optimizers[1].step()
        if turn:
            optimizers[0].step()
        move(targets, critics)
    train(module, [chunk], precision="64-true")
    check(module.critics, critics)
    check(module.target_critics, targets)
    check_actor(module, actor)
    torch.testing.assert_close(module.log_entropy_weight, log_alpha, **CLOSE)


def test_bc_is_cloning_and_feels_no_reward() -> None:
    module, chunk = make(BC), double_chunk(20)
    actor, logit = actor_network(module), nn.Parameter(module.actor.std_logit.detach().double())
    optimizer = adam(actor, extra=(logit,))
    for batch in chunk.unbind(0):
        loss = -gaussian(torch.tanh(actor(batch["observation"])), -6 + 6 * torch.sigmoid(logit), batch["action"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    train(module, [chunk], precision="64-true")
    check_actor(module, actor)
    other = make(BC)
    train(other, [chunk.set("reward", torch.zeros(chunk.shape, dtype=torch.float64))], precision="64-true")
    torch.testing.assert_close(other.state_dict(), module.state_dict())


def test_the_density_behind_the_tanh_is_that_of_torch() -> None:
    torch.manual_seed(0)
    actor = SquashedActor(OBSERVATION_DIM, ACTION_DIM, (16,)).double()
    observation = torch.randn(64, OBSERVATION_DIM, dtype=torch.float64)
    action, log_prob = actor.sample(observation)
    mean, log_std = actor.distribution(observation)
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(log_prob, squashed.log_prob(action).sum(1))
    assert action.abs().max() < 1


def test_the_density_is_finite_where_the_tanh_is_flat() -> None:
    actor = SquashedActor(1, 1, (4,))
    with torch.no_grad():
        actor.layers[-1].bias[0] = 50.0
    _, log_prob = actor.sample(torch.zeros(8, 1))
    assert torch.isfinite(log_prob).all()


@pytest.mark.parametrize("normalise", [False, True])
def test_the_numpy_policy_acts_as_the_squashed_actor(normalise: bool) -> None:
    torch.manual_seed(0)
    actor, normalizer = SquashedActor(OBSERVATION_DIM, ACTION_DIM, (16, 16)), None
    observation = torch.randn(OBSERVATION_DIM)
    if normalise:
        normalizer = Normalizer(OBSERVATION_DIM)
        normalizer.mean.uniform_(-1, 1)
        normalizer.scale.uniform_(0.5, 2)
    inputs = observation[None] if normalizer is None else normalizer(observation[None])
    mean, log_std = (part[0].detach().numpy() for part in actor.distribution(inputs))
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(actor.to_numpy(True, normalizer).act(observation.numpy(), rng), np.tanh(mean), atol=1e-6)
    action = actor.to_numpy(False, normalizer).act(observation.numpy(), np.random.default_rng(3))
    noise = np.random.default_rng(3).standard_normal(ACTION_DIM, dtype=np.float32)
    np.testing.assert_allclose(action, np.tanh(mean + np.exp(log_std) * noise), atol=1e-6)
    assert action.dtype == np.float32


def test_random_actions_are_uniform_within_the_bounds() -> None:
    rng = np.random.default_rng(0)
    actions = np.stack([UniformPolicy(2).act(np.zeros(3), rng) for _ in range(4000)])
    assert (actions.dtype, actions.shape) == (np.float32, (4000, 2))
    assert np.abs(actions).max() <= 1
    np.testing.assert_allclose(actions.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(actions.std(0), 1 / math.sqrt(3), atol=0.02)


def test_between_its_turns_the_actor_rests() -> None:
    module = make(RLPD, num_critics=3, actor_every=5)
    before = copy.deepcopy(module.state_dict())
    train(module, [make_chunk(4)])  # of 4 updates none is its turn
    after = module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith(("actor.", "log_entropy")))
    assert not torch.equal(after["critics.weights.0"], before["critics.weights.0"])


def test_a_turn_that_does_not_fit_the_chunk_is_refused() -> None:
    module, data = make(RLPD, num_critics=3, actor_every=3), Chunks([make_chunk(4)])
    data.chunk_size = 50
    with pytest.raises(AwacError, match=r"model\.actor_every 3 is no divisor of data\.chunk_size 50"):
        train(module, [], datamodule=data)


def test_a_checkpoint_of_another_algorithm_is_refused() -> None:
    with pytest.raises(AwacError, match="the checkpoint is of the algorithm IQL, not of RLPD"):
        make(RLPD).on_load_checkpoint({"algorithm": "IQL"})


def test_only_some_target_critics_are_asked() -> None:
    torch.manual_seed(0)
    ensemble = CriticEnsemble(3, 2, (8,), num_critics=5)
    observation, action = torch.randn(6, 3), torch.randn(6, 2)
    drawn = torch.tensor([4, 1])
    torch.testing.assert_close(ensemble(observation, action, members=drawn), ensemble(observation, action)[drawn])


@pytest.mark.parametrize("name", ["iql", "rlpd", "bc"])
def test_the_paper_s_values_are_complete(name: str) -> None:
    """Every option of the algorithm's own stands in its file, with the value that Python has by default."""
    import inspect

    import yaml

    algorithm = {"iql": IQL, "rlpd": RLPD, "bc": BC}[name]
    file = yaml.safe_load((Path(__file__).parents[1] / f"conf/algorithm/{name}.yaml").read_text())
    for option, parameter in inspect.signature(algorithm).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and option != "actor_every":
            expected = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
            assert file["model"][option] == expected, option


TINY = [
    f"--data.task={REACH}", "--data.datasets=[toy/reach-v0]", "--data.batch_size=16", "--data.chunk_size=4",
    "--data.updates_per_epoch=8", "--data.evaluation_episodes=2", "--data.milestone_episodes=2", "--data.workers=0",
    "--interaction.synchronous=true",
    "--model.actor_hidden_sizes=[16,16]", "--interaction.env_steps_per_epoch=20", "--trainer.check_val_every_n_epoch=1",
    "--trainer.accelerator=cpu", "--mlflow_uri=none", "--run_dir=run", "--video.episodes=0",
]  # fmt: skip
OWN = {
    "iql": ["--data.offline_epochs=1", "--model.critic_hidden_sizes=[16,16]"],
    "rlpd": ["--model.critic_hidden_sizes=[16,16]", "--model.num_critics=3", "--interaction.random_env_steps=30"],
    "bc": ["--data.offline_epochs=1"],
}


@pytest.mark.parametrize("algorithm", ["iql", "rlpd", "bc"])
def test_a_run_its_resumption_its_evaluation_and_its_export(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reach_dataset: str, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    arguments = ["fit", f"--algorithm={algorithm}", f"--task={REACH}", *TINY, *OWN[algorithm]]
    assert main([*arguments, "--trainer.max_epochs=4"]) == 0
    whole = read_metrics(tmp_path / "run/metrics.csv")
    assert [row["updates"] for row in whole] == [8, 16, 24, 32]
    assert [row["env_steps"] for row in whole] == ([50, 70, 90, 110] if algorithm == "rlpd" else [0, 20, 40, 60])
    manifest = read_manifest(tmp_path / "run")
    assert (manifest["status"], manifest["tags"]["algorithm"]) == ("finished", algorithm)

    assert main([*arguments[:-2], "--run_dir=half", "--trainer.max_epochs=2", *OWN[algorithm]]) == 0
    assert main(["fit", "--resume=half", "--trainer.max_epochs=4"]) == 0
    resumed = read_metrics(tmp_path / "half/metrics.csv")
    learned = [
        [{key: row[key] for key in row if key.startswith(("train/", "eval/"))} for row in rows] for rows in (whole, resumed)
    ]
    assert learned[0] == learned[1]

    capsys.readouterr()
    last = "run/checkpoints/last.ckpt"
    assert main(["test", f"--ckpt_path={last}"]) == 0
    assert type(load_module(Path(last))).__name__.lower() == algorithm
    assert main(["export", f"--ckpt_path={last}", "--to=out"]) == 0
    runner = PolicyRunner.load("out", action_limits=(-1, 1))
    expected = load_module(Path(last)).mean_action(torch.tensor([[0.3, -0.2]])).detach().numpy()[0]
    np.testing.assert_allclose(runner.act([0.3, -0.2]), expected, atol=1e-5)


def test_options_of_another_algorithm_and_unknown_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--algorithm=iql", "--task=pen", "--model.value_gradient=1"]) == 2
    assert "unknown key 'model.value_gradient'" in capsys.readouterr().err
    assert main(["fit", "--algorithm=iqll", "--task=pen"]) == 2
    assert "unknown algorithm 'iqll'" in capsys.readouterr().err


def test_the_algorithm_stands_in_a_file_a_flag_or_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("algorithm: rlpd")
    assert algorithm_of(["fit", f"--config={tmp_path / 'mine.yaml'}"]) == "rlpd"
    assert algorithm_of(["fit", f"--config={tmp_path / 'mine.yaml'}", "--algorithm", "bc"]) == "bc"
    assert algorithm_of(["fit", "--config=missing.yaml"]) == "awac"


def test_probability_of_improvement_by_hand() -> None:
    """Of 3 x 2 pairs 2 are won and 2 are ties: 3 / 6; on the second task all are lost."""
    x, y = np.array([0.9, 0.5, 0.5]), np.array([0.5, 0.7])
    assert probability_of_improvement(x, y) == pytest.approx((2 + 0.5 + 0.5) / 6)
    assert probability_of_improvement(x, np.zeros(1), y, np.ones(2)) == pytest.approx((3 / 6 + 0) / 2)
    stacked = np.stack([x, x[::-1]], axis=1)
    np.testing.assert_allclose(probability_of_improvement(stacked, np.stack([y, y], axis=1)), [0.5, 0.5])


def test_a_report_compares_algorithms(tmp_path: Path) -> None:
    for algorithm, rate in (("awac", 0.9), ("iql", 0.4)):
        for seed in range(3):
            tags = {"task": "pen", "algorithm": algorithm, "preset": "quick", "seed": str(seed)}
            make_run(tmp_path / f"{algorithm}-{seed}", make_rows([0.5, rate + 0.01 * seed]), seed=seed, tags=tags)
    tables = {table.title: table for table in write_report([tmp_path], tmp_path / "report.html")}
    (row,) = tables["One method against another"].rows
    assert row == ["pen", "AWAC, preset quick", "IQL, preset quick", "3 and 3", "10,000", "1.00", "1.00 to 1.00"]
    assert "AWAC, IQL on pen" in (tmp_path / "report.html").read_text()


def test_methods_are_compared_at_equal_numbers_of_steps(tmp_path: Path) -> None:
    """AWAC's third seed and IQL went on to 50,000 steps, and were no better than the others at 20,000."""
    for algorithm, lengths in (("awac", (2, 2, 5)), ("iql", (5, 5, 5))):
        for seed, length in enumerate(lengths):
            tags = {"task": "pen", "algorithm": algorithm, "preset": "quick", "seed": str(seed)}
            rows = make_rows([0.5, 0.3, 0.3, 0.9, 0.9, 0.9][: 1 + length])
            make_run(tmp_path / f"{algorithm}-{seed}", rows, seed=seed, tags=tags)
    tables = {table.title: table for table in write_report([tmp_path], tmp_path / "report.html")}
    (row,) = tables["One method against another"].rows
    assert row[3:6] == ["3 and 3", "20,000", "0.50"]
    unlike = "its runs end after 20,000 to 50,000 environment steps, and are not alike at their end"
    assert f"pen, AWAC, preset quick: {unlike}" in tables["Success at each stage"].note
    assert "IQL" not in tables["Success at each stage"].note


def test_methods_without_evaluations_at_equal_steps_are_not_compared(tmp_path: Path) -> None:
    for algorithm, env_steps in (("awac", 1000), ("iql", 50_000)):
        for seed in range(3):
            tags = {"task": "pen", "algorithm": algorithm, "preset": "quick", "seed": str(seed)}
            make_run(tmp_path / f"{algorithm}-{seed}", make_rows([0.5, 0.3], env_steps=env_steps), seed=seed, tags=tags)
    titles = [table.title for table in write_report([tmp_path], tmp_path / "report.html")]
    assert "One method against another" not in titles


# Options that they pass on


@pytest.mark.parametrize("algorithm", [IQL, RLPD])
def test_rivals_clamp_their_target_to_the_range_of_returns(algorithm: type[Learner]) -> None:
    batch = make_chunk(1)[0]
    batch["reward"] = torch.full_like(batch["reward"], -5.0)
    module = make(algorithm, clamp_target=True, return_range=(-0.5, 0.0))
    assert module.loss(batch)[1]["train/target_mean"].item() == pytest.approx(-0.5)


def test_rivals_use_the_options_that_are_theirs() -> None:
    iql = make(IQL, critic_layer_norm=True)
    assert iql.critics.layer_norm
    assert iql.target_critics.layer_norm
    rlpd = make(RLPD, target_entropy=-7.0, log_std_range=(-3.0, -1.0))
    assert (rlpd.target_entropy, rlpd.actor.log_std_range) == (-7.0, (-3.0, -1.0))


def test_a_squashed_policy_keeps_to_its_bounds_in_torch_and_in_numpy() -> None:
    torch.manual_seed(0)
    actor = SquashedActor(OBSERVATION_DIM, ACTION_DIM, (8,), log_std_range=(-2.0, -1.0))
    with torch.no_grad():
        actor.layers[-1].bias[ACTION_DIM:] = torch.tensor([50.0, -50.0])
    mean, log_std = actor.distribution(torch.zeros(1, OBSERVATION_DIM))
    assert log_std[0].tolist() == [-1.0, -2.0]
    noise = np.random.default_rng(3).standard_normal(ACTION_DIM, dtype=np.float32)
    action = actor.to_numpy().act(np.zeros(OBSERVATION_DIM), np.random.default_rng(3))
    np.testing.assert_allclose(action, np.tanh(mean[0].detach().numpy() + np.exp([-1.0, -2.0]) * noise), atol=1e-6)


def test_rlpds_entropy_is_minus_the_mean_log_probability() -> None:
    module = make(RLPD, num_critics=2, initial_entropy_weight=0.5)
    with torch.no_grad():
        for parameter in module.critics.parameters():
            parameter.zero_()
    metrics = module.loss(make_chunk(1)[0])[1]  # Q is 0: the actor's loss is 0.5 times the mean of log pi
    assert metrics["train/actor_loss"].item() == pytest.approx(-0.5 * metrics["train/entropy"].item())


# Which one is better


def method(folder: Path, task: str, algorithm: str, seed: int, rate: float, temperature: float = 1.0) -> Path:
    tags = {"task": task, "algorithm": algorithm, "preset": "quick", "seed": str(seed)}
    config = {"model": {"temperature": temperature}}
    place = folder / f"{task}-{algorithm}-{temperature}-{seed}"
    return make_run(place, make_rows([0.5, rate]), seed=seed, tags=tags, config=config)


def test_methods_are_compared_over_the_tasks_where_each_has_one_setting(tmp_path: Path) -> None:
    folders = [
        method(tmp_path, task, name, seed, 0.9 if (task, name) == ("pen", "awac") else 0.5)
        for task in ("door", "pen") for name in ("awac", "iql") for seed in (0, 1)
    ]  # fmt: skip
    rows = improvement_rows(group_runs(read_runs(folders)[0]))
    assert [(row[0], row[5]) for row in rows] == [("door", "0.50"), ("pen", "1.00"), ("door, pen", "0.75")]
    assert rows[2][1:5] == ["preset quick", "IQL, preset quick", "4 and 4", "10,000, 10,000"]
    assert len(improvement_rows(group_runs(read_runs(folders[:4])[0]))) == 1  # the door alone
    folders += [method(tmp_path, "pen", "awac", seed, 0.1, temperature=2.0) for seed in (0, 1)]
    rows = improvement_rows(group_runs(read_runs(folders)[0]))
    assert [row[0] for row in rows] == ["door", "pen", "pen", "pen"]
