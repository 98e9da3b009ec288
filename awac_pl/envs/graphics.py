"""MuJoCo where its graphics do not work. It loads them when it is imported, and fails although nothing is to be drawn."""

from __future__ import annotations

import os


def import_mujoco() -> None:
    """Import MuJoCo, without graphics where those of ``MUJOCO_GL`` cannot be loaded: only a renderer may fail for them."""
    try:
        import mujoco
    except Exception:  # of several graphics libraries
        chosen = os.environ.get("MUJOCO_GL")
        os.environ["MUJOCO_GL"] = "disable"
        try:
            import mujoco  # noqa: F401
        finally:
            del os.environ["MUJOCO_GL"]
            if chosen is not None:
                os.environ["MUJOCO_GL"] = chosen
