"""Poses of the path-traced benchmark, as the twin takes them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from physadv.twin.trajectories import SignPose, pose_rotation

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.mark.parametrize("sign_mm", [457.0, 900.0])
def test_the_twin_turns_a_sign_as_the_tracer_does(sign_mm: float) -> None:
    """Yaw, pitch and roll of a pose give its rotation back: both renderers show one view."""
    from path_traced_poses import all_poses

    for pose in all_poses(sign_mm, 1):
        turned = pose_rotation(SignPose(1000 * pose.distance_m, *pose.angles_deg, 0, 0))
        np.testing.assert_allclose(turned, pose.rotation, atol=1e-9)
