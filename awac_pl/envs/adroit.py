"""Success of the Adroit tasks by their observations: ``[..., O]`` to ``[...]`` bool."""

from __future__ import annotations

import numpy as np


def pen_success(observations: np.ndarray) -> np.ndarray:
    """Pen within 0.075 m of the target and aligned with it (cosine above 0.95)."""
    position_error, pen_axis, target_axis = observations[..., 39:42], observations[..., 33:36], observations[..., 36:39]
    return (np.linalg.norm(position_error, axis=-1) < 0.075) & ((pen_axis * target_axis).sum(-1) > 0.95)


def door_success(observations: np.ndarray) -> np.ndarray:
    """Door hinge opened by at least 1.35 rad."""
    return observations[..., 28] >= 1.35


def relocate_success(observations: np.ndarray) -> np.ndarray:
    """Ball within 0.1 m of the target."""
    return np.linalg.norm(observations[..., 36:39], axis=-1) < 0.1


def hammer_success(observations: np.ndarray) -> np.ndarray:
    """Nail within 0.01 m of its depth in the board, 0.091 m along the slide joint."""
    return np.abs(0.091 - observations[..., 26]) < 0.01
