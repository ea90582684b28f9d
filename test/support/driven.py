# SPDX-License-Identifier: Apache-2.0
"""Recordings of a robot that drives through the analytic room, written without ROS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from inspatio_ros.files.bag_messages import MessageMaker
from inspatio_ros.files.bags import BagWriter
from inspatio_ros.geometry import rigid
from inspatio_ros.planning.mounting import camera_of_view
from inspatio_ros.worlds.room import room
from support.bags import START_NS

CAMERA = camera_of_view(96, 64, 1.4)
BASE_FROM_CAMERA = (rigid.from_rotation(np.eye(3), (0.1, 0.0, 0.9)) @ rigid.BODY_FROM_OPTICAL)
SPEED = 0.5


def base_at(seconds: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The robot's true places [n, 4, 4] in the room."""
    return WORLD.drive(SPEED, seconds)


WORLD = room(3, moving=False)


def write_drive(path: Path, *, seconds: float = 4.0, rate: float = 5.0, speed: float = 1.0,
                tf: bool = True, odometry: bool = True, joint: bool = False) -> Path:
    """A recording: color, depth, infos, tf (with a link between base and camera), odom, plan.

    speed: times SPEED; 0 stands still. joint: the camera's link is in /tf, as a moving joint's.
    """
    with BagWriter(path) as bag:
        make = MessageMaker(bag)
        topics = {"/camera/image_rect": "sensor_msgs/msg/Image",
                  "/camera/camera_info": "sensor_msgs/msg/CameraInfo",
                  "/depth/image_rect": "sensor_msgs/msg/Image",
                  "/depth/camera_info": "sensor_msgs/msg/CameraInfo",
                  "/plan": "nav_msgs/msg/Path", "/local_plan": "nav_msgs/msg/Path",
                  "/note": "std_msgs/msg/String", "/tf": "tf2_msgs/msg/TFMessage"}
        if odometry:
            topics["/odom"] = "nav_msgs/msg/Odometry"
        for name, kind in topics.items():
            bag.add_topic(name, kind)
        bag.add_topic("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
        mast = rigid.from_rotation(np.eye(3), (0.1, 0.0, 0.0))
        bag.write("/tf_static", START_NS, bag.serialize(
            make.transforms(START_NS, "base_link", "mast", mast)))
        if not joint:
            bag.write("/tf_static", START_NS, bag.serialize(make.transforms(
                START_NS, "mast", "camera_optical", rigid.invert(mast) @ BASE_FROM_CAMERA)))
        for step in range(int(seconds * 20) + 1):
            at, stamp = step / 20, START_NS + step * 50_000_000
            pose = base_at([at * speed])[0]
            if tf:
                bag.write("/tf", stamp, bag.serialize(
                    make.transforms(stamp, "odom", "base_link", pose)))
                if joint:
                    bag.write("/tf", stamp, bag.serialize(make.transforms(
                        stamp, "mast", "camera_optical", rigid.invert(mast) @ BASE_FROM_CAMERA)))
            if odometry:
                bag.write("/odom", stamp, bag.serialize(_odometry(bag, make, stamp, pose, speed)))
            if step % round(20 / rate) == 0:
                _write_frame(bag, make, stamp, at, pose)
    return path


def _write_frame(bag: BagWriter, make: MessageMaker, stamp: int, at: float,
                 pose: npt.NDArray[np.float64]) -> None:
    view = WORLD.render(CAMERA, pose @ BASE_FROM_CAMERA)
    header = make.header(stamp, "camera_optical")
    info = make.camera_info(header, CAMERA)
    ahead = base_at(at + np.arange(0.0, 2.0, 0.5))
    stamps = [stamp + k * 500_000_000 for k in range(4)]
    messages = {
        "/camera/image_rect": make.image(header, "rgb8", view.image),
        "/camera/camera_info": info, "/depth/camera_info": info,
        "/depth/image_rect": make.image(header, "32FC1", view.depth),
        "/plan": make.path(make.header(stamp, "odom"), stamps, ahead),
        "/local_plan": make.path(make.header(stamp, "base_link"), stamps,
                                 rigid.invert(pose) @ ahead),
        "/note": bag.make("std_msgs/msg/String", data="x")}
    for topic, message in messages.items():
        bag.write(topic, stamp, bag.serialize(message))


def _odometry(bag: BagWriter, make: MessageMaker, stamp: int, pose: npt.NDArray[np.float64],
              speed: float) -> object:
    def vector(x: float) -> object:
        return bag.make("geometry_msgs/msg/Vector3", x=x, y=0.0, z=0.0)

    twist = bag.make("geometry_msgs/msg/Twist", linear=vector(SPEED * speed), angular=vector(0.0))
    return bag.make(
        "nav_msgs/msg/Odometry", header=make.header(stamp, "odom"), child_frame_id="base_link",
        pose=bag.make("geometry_msgs/msg/PoseWithCovariance", pose=make.pose(pose),
                      covariance=np.zeros(36)),
        twist=bag.make("geometry_msgs/msg/TwistWithCovariance", twist=twist,
                       covariance=np.zeros(36)))
