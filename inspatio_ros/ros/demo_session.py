# SPDX-License-Identifier: Apache-2.0
"""A recording played into the imagination node, everything published recorded. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path as PathMessage
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from inspatio_ros.action import ImaginePath
from inspatio_ros.files.bag_observations import BagTopics
from inspatio_ros.files.bag_storage import TopicInfo
from inspatio_ros.files.bags import BagReader, BagWriter
from inspatio_ros.geometry import motions
from inspatio_ros.messages.transforms import TransformTree
from inspatio_ros.msg import ImaginationStatus, ImaginedFrame
from inspatio_ros.ros import qos
from inspatio_ros.ros.convert import images
from inspatio_ros.ros.convert.paths import matrix_to_pose
from inspatio_ros.ros.convert.stamps import to_ns, to_time
from inspatio_ros.ros.interface import NODES
from inspatio_ros.ros.recorder import Recorder, Watcher, frame_of, stamp_of
from inspatio_ros.share import share_folder

Array = npt.NDArray[np.float64]

# What `transport.launch.py` sets, for the same reasons.
_MALLOC_BYTES = "268435456"
_NOT_RECORDED = ("/diagnostics", "/tf", "~/guide/depth", "~/image/compressed")
_CLOCK_PERIOD_S = 0.02


class DemoError(ValueError):
    """The demonstration cannot go on; says why, with the last words of the node that failed."""


def transport_environment() -> dict[str, str]:
    """Variables of processes that exchange images; those already set stay as they are."""
    profile = str(share_folder("config") / "fastdds_large_images.xml")
    wanted = {"FASTDDS_DEFAULT_PROFILES_FILE": profile, "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
              "MALLOC_MMAP_THRESHOLD_": _MALLOC_BYTES, "MALLOC_TRIM_THRESHOLD_": _MALLOC_BYTES,
              "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


class NodeProcess:
    """A node of this package as a process of its own, its output in a file."""

    def __init__(self, name: str, log: Path, parameters: Mapping[str, object],
                 remaps: Mapping[str, str] | None = None,
                 params_files: Sequence[Path] = ()) -> None:
        self.name, self.log = name, log
        words = ["--ros-args"]
        for path in params_files:
            words += ["--params-file", str(path)]
        for key, value in parameters.items():
            words += ["-p", f"{key}:={str(value).lower() if isinstance(value, bool) else value}"]
        for source, target in (remaps or {}).items():
            words += ["-r", f"{source}:={target}"]
        code = f"import sys; from inspatio_ros.ros.{name}_node import main; sys.exit(main())"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *words], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT)

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self.status is not None

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def require_running(self) -> None:
        """Raise DemoError with its last words when it has ended."""
        if self.ended:
            words = self.log.read_text(errors="replace").splitlines()[-8:]
            raise DemoError(f"node {self.name} ended with status {self.status} "
                            f"(see {self.log}):\n" + "\n".join(words))

    def stop(self, timeout: float = 10.0) -> None:
        """Interrupt it; kill it when it does not end."""
        if not self.ended:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout)


class DemoSession:
    """The two nodes and a recorder on a domain of their own; use as a context manager.

    folder: where bag/ and the nodes' logs go. topics: of the recording. on_progress(done in
    [0, 1], what) is called all the time. overrides: parameters of the imagination node.
    """

    def __init__(self, recording: Path, topics: BagTopics, folder: Path, *, rate: float,
                 overrides: Mapping[str, object], domain: int,
                 on_progress: Callable[[float, str], None]) -> None:
        self._recording, self._topics, self._folder = recording, topics, folder
        self._rate, self._on_progress = rate, on_progress
        os.environ.update(transport_environment())
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        self._domain = domain
        self._overrides = dict(overrides)
        self._processes: list[NodeProcess] = []
        self.image_arrivals: dict[int, float] = {}
        self.frame_arrivals: list[float] = []
        self.latencies: list[float] = []
        self.frames_of_requests = 0
        self._status: ImaginationStatus | None = None
        self._tree, self._camera_frame = TransformTree(), ""
        self._last_frame: ImaginedFrame | None = None
        self._last_depth = self._camera_info = b""

    def __enter__(self) -> DemoSession:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=self._domain)
        self._node = Node("demo_recorder", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        if self._other_nodes():
            raise DemoError(f"domain {self._domain} is in use by {self._other_nodes()}; choose "
                            "another with --domain")
        self._writer = BagWriter(self._folder / "bag")
        self.recorder = Recorder(self._node, self._writer)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.stop()
        recorder = getattr(self, "recorder", None)
        if recorder is not None:
            recorder.close()
            self._writer.close()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _other_nodes(self) -> list[str]:
        return [name for name in self._node.get_node_names() if name != self._node.get_name()]

    def _spin_until(self, condition: Callable[[], object], timeout: float, what: str,
                    progress: Callable[[], tuple[float, str]]) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            for process in self._processes:
                if process.name != "bag_player":
                    process.require_running()
            if time.monotonic() > deadline:
                raise DemoError(f"waited {timeout:.0f} s in vain for {what}; the nodes' logs are "
                                f"in {self._folder}")
            self._executor.spin_once(timeout_sec=0.05)
            self._on_progress(*progress())

    # The parts of a demonstration, in their order.

    def start(self) -> None:
        """Start recording and both nodes, paused; return once they know each other."""
        with BagReader(self._recording) as reader:
            self._length_s = reader.duration
            self._start_ns = reader.start_ns
            sources = {t.name: t for t in reader.topics.values() if t.name != "/clock"}
        for topic in sources.values():
            self.recorder.record(topic.name, topic.message_type, latched=topic.latched,
                                 watcher=self._watcher_of(topic))
        self._record_imagination()
        t = self._topics
        compressed = t.image.endswith("/compressed")
        pairs = {"camera/image_rect": t.image, "camera/camera_info": t.image_info,
                 "depth/image_rect": t.depth, "depth/camera_info": t.depth_info,
                 "right/image_rect": t.right, "right/camera_info": t.right_info,
                 "odom": t.odom, "plan": t.plan}
        remaps = {}
        for ours, theirs in pairs.items():
            if theirs:
                transport = theirs.rsplit("/", 1)[-1]
                suffix = f"/{transport}" if transport.startswith("compressed") else ""
                remaps[ours + suffix] = theirs
        overlay = "raw_stereo" if t.right else "compressed" if compressed else ""
        files = [share_folder("config") / "overlays" / f"{overlay}.yaml"] if overlay else []
        parameters = {"use_sim_time": True, **self._overrides}
        self._imagination = self._launch("imagination", parameters, remaps, files)
        self._player = self._launch("bag_player", {
            "bag": self._recording, "rate": float(self._rate), "start_paused": True})
        self._spin_until(self._nodes_know_each_other, 180.0, "the nodes",
                         lambda: (0.0, "starting the nodes"))

    def _watcher_of(self, topic: TopicInfo) -> Watcher | None:
        if topic.name == self._topics.image:
            return self._on_source
        if topic.message_type != "tf2_msgs/msg/TFMessage":
            return None
        static = topic.name.endswith("tf_static")
        return lambda data, arrived: self._on_transforms(data, static)

    def _launch(self, name: str, parameters: Mapping[str, object],
                remaps: Mapping[str, str] | None = None,
                files: Sequence[Path] = ()) -> NodeProcess:
        process = NodeProcess(name, self._folder / f"{name}.log", parameters, remaps, files)
        self._processes.append(process)
        return process

    def _record_imagination(self) -> None:
        watchers = {"~/frame": self._on_frame, "~/status": self._on_status,
                    "~/depth": self._on_depth, "~/camera_info": self._on_camera_info}
        for endpoint in NODES["imagination"].publishes:
            if endpoint.name not in _NOT_RECORDED:
                self.recorder.record(
                    endpoint.name.replace("~", "/imagination"), endpoint.type,
                    latched="transient local" in endpoint.qos,
                    watcher=watchers.get(endpoint.name))
        self.recorder.record("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")

    def _nodes_know_each_other(self) -> bool:
        """The imagination node is active, and waits for nothing but the first message."""
        if self._player.ended:
            self._player.require_running()
        status = self._status
        return (status is not None and status.state == ImaginationStatus.WAITING_FOR_INPUT
                and "nothing arrives" in status.detail)

    def play(self) -> None:
        """Play the recording to its end, while its plan is followed."""
        client = self._node.create_client(SetBool, "/bag_player/set_paused")
        self._spin_until(client.service_is_ready, 30.0, "the player's service",
                         lambda: (0.0, "starting the player"))
        answer = client.call_async(SetBool.Request(data=False))
        self._spin_until(answer.done, 30.0, "the player's answer", lambda: (0.0, "playing"))
        self._spin_until(
            lambda: self._player.ended, 60.0 + 2.0 * self._length_s / self._rate,
            "the end of the recording", self._played)
        self._node.destroy_client(client)
        if self._player.status:
            self._player.require_running()

    def _played(self) -> tuple[float, str]:
        seconds = max(0, self.recorder.now_ns - self._start_ns) * 1e-9 if (
            self.recorder.now_ns) else 0.0
        done = min(1.0, seconds / max(self._length_s, 1e-3))
        return 0.9 * done, (f"{min(seconds, self._length_s):5.1f} of {self._length_s:.1f} s "
                            f"played, {len(self.frame_arrivals)} frames imagined")

    def orbit(self, frames: int = 60, frame_rate: float = 15.0) -> str:
        """Ask for views round what was seen last; the action's reason when it fails, else ''."""
        if self._last_frame is None:
            raise DemoError("the imagination node published no frame: " + (
                self._status.detail if self._status else "it said nothing either"))
        # Nobody publishes /clock any more; the node's time must go on.
        clock = self._node.create_publisher(Clock, "/clock", qos.profile(10))
        time_now = self.recorder.take_over_clock()
        timer = self._node.create_timer(
            _CLOCK_PERIOD_S, lambda: clock.publish(time_now()))
        client = ActionClient(self._node, ImaginePath, "/imagination/imagine_path")
        self._spin_until(client.server_is_ready, 20.0, "the action",
                         lambda: (0.9, "asking for an orbit"))
        goal = ImaginePath.Goal(path=self._orbit_path(frames, frame_rate),
                                pose_of=ImaginePath.Goal.POSE_OF_CAMERA, frame_rate=frame_rate)
        goal.camera_info = deserialize_message(self._camera_info, CameraInfo)
        accepted = client.send_goal_async(goal)
        self._spin_until(accepted.done, 20.0, "the action's answer",
                         lambda: (0.9, "asking for an orbit"))
        result = accepted.result().get_result_async()
        self._spin_until(result.done, 120.0, "the orbit", lambda: (
            0.9 + 0.1 * self.frames_of_requests / frames,
            f"orbit: {self.frames_of_requests} of {frames} frames imagined"))
        outcome = result.result().result
        self._spin_until(lambda: self.frames_of_requests >= outcome.frames_published, 10.0,
                         "the orbit's last frames", lambda: (1.0, "orbit"))
        self._node.destroy_timer(timer)
        self._node.destroy_publisher(clock)
        client.destroy()
        return str(outcome.error_msg) if outcome.error_code else ""

    def _orbit_path(self, frames: int, frame_rate: float) -> PathMessage:
        """A camera that swings to both sides of what it saw last, and comes back."""
        assert self._last_frame is not None
        depth = images.to_array(deserialize_message(self._last_depth, Image)) if (
            self._last_depth) else np.zeros((1, 1), np.float32)
        known = depth[depth > 0]
        pivot = float(np.median(known)) if known.size else 1.5
        swing = np.radians([0.0, 10.0, 14.0, 10.0, 0.0, -10.0, -14.0, -10.0, 0.0])
        rise = np.radians([0.0, 2.0, 4.0, 2.0, 0.0, 2.0, 4.0, 2.0, 0.0])
        motion = motions.CameraMotion(rise, swing, np.array([pivot]))
        world = self._last_frame.camera_pose.header.frame_id
        newest_ns = self._tree.latest_stamp(world, self._camera_frame) or 0
        start = self._tree.lookup(world, self._camera_frame, newest_ns)
        poses = motions.target_poses(start[None], motions.relative_poses(motion, frames))
        path = PathMessage()
        path.header.frame_id = world
        begin_ns = self.recorder.now_ns
        path.header.stamp = to_time(begin_ns)
        for number, pose in enumerate(poses):
            header = Header(stamp=to_time(begin_ns + round(number * 1e9 / frame_rate)),
                            frame_id=world)
            path.poses.append(PoseStamped(header=header, pose=matrix_to_pose(pose)))
        return path

    # What is noticed while it runs.

    def _on_source(self, data: bytes, arrived: float) -> None:
        self.image_arrivals[stamp_of(data)] = arrived
        while len(self.image_arrivals) > 256:
            del self.image_arrivals[next(iter(self.image_arrivals))]

        self._camera_frame = frame_of(data)

    def _on_transforms(self, data: bytes, static: bool) -> None:
        for transform in deserialize_message(data, TFMessage).transforms:
            # The imagined camera's own transform is a leaf that nothing here asks for.
            self._tree.add(transform, static=static)

    def _on_frame(self, data: bytes, arrived: float) -> None:
        frame = deserialize_message(data, ImaginedFrame)
        if any(frame.request_id.uuid):
            self.frames_of_requests += 1
            return
        self._last_frame = frame
        self.frame_arrivals.append(arrived)
        # An image's latency is that of the first frame that rests on it.
        came = self.image_arrivals.pop(to_ns(frame.source_stamp), None)
        if came is not None:
            self.latencies.append(arrived - came)

    def _on_status(self, data: bytes, arrived: float) -> None:
        self._status = deserialize_message(data, ImaginationStatus)

    def _on_depth(self, data: bytes, arrived: float) -> None:
        self._last_depth = data

    def _on_camera_info(self, data: bytes, arrived: float) -> None:
        self._camera_info = data

    def measured(self) -> dict[str, Any]:
        """Frames, their rate in Hz while they came, and latencies in ms of images to frames."""
        times = np.array(self.frame_arrivals)
        rate = (len(times) - 1) / float(times[-1] - times[0]) if len(times) > 1 else 0.0
        latency = np.array(self.latencies) * 1e3
        p50, p95 = np.percentile(latency, [50, 95]) if latency.size else (np.nan, np.nan)
        return {"frames": len(times), "frame_rate": rate,
                "latency_ms": {"p50": float(p50), "p95": float(p95)}}
