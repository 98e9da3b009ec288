"""Gradient clipping, and the other settings of the Trainer that a learner takes or refuses."""

from __future__ import annotations

import math

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from awac_pl.algorithms import base as module_file
from awac_pl.algorithms.awac import AWAC
from awac_pl.algorithms.trainer_flags import Clipping
from awac_pl.errors import AwacError
from tests.test_compiling import Replayed
from tests.test_module import Chunks, make_chunk, make_module, train


@pytest.mark.parametrize(
    ("by_value", "bound", "expected"),
    [
        (False, 1.0, ([[0.6, 0.0]], [-0.8])),  # the norm of (3, 0, -4) is 5: one factor for all networks
        (False, 5.1, ([[3.0, 0.0]], [-4.0])),
        (True, 3.5, ([[3.0, 0.0]], [-3.5])),
        (False, 0.0, ([[3.0, 0.0]], [-4.0])),
    ],
)
def test_clipping_by_hand(by_value: bool, bound: float, expected: tuple[list, list]) -> None:
    actor, critic = torch.nn.Parameter(torch.zeros(1, 2)), torch.nn.Parameter(torch.zeros(1))
    actor.grad, critic.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([-4.0])
    clip = Clipping()
    clip.bound, clip.by_value = bound, by_value
    clip(torch.optim.Adam([{"params": [actor]}, {"params": [critic]}]))
    torch.testing.assert_close((actor.grad, critic.grad), tuple(map(torch.tensor, expected)))


@pytest.mark.parametrize("mode", ["off", "by_hand", "default", "graph"])
@pytest.mark.parametrize(("algorithm", "bound"), [("norm", 0.3), ("value", 0.02)])
def test_every_way_to_run_updates_clips_as_torch_does(mode: str, algorithm: str, bound: float, monkeypatch) -> None:
    """20 updates in double precision against a plain loop."""
    chunk = make_chunk(5).apply(lambda column: column.double() if column.is_floating_point() else column)
    clip = torch.nn.utils.clip_grad_norm_ if algorithm == "norm" else torch.nn.utils.clip_grad_value_
    plain = make_module().double()
    optimizer = plain.configure_optimizers()
    torch.manual_seed(7)
    for batch in [batch for _ in range(4) for batch in chunk.unbind(0)]:
        optimizer.zero_grad()
        plain.loss(batch)[0].backward()
        clip([*plain.actor.parameters(), *plain.critics.parameters()], bound)
        optimizer.step()
        plain.move_targets()

    if mode == "default":
        monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    if mode == "graph":
        monkeypatch.setattr(module_file, "choose_mode", lambda *_: "graph")
        monkeypatch.setattr(module_file, "ChunkGraph", Replayed)
    module = make_module(compile=mode)
    options = {"gradient_clip_val": bound, "gradient_clip_algorithm": algorithm}
    trainer = train(module, [chunk] * 4, precision="64-true", **options)
    assert (module.compile_mode, trainer.gradient_clip_val) == (mode, bound)
    weights = [[*learner.actor.parameters(), *learner.critics.parameters()] for learner in (module, plain)]
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-11)


def test_one_batch_a_step_is_what_lightning_does_itself() -> None:
    """The same learner under automatic optimization, which Lightning clips."""

    class Automatic(AWAC):
        def configure_callbacks(self):
            self.automatic_optimization = True
            return super().configure_callbacks()

        def training_step(self, chunk, batch_idx):
            return self.loss(chunk[0])[0]

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            self.move_targets()

        def on_train_epoch_end(self):
            pass

    chunks = [make_chunk(1, seed=seed) for seed in range(10)]
    results = []
    for kind in (AWAC, Automatic):
        module = make_module(compile="off")
        module.__class__ = kind
        train(module, chunks, gradient_clip_val=0.3)
        results.append([*module.actor.parameters(), *module.critics.parameters()])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["off", "by_hand"])
def test_no_bound_changes_no_bit_and_a_bound_does(mode: str) -> None:
    def weights(bound: float | None) -> list[torch.Tensor]:
        module = make_module(compile=mode)
        train(module, [make_chunk(5), make_chunk(5, seed=1)], gradient_clip_val=bound)
        return list(module.state_dict().values())

    plain = weights(None)
    torch.testing.assert_close(weights(0), plain, rtol=0, atol=0)
    torch.testing.assert_close(weights(1e9), plain, rtol=0, atol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(weights(0.1), plain, rtol=1e-5, atol=1e-7)


def test_gradients_written_out_are_clipped_after_a_callback_has_thrown_them_away() -> None:
    class Forget(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            pl_module.zero_grad(set_to_none=True)

    results = []
    for mode in ("off", "by_hand"):
        module = make_module(compile=mode)
        train(module, [make_chunk(5), make_chunk(5, seed=1)], callbacks=[Forget()], gradient_clip_val=0.1)
        results.append(module.state_dict())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_bf16_mixed_clips() -> None:
    """Lightning's own plugin refuses this: the optimizer is a fused one."""
    module = make_module()
    trainer = train(module, [make_chunk(3)], precision="bf16-mixed", gradient_clip_val=0.1)
    gradients = [parameter.grad for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    assert torch.nn.utils.get_total_norm(gradients) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_clip_val": -1}, "trainer.gradient_clip_val is -1; it must be a number of at least 0"),
        ({"gradient_clip_val": math.nan}, "trainer.gradient_clip_val is nan; it must be a number of at least 0"),
        ({"accumulate_grad_batches": 4}, "trainer.accumulate_grad_batches is 4; every batch is an update of its own"),
        ({"precision": "bf16-true"}, "trainer.precision is bf16-true; use 32-true, 64-true, bf16-mixed"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_data_is_read(options: dict, message: str, monkeypatch) -> None:
    module = make_module()
    monkeypatch.setattr(module, "setup", lambda stage: pytest.fail("the fit has started"))
    with pytest.raises(AwacError, match=message):
        train(module, [make_chunk(5)], **options)


@pytest.mark.filterwarnings("ignore:Total length of `list`")
def test_an_evaluation_asks_nothing_of_the_trainer() -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, accumulate_grad_batches=4)
    trainer.validate(make_module(), datamodule=Chunks([]), verbose=False)
