"""Actor, critics, and the torch-free copy that workers run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from awac_pl.algorithms.critics import CriticEnsemble, initialize_as_rlkit
from awac_pl.callbacks.interaction import as_arrays, with_arrays
from awac_pl.deploy.runner import onnx_policy
from awac_pl.errors import AwacError
from awac_pl.policies.actor import Actor, Normalizer, moments
from awac_pl.policies.numpy_policy import NumpyPolicy
from awac_pl.policies.onnx_graph import policy_graph


def test_log_prob_by_hand() -> None:
    actor = Actor(3, 2, (4,), initial_std=0.5)
    log_prob = actor.log_prob(torch.zeros(1, 2), torch.tensor([[0.5, 0.0]]))
    # two Normals with std 0.5: one at one standard deviation, one at the mean
    expected = -0.5 - 2 * (math.log(0.5) + 0.5 * math.log(2 * math.pi))
    assert log_prob.shape == (1,)
    assert log_prob.item() == pytest.approx(expected, rel=1e-5)


def test_log_prob_equals_torch_distributions() -> None:
    torch.manual_seed(0)
    actor, observation, action = Actor(3, 2), torch.randn(5, 3), torch.rand(5, 2)
    mean = actor(observation)
    expected = torch.distributions.Normal(mean, actor.log_std.exp()).log_prob(action).sum(-1)
    torch.testing.assert_close(actor.log_prob(mean, action), expected)


def test_std_starts_where_asked_and_stays_in_its_range() -> None:
    actor = Actor(3, 2, log_std_range=(-3.0, -1.0), initial_std=0.2)
    torch.testing.assert_close(actor.log_std.exp(), torch.full((2,), 0.2))
    with torch.no_grad():
        actor.std_logit.copy_(torch.tensor([-50.0, 50.0]))
    torch.testing.assert_close(actor.log_std, torch.tensor([-3.0, -1.0]))
    with pytest.raises(ValueError, match="initial_std"):
        Actor(3, 2, initial_std=2.0)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_ensemble_equals_its_critics_one_by_one(layer_norm: bool) -> None:
    torch.manual_seed(0)
    critics = CriticEnsemble(3, 2, (8, 8), num_critics=3, layer_norm=layer_norm)
    observation, action = torch.randn(5, 3), torch.randn(5, 2)
    q = critics(observation, action)
    assert q.shape == (3, 5)
    for index in range(3):
        hidden = torch.cat([observation, action], -1)
        for layer, (weight, bias) in enumerate(zip(critics.weights, critics.biases, strict=True)):
            hidden = hidden @ weight[index] + bias[index]
            if layer < 2:
                hidden = torch.relu(torch.nn.functional.layer_norm(hidden, (8,)) if layer_norm else hidden)
        torch.testing.assert_close(q[index], hidden.squeeze(-1))


def test_critics_are_independent() -> None:
    critics = CriticEnsemble(3, 2, num_critics=2)
    critics(torch.randn(5, 3), torch.randn(5, 2))[0].sum().backward()
    assert all(weight.grad[0].abs().sum() > 0 and weight.grad[1].abs().sum() == 0 for weight in critics.weights)


def test_output_clamp() -> None:
    critics = CriticEnsemble(3, 2, max_output=-0.5)
    assert critics(torch.randn(50, 3), torch.randn(50, 2)).max() <= -0.5


def test_numpy_policy_acts_as_the_actor_does() -> None:
    torch.manual_seed(0)
    actor = Actor(5, 3, (32, 32))
    policy = actor.to_numpy(deterministic=True)
    observations = torch.randn(100, 5)
    acted = np.stack([policy.act(observation.numpy(), np.random.default_rng(0)) for observation in observations])
    np.testing.assert_allclose(acted, actor(observations).detach().numpy(), atol=1e-6)


def test_numpy_policy_samples_the_actors_distribution() -> None:
    torch.manual_seed(0)
    actor = Actor(5, 2, (8,), initial_std=0.3)
    policy, rng = actor.to_numpy(), np.random.default_rng(0)
    observation = np.full(5, 0.1, np.float32)
    samples = np.stack([policy.act(observation, rng) for _ in range(20_000)])
    mean = actor(torch.from_numpy(observation)[None])[0].detach().numpy()
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.01)
    np.testing.assert_allclose(samples.std(0), 0.3, atol=0.01)
    assert np.abs(samples).max() > 1  # whoever acts clips


def test_a_snapshot_does_not_follow_later_training() -> None:
    actor = Actor(5, 2)
    policy = actor.to_numpy(deterministic=True)
    before = policy.act(np.ones(5, np.float32), np.random.default_rng(0))
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(before, policy.act(np.ones(5, np.float32), np.random.default_rng(0)))


def test_observations_are_normalised_by_hand() -> None:
    normalizer = Normalizer(3)
    normalizer.measure([moments(torch.tensor([row])) for row in ([1.0, 5.0, 0.0], [3.0, 5.0, 0.002])])
    torch.testing.assert_close(normalizer.mean, torch.tensor([2.0, 5.0, 0.001]))
    torch.testing.assert_close(normalizer.scale, torch.tensor([1.0, 0.01, 0.01]))  # no more than a hundredfold
    torch.testing.assert_close(
        normalizer(torch.tensor([[4.0, 5.01, 0.001]])), torch.tensor([[2.0, 1.0, 0.0]]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("constant", [0.7, 500.0])
def test_a_policy_normalises_as_the_module_does(constant: float, tmp_path: Path) -> None:
    """So does its graph. A component that is large and hardly varies loses no digits."""
    torch.manual_seed(3)
    actor, normalizer = Actor(5, 2, (16, 16)), Normalizer(5)
    shift = torch.tensor([1.0, -0.5, 0.0, 3.0, constant])
    observations = torch.randn(200, 5) * torch.tensor([0.02, 0.1, 1.0, 5.0, 0.0]) + shift
    normalizer.measure([moments(observations)])
    policy = actor.to_numpy(deterministic=True, normalizer=normalizer)
    with torch.no_grad():
        expected = actor(normalizer(observations)).numpy()
    actions = [policy.act(observation, np.random.default_rng(0)) for observation in observations.numpy()]
    np.testing.assert_allclose(actions, expected, atol=2e-6)
    bounds = -np.ones(2, np.float32), np.ones(2, np.float32)
    np.testing.assert_allclose(onnx_policy(policy_graph(policy, *bounds))(observations.numpy()), expected, atol=2e-6)
    (tmp_path / "policy").write_bytes(policy.to_bytes())
    again = NumpyPolicy.load(tmp_path / "policy")
    np.testing.assert_array_equal(again.outputs(observations.numpy()), policy.outputs(observations.numpy()))
    (tmp_path / "policy").write_bytes(replace(policy, mean=policy.mean[:1]).to_bytes())
    with pytest.raises(AwacError, match="its layers do not fit each other"):
        NumpyPolicy.load(tmp_path / "policy")


def test_a_policy_of_a_checkpoint_that_knows_no_normalisation_has_none() -> None:
    """Its first layer has taken it over."""
    actor, normalizer = Actor(3, 2), Normalizer(3)
    saved = {name: value for name, value in as_arrays(actor.to_numpy()).items() if name not in ("mean", "scale")}
    policy = with_arrays(actor.to_numpy(normalizer=normalizer), saved)
    assert (policy.mean, policy.scale) == (None, None)
    np.testing.assert_array_equal(policy.weights[0], actor.to_numpy().weights[0])


def test_weights_are_drawn_as_in_the_authors_code() -> None:
    torch.manual_seed(0)
    actor, critics = Actor(20, 2, (400, 100)), CriticEnsemble(18, 2, (400, 100))
    initialize_as_rlkit(actor, critics)
    layers = [[layer.weight for layer in actor.layers], list(critics.weights)]
    biases = [[layer.bias for layer in actor.layers], list(critics.biases)]
    for weights, last in zip(layers, (1e-3, 3e-3), strict=True):
        for weight, bound in zip(weights, (1 / 20, 1 / 10, last), strict=True):  # 1 / sqrt(400), 1 / sqrt(100)
            assert weight.abs().max() <= bound
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)
    assert not any(bias.any() for network in biases for bias in network)


def test_a_policy_comes_back_from_its_file(tmp_path: Path) -> None:
    policy = Actor(3, 2, (4, 5), initial_std=0.3).to_numpy(deterministic=True)
    path = tmp_path / "policy.safetensors"
    path.write_bytes(policy.to_bytes())
    again = NumpyPolicy.load(path)
    assert again.deterministic
    for name in ("weights", "biases", "std"):
        np.testing.assert_equal(getattr(again, name), getattr(policy, name))
    path.write_bytes(replace(policy, std=policy.std[:1]).to_bytes())
    with pytest.raises(AwacError, match="its layers do not fit each other"):
        NumpyPolicy.load(path)
