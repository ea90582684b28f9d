# SPDX-License-Identifier: Apache-2.0
"""Real recordings beyond the sample, through the real node: an RGB-D walk, a raw stereo drive."""

from __future__ import annotations

import numpy as np
import pytest

from inspatio_ros.msg import ImaginationStatus, ImaginedFrame
from inspatio_ros.ros import qos
from support.data import data_dir
from support.ros import ROOT, graph, start_node

OFFICE = {
    "camera/image_rect/compressed": "/camera/color/image_raw/compressed",
    "camera/camera_info": "/camera/color/camera_info",
    "depth/image_rect/compressedDepth": "/camera/aligned_depth_to_color/image_raw/compressedDepth",
    "depth/camera_info": "/camera/aligned_depth_to_color/camera_info",
}
STREET = {
    "camera/image_rect/compressed": "/left/image_raw/compressed",
    "camera/camera_info": "/left/camera_info",
    "right/image_rect/compressed": "/right/image_raw/compressed",
    "right/camera_info": "/right/camera_info",
}


@pytest.mark.parametrize(("name", "overlay", "remaps", "source"), [
    ("holo_office_bag", "sample_bag", OFFICE, "tf"),
    ("holo_office_bag", "sample_bag", OFFICE, "odometry"),
    ("kitti_residential_bag", "raw_stereo", STREET, "tf")])
def test_recording(name: str, overlay: str, remaps: dict[str, str], source: str) -> None:
    bag = data_dir(name) / "bag"
    frames: list[ImaginedFrame] = []
    statuses: list[ImaginationStatus] = []
    parameters = {"use_sim_time": True, "model.preset": "geometric", "transforms.source": source}
    with graph() as made:
        made.node.create_subscription(ImaginedFrame, "imagination/frame", frames.append,
                                      qos.profile(100))
        made.node.create_subscription(ImaginationStatus, "imagination/status", statuses.append, 10)
        with start_node("imagination", parameters, remaps,
                        params_files=[ROOT / f"config/overlays/{overlay}.yaml"]):
            made.spin_until(
                lambda: statuses and statuses[-1].state == ImaginationStatus.WAITING_FOR_INPUT,
                60, "the node")
            with start_node("bag_player", parameters={"bag": bag, "loop": True}):
                made.spin_until(lambda: len(frames) > 10, 60, "frames")
    assert np.mean([f.observed_ratio + f.memory_ratio for f in frames]) > 0.5
    assert frames[-1].camera_pose.header.frame_id == "odom"
    assert max(f.frame_count for f in frames) > 10
