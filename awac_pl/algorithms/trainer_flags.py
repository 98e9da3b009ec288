"""What a learner takes from Lightning's Trainer, and what it refuses, before any data is read."""

from __future__ import annotations

import lightning
import torch

from awac_pl.errors import AwacError

PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def check_trainer(trainer: lightning.Trainer) -> None:
    """Refuse settings of the Trainer that do not fit K updates per training step.

    Raises:
        AwacError: the precision, the accumulation of gradients, or the bound of gradients.
    """
    if (precision := str(trainer.precision)) not in PRECISIONS:
        scales = " (float16 needs a loss scale for each update)" if precision.startswith("16") else ""
        raise AwacError(f"trainer.precision is {precision}; use {', '.join(PRECISIONS)}{scales}")
    if (batches := trainer.accumulate_grad_batches) != 1:
        raise AwacError(
            f"trainer.accumulate_grad_batches is {batches}; every batch is an update of its own: raise data.batch_size"
        )
    bound = trainer.gradient_clip_val
    if bound is not None and not bound >= 0:  # NaN, too
        raise AwacError(f"trainer.gradient_clip_val is {bound}; it must be a number of at least 0 (0: no clipping)")


class Clipping:
    """Clips gradients as ``trainer.gradient_clip_val`` and ``gradient_clip_algorithm`` say.

    Lightning does it under automatic optimization alone. It refuses the two settings under manual optimization; therefore
    ``take`` hides them from it until ``give_back``.
    """

    def __init__(self) -> None:
        self.bound: float | None = None
        self.by_value = False

    def take(self, trainer: lightning.Trainer) -> None:
        """Take the settings from the trainer.

        Raises:
            AwacError: see ``check_trainer``.
        """
        check_trainer(trainer)
        self.bound, self.by_value = trainer.gradient_clip_val, trainer.gradient_clip_algorithm == "value"
        trainer.gradient_clip_val = None

    def give_back(self, trainer: lightning.Trainer) -> None:
        """Show them in the trainer again."""
        if self.bound is not None:
            trainer.gradient_clip_val = self.bound

    def __call__(self, optimizer: torch.optim.Optimizer) -> None:
        """Bound the gradients of all parameters of an optimizer: each element, or the norm of all of them together."""
        if not self.bound:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.by_value:
            torch.nn.utils.clip_grad_value_(parameters, self.bound)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, self.bound)
