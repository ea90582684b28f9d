# SPDX-License-Identifier: Apache-2.0
"""Makes samples/: the office recording, shortened, and the two example motions.

    .venv/bin/python tools/make_sample_bag.py RECORDING PARITY_FIXTURE

RECORDING: the rosbag2 of the office sequence that samples/office/README.md names.
PARITY_FIXTURE: safetensors whose metadata `traj` holds the keys of the motions.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from safetensors import safe_open  # noqa: E402

from inspatio_ros.files.bags import BagReader, BagWriter  # noqa: E402
from inspatio_ros.geometry.motions import CameraMotion, write_motion  # noqa: E402
from inspatio_ros.messages.poses import to_ns  # noqa: E402

IMAGE, PLAN = "/camera/color/image_raw/compressed", "/plan"
FRAMES = 92
# tf and odometry go on this long after the last picture, so that its pose is known for certain.
TAIL_NS = 100_000_000
MAX_BYTES = 12 * 2**20
MOTIONS = ("x_y_circle_cycle", "zoom_out_in")


def write_sample(source: Path, target: Path) -> dict[str, int]:
    """The first FRAMES pictures of `source` and what belongs to them; messages by topic.

    Messages are copied byte for byte, except that plans end at the last picture: every planned
    pose has a picture to compare with.
    """
    with BagReader(source) as bag, BagWriter(target) as writer:
        last_ns = [m.stamp_ns for m in bag.messages([IMAGE])][FRAMES - 1]
        for topic in bag.topics.values():
            writer.add_topic(topic.name, topic.message_type, latched=topic.latched,
                             depth=1 if topic.latched else 10)
        for message in bag.messages(stop_ns=last_ns + TAIL_NS):
            data = message.data
            if message.topic == PLAN:
                plan = bag.deserialize(message)
                poses = [p for p in plan.poses if to_ns(p.header.stamp) <= last_ns]
                if len(poses) < 2:
                    continue
                data = writer.serialize(writer.make(
                    "nav_msgs/msg/Path", header=plan.header, poses=poses))
            elif "camera" in message.topic and message.stamp_ns > last_ns:
                continue
            writer.write(message.topic, message.stamp_ns, data)
        return writer.counts


def write_motions(fixture: Path, folder: Path) -> None:
    """The example motions as three-line trajectory files."""
    with safe_open(fixture, "np") as file:
        keyframes = json.loads(file.metadata()["traj"])["keyframes"]
    folder.mkdir(parents=True, exist_ok=True)
    for name in MOTIONS:
        pitch, yaw, displacement = (np.asarray(keys, float) for keys in keyframes[name])
        write_motion(folder / f"{name}.txt",
                     CameraMotion(np.radians(pitch), np.radians(yaw), displacement))


def main() -> int:
    """Write both; 1 when samples/ got too large for the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recording", type=Path)
    parser.add_argument("parity_fixture", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "samples")
    options = parser.parse_args()
    office = options.output / "office"
    office.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.output) as temporary:
        # Named like the folder, which holds README and licence already.
        made = Path(temporary) / office.name
        for topic, count in sorted(write_sample(options.recording, made).items()):
            print(f"{count:5d}  {topic}")
        for file in made.iterdir():
            file.replace(office / file.name)
    write_motions(options.parity_fixture, options.output / "motions")
    size = sum(f.stat().st_size for f in options.output.rglob("*") if f.is_file())
    print(f"{options.output}: {size / 2**20:.2f} of {MAX_BYTES / 2**20:.0f} MiB")
    return 0 if size <= MAX_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
