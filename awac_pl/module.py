"""AWAC as a LightningModule: the learner. It knows no environment; episodes reach it as batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from tensordict import TensorDict
from torch import Tensor

from awac_pl import losses
from awac_pl.errors import AwacError, TrainingDivergedError
from awac_pl.networks import Actor, CriticEnsemble
from awac_pl.policy import NumpyPolicy
from awac_pl.scores import score_episodes


class AWAC(lightning.LightningModule):
    """Advantage Weighted Actor Critic (Nair et al., arXiv 2006.09359), K updates per training step.

    Args:
        observation_dim: O; linked from the data.
        action_dim: A; linked from the data.
        return_range: smallest and largest discounted return the task's reward allows, None if unknown; linked from the
            data. Used by ``clamp_target``.
        actor_hidden_sizes: width of each hidden layer of the actor.
        critic_hidden_sizes: width of each hidden layer of the critics.
        num_critics: E, size of the ensemble; its minimum is used.
        critic_layer_norm: layer normalisation in the critics.
        critic_max_output: upper clamp of the critics' output; null for none. (The authors' code: 0.)
        clamp_target: clamp the critics' target to ``return_range``.
        log_std_range: bounds of the policy's log standard deviation.
        initial_std: the policy's standard deviation at the start.
        discount: gamma, in [0, 1).
        polyak: tau, fraction of the new weights that the targets take after each update.
        temperature: lambda > 0; small follows the best actions, large clones the data.
        weight_form: ``softmax`` (mean weight 1, the authors' code) or ``exp`` (the paper's equation).
        advantage_clip: largest advantage that still adds weight; null for no bound.
        max_weight: largest weight of the ``exp`` form; null for no bound.
        advantage: ``critic`` is the paper's ``Q(s, a) - V(s)``. ``td`` is ``y - V(s)``, the critics' target less the value
            under the target critics: the same in a simulator whose dynamics are deterministic, but it sees what an action
            led to, where young critics hardly tell one action from another.
        baseline: V(s) is the value of the ``mean_action``, or the mean value of ``baseline_samples`` sampled actions.
        baseline_samples: actions per state for ``baseline: sampled_actions``.
        value_gradient: weight of a term that moves the mean action uphill on the critics, beside the likelihood; 0 is AWAC.
        clip_next_action: clip the action sampled at the next observation to [-1, 1].
        learning_rate: Adam's, for actor and critics.
        actor_weight_decay: Adam's L2 penalty on the actor; the critics have none.

    The counters ``updates`` (gradient updates) and ``env_steps`` (online environment steps) are persistent buffers.
    """

    updates: Tensor
    env_steps: Tensor

    def __init__(
        self,
        *,
        observation_dim: int,
        action_dim: int,
        return_range: tuple[float, float] | None = None,
        actor_hidden_sizes: Sequence[int] = (256, 256),
        critic_hidden_sizes: Sequence[int] = (256, 256),
        num_critics: int = 2,
        critic_layer_norm: bool = False,
        critic_max_output: float | None = None,
        clamp_target: bool = True,
        log_std_range: tuple[float, float] = (-6.0, 0.0),
        initial_std: float = 0.05,
        discount: float = 0.99,
        polyak: float = 0.005,
        temperature: float = 0.5,
        weight_form: losses.WeightForm = "softmax",
        advantage_clip: float | None = 0.5,
        max_weight: float | None = None,
        advantage: Literal["critic", "td"] = "critic",
        baseline: Literal["mean_action", "sampled_actions"] = "mean_action",
        baseline_samples: int = 1,
        value_gradient: float = 0.0,
        clip_next_action: bool = True,
        learning_rate: float = 3e-4,
        actor_weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.actor = Actor(observation_dim, action_dim, actor_hidden_sizes, log_std_range, initial_std)
        critic_arguments = (
            observation_dim, action_dim, critic_hidden_sizes, num_critics, critic_layer_norm, critic_max_output,
        )  # fmt: skip
        self.critics = CriticEnsemble(*critic_arguments)
        self.target_critics = CriticEnsemble(*critic_arguments).requires_grad_(False)
        self.target_critics.load_state_dict(self.critics.state_dict())
        self.target_range = return_range if clamp_target else None
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("env_steps", torch.zeros((), dtype=torch.int64))
        self._metrics: list[dict[str, Tensor]] = []
        self._episodes: list = []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One Adam over two groups: actor and critics share no parameter, so one step serves both."""
        return torch.optim.Adam(
            [
                {"params": list(self.actor.parameters()), "weight_decay": self.hparams["actor_weight_decay"]},
                {"params": list(self.critics.parameters()), "weight_decay": 0.0},
            ],
            lr=self.hparams["learning_rate"],
            fused=True,
        )

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """Critic loss + actor loss of one batch ``[B]``, and what to watch; moves no weight.

        The advantage is detached and no parameter is shared, so the sum has the gradients of the two losses.
        """
        observation, action = batch["observation"], batch["action"]
        with torch.no_grad():
            next_observation = batch["next_observation"]
            next_action = self.actor.sample(self.actor(next_observation))
            if self.hparams["clip_next_action"]:
                next_action = next_action.clamp(-1, 1)
            next_q = self.target_critics(next_observation, next_action)
        target = losses.td_target(batch["reward"], batch["terminated"], next_q, self.hparams["discount"], self.target_range)
        q = self.critics(observation, action)
        critic_loss = losses.critic_loss(q, target)

        mean = self.actor(observation)
        with torch.no_grad():
            if self.hparams["advantage"] == "td":
                advantage = target - self._baseline(self.target_critics, observation, mean)
            else:
                advantage = q.amin(dim=0) - self._baseline(self.critics, observation, mean)
        weights = losses.advantage_weights(
            advantage,
            self.hparams["temperature"],
            form=self.hparams["weight_form"],
            clip=self.hparams["advantage_clip"],
            max_weight=self.hparams["max_weight"],
        )
        actor_loss = losses.actor_loss(self.actor.log_prob(mean, action), weights)
        if self.hparams["value_gradient"]:
            frozen = {name: parameter.detach() for name, parameter in self.critics.named_parameters()}
            q_of_mean = torch.func.functional_call(self.critics, frozen, (observation, mean)).mean(dim=0)
            actor_loss = actor_loss + self.hparams["value_gradient"] * losses.value_gradient_loss(q_of_mean)
        with torch.no_grad():
            rewarded = batch["reward"] >= 0
            metrics = {
                "train/critic_loss": critic_loss.detach(),
                "train/actor_loss": actor_loss.detach(),
                "train/q_mean": q.mean(),
                "train/target_mean": target.mean(),
                "train/advantage_std": advantage.std(),
                "train/weight_max": weights.max(),
                # Kish's effective sample size, as a share of the batch
                "train/weight_effective": weights.sum().square() / weights.square().sum() / len(weights),
                "train/success_rows": rewarded.float().mean(),
                "train/success_weight": (weights * rewarded).sum() / weights.sum(),
                "train/policy_std": self.actor.log_std.exp().mean(),
            }
        return critic_loss + actor_loss, metrics

    def on_fit_start(self) -> None:
        """Refuse float16, whose loss scaling does not fit K updates in one step.

        Raises:
            AwacError: ``trainer.precision`` is a float16 one.
        """
        if "16" in str(self.trainer.precision) and "bf16" not in str(self.trainer.precision):
            raise AwacError(f"trainer.precision {self.trainer.precision} scales the loss; use 32-true or bf16-mixed")

    def training_step(self, chunk: TensorDict, batch_idx: int) -> None:
        """K updates from a chunk ``[K, B]``.

        Lightning counts one step for all K: its wrapped optimizer steps once, for the last of them.
        """
        wrapped = self.optimizers()
        optimizer = wrapped.optimizer  # type: ignore[union-attr]
        last = len(chunk) - 1
        for index, batch in enumerate(chunk.unbind(0)):
            loss, metrics = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            (wrapped if index == last else optimizer).step()  # type: ignore[union-attr]
            losses.polyak_update(self.target_critics.parameters(), self.critics.parameters(), self.hparams["polyak"])
        self.updates += len(chunk)
        self._check_finite(loss.detach())
        self._metrics.append(metrics)
        if self.trainer.is_last_batch:
            self._log_epoch()

    def validation_step(self, seeds: list[int], batch_idx: int) -> None:
        """Roll out one episode per evaluation seed with the mean action."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        self._episodes += datamodule.workers.rollout(self.policy(deterministic=True), seeds, whole_episodes=True)

    def on_validation_epoch_start(self) -> None:
        """Forget the episodes of the last evaluation."""
        self._episodes = []

    def on_validation_epoch_end(self) -> None:
        """Log the measures of this evaluation."""
        scores = score_episodes(self._episodes)
        fitting = self.trainer.state.fn == "fit"  # then RunRecord logs, against env_steps
        self.log_dict({f"eval/{name}": value for name, value in scores.items()}, logger=not fitting)

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def policy(self, deterministic: bool = False) -> NumpyPolicy:
        """A snapshot of the policy for workers, free of torch."""
        return self.actor.to_numpy(deterministic)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random state that Lightning leaves out."""
        checkpoint["random_state"] = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state for ``on_train_start``."""
        self._random_state = checkpoint["random_state"]

    def on_train_start(self) -> None:
        """Restore the random state as late as possible, behind everything that might draw while it sets up."""
        state = self.__dict__.pop("_random_state", None)
        if state is not None:
            torch.set_rng_state(state["torch"].cpu())
            if self.device.type == "cuda" and state["cuda"]:
                torch.cuda.set_rng_state_all([cuda_state.cpu() for cuda_state in state["cuda"]])

    def _baseline(self, critics: CriticEnsemble, observation: Tensor, mean: Tensor) -> Tensor:
        """V(s) ``[B]``: the value of the mean action, or the average over sampled actions."""
        if self.hparams["baseline"] == "mean_action":
            return critics(observation, mean).amin(dim=0)
        samples = [self.actor.sample(mean).clamp(-1, 1) for _ in range(self.hparams["baseline_samples"])]
        return torch.stack([critics(observation, sample).amin(dim=0) for sample in samples]).mean(dim=0)

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {float(loss)} at update {int(self.updates)}; the last checkpoint is from before it. "
                "Lower model.learning_rate, or look for outliers in the data"
            )

    def _log_epoch(self) -> None:
        names = self._metrics[0]
        means = {name: torch.stack([metrics[name] for metrics in self._metrics]).mean() for name in names}
        self._metrics = []
        self.log_dict(means, on_step=False, on_epoch=True, logger=False, batch_size=1)
