# SPDX-License-Identifier: Apache-2.0
"""Recordings: round trips, cut-off and damaged files, what is missing, and posed observations."""

from __future__ import annotations

import shutil
import string
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
import yaml
from mcap.reader import make_reader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.ndimage import map_coordinates

from inspatio_ros.files.bag_observations import (
    BagObservations,
    BagOptions,
    BagTopics,
    find_topics,
)
from inspatio_ros.files.bag_storage import BagError
from inspatio_ros.files.bags import BagReader, BagWriter, package_definitions
from inspatio_ros.files.recordings import open_recording, recording_name
from inspatio_ros.geometry import rigid
from inspatio_ros.messages.poses import to_ns
from inspatio_ros.sensing.observation import Observation
from inspatio_ros.share import share_folder
from support.bags import (
    MS,
    START_NS,
    copy_part,
    cut,
    header_of,
    text_bytes,
    write_texts,
)
from support.data import data_dir

SAMPLE = share_folder("samples") / "office"
COLOR = "/camera/color/image_raw/compressed"
COLOR_INFO = "/camera/color/camera_info"
DEPTH = "/camera/aligned_depth_to_color/image_raw/compressedDepth"
DEPTH_INFO = "/camera/aligned_depth_to_color/camera_info"
POSED = ("/tf", "/tf_static")


# Round trips.

def test_messages_come_back_as_written(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/a", "std_msgs/msg/String", latched=True)
        bag.add_topic("/b", "std_msgs/msg/String")
        written = [("/a" if at % 3 == 0 else "/b", START_NS + at, text_bytes(bag, f"nr {at}"))
                   for at in range(50)]
        for message in written:
            bag.write(*message)
        assert bag.counts == {"/a": 17, "/b": 33}
    with BagReader(tmp_path / "bag") as bag:
        assert list(bag.messages()) == written
        assert [bag.deserialize(m).data for m in bag.messages(["/a"])][:2] == ["nr 0", "nr 3"]
        part = list(bag.messages(start_ns=START_NS + 10, stop_ns=START_NS + 20))
        assert part == written[10:20]
        assert (bag.start_ns, bag.end_ns) == (START_NS, START_NS + 49)
        assert {t.name: (t.count, t.latched) for t in bag.topics.values()} == {
            "/a": (17, True), "/b": (33, False)}
        assert bag.damage == ""


def test_an_independent_reader_agrees(tmp_path: Path) -> None:
    bag = write_texts(tmp_path / "bag", {"/a": [(0, "one"), (5, "two")]}, latched=["/a"])
    (data,) = bag.glob("*.mcap")
    with data.open("rb") as file:
        found = [(schema.name, channel.topic, channel.message_encoding, message.log_time)
                 for schema, channel, message in make_reader(file).iter_messages()]
    assert found == [("std_msgs/msg/String", "/a", "cdr", START_NS + at * MS) for at in (0, 5)]
    metadata = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["version"] == 9
    assert metadata["message_count"] == 2
    (topic,) = metadata["topics_with_message_count"]
    (offer,) = topic["topic_metadata"]["offered_qos_profiles"]
    assert (offer["durability"], offer["reliability"]) == ("transient_local", "reliable")


def test_own_messages_are_written_and_read(tmp_path: Path) -> None:
    assert "inspatio_ros/msg/ImaginedFrame" in package_definitions()
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/candidate", "inspatio_ros/msg/Candidate")
        path = bag.make("nav_msgs/msg/Path", header=header_of(bag, START_NS, "odom"), poses=[])
        bag.write("/candidate", START_NS, bag.serialize(bag.make(
            "inspatio_ros/msg/Candidate", id="left", path=path, speed=0.5)))
    with BagReader(tmp_path / "bag") as bag:
        (message,) = [bag.deserialize(m) for m in bag.messages()]
    assert (message.id, message.path.header.frame_id, message.speed) == ("left", "odom", 0.5)


def test_the_recordings_own_definition_of_a_type_wins(tmp_path: Path) -> None:
    # As of another distribution: what this program knows under the name has other fields.
    name = "diagnostic_msgs/msg/KeyValue"
    types = get_typestore(Stores.EMPTY)
    types.register(get_types_from_msg("int32 key\nint32 value\n", name))
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/a", name, typestore=types)
        writer.write(connection, START_NS, types.serialize_cdr(
            types.types[name](key=3, value=4), name))
    with BagReader(tmp_path / "bag") as bag:
        (message,) = [bag.deserialize(m) for m in bag.messages()]
    assert (message.key, message.value) == (3, 4)


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    write_texts(tmp_path / "bag", {"/a": [(0, "precious")]})
    with pytest.raises(BagError, match="exists; a recording is never overwritten"):
        BagWriter(tmp_path / "bag")
    with BagReader(tmp_path / "bag") as bag:
        assert len(list(bag.messages())) == 1


def test_unknown_types_cannot_be_announced(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        assert not bag.knows("alien_msgs/msg/Thing")
        with pytest.raises(BagError, match="/a: no definition of alien_msgs/msg/Thing"):
            bag.add_topic("/a", "alien_msgs/msg/Thing")


# What is no recording, or lacks something.

def _folder_of_notes(folder: Path) -> Path:
    (folder / "notes.txt").write_text("hello")
    return folder


def _notes(folder: Path) -> Path:
    return _folder_of_notes(folder) / "notes.txt"


def _garbage(folder: Path, suffix: str) -> Path:
    path = folder / f"bag{suffix}"
    path.write_bytes(bytes(Random(1).randbytes(5000)))
    return path


def _no_data(folder: Path) -> Path:
    bag = write_texts(folder / "bag", {"/a": [(0, "a")]})
    next(bag.glob("*.mcap")).unlink()
    return bag


@pytest.mark.parametrize(("make", "message"), [
    (lambda folder: folder / "absent", "no such recording"),
    (_folder_of_notes, "no metadata.yaml, no .mcap and no .db3 file"),
    (_notes, "not a rosbag2 folder, .mcap or .db3 file"),
    (lambda folder: _garbage(folder, ".mcap"), "nothing can be read"),
    (lambda folder: _garbage(folder, ".db3"), "nothing can be read"),
    (_no_data, "nothing can be read"),
])
def test_no_recording_is_said_so(
        tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(BagError, match=message):
        BagReader(make(tmp_path))


def test_a_missing_topic_lists_what_there_is(tmp_path: Path) -> None:
    message = r"no topic /c; it has /a \(std_msgs/msg/String, 1\), /b"
    with BagReader(write_texts(tmp_path / "bag", {"/a": [(0, "a")], "/b": []})) as bag, \
            pytest.raises(BagError, match=message):
        bag.messages(["/c"])


def test_unreadable_bytes_name_topic_and_type(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/image", "sensor_msgs/msg/Image")
        bag.write("/image", START_NS, b"\x00\x01\x00\x00\x07")
    with BagReader(tmp_path / "bag") as bag:
        (stored,) = bag.messages()
        with pytest.raises(BagError, match="/image at 16.* is no readable sensor_msgs/msg/Image"):
            bag.deserialize(stored)


# Cut off and damaged.

@pytest.fixture(scope="module")
def long_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 MB in several chunks: 400 messages of text that hardly compresses."""
    random = Random(3)
    with BagWriter(tmp_path_factory.mktemp("long") / "bag") as bag:
        bag.add_topic("/a", "std_msgs/msg/String", latched=True)
        for at in range(400):
            text = f"{at} " + "".join(random.choices(string.printable, k=10_000))
            bag.write("/a", START_NS + at * MS, text_bytes(bag, text))
    return bag.path


def numbers(bag: BagReader) -> list[int]:
    return [int(bag.deserialize(message).data.split()[0]) for message in bag.messages()]


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9, 0.9999])
def test_a_cut_recording_is_read_as_far_as_it_goes(
        long_bag: Path, tmp_path: Path, share: float) -> None:
    with BagReader(cut(long_bag, tmp_path / "cut", share)) as bag:
        found = numbers(bag)
        assert found == list(range(len(found)))
        assert len(found) >= 400 * share - 150, "more was lost than one chunk"
        assert bag.topics["/a"].count == len(found)
        assert bag.topics["/a"].latched
        assert bag.end_ns == START_NS + (len(found) - 1) * MS
        assert f"{len(found)} messages" in bag.damage
        assert numbers(bag) == found, "a second time"


def test_a_recorder_that_was_killed_leaves_no_metadata(long_bag: Path, tmp_path: Path) -> None:
    killed = cut(long_bag, tmp_path / "killed", 0.6)
    (killed / "metadata.yaml").unlink()
    with BagReader(killed) as bag:
        assert numbers(bag)[:3] == [0, 1, 2]
        assert "it has no metadata.yaml" in bag.damage


def test_almost_nothing_left_is_an_error(long_bag: Path, tmp_path: Path) -> None:
    with pytest.raises(BagError, match="nothing can be read"):
        BagReader(cut(long_bag, tmp_path / "stub", 0.001))


def test_damage_in_the_middle_ends_the_reading_with_a_reason(
        long_bag: Path, tmp_path: Path) -> None:
    damaged = cut(long_bag, tmp_path / "damaged", 1.0)
    (data,) = damaged.glob("*.mcap")
    content = bytearray(data.read_bytes())
    middle = len(content) // 2
    content[middle:middle + 2000] = bytes(2000)
    data.write_bytes(content)
    with BagReader(damaged) as bag:
        found = numbers(bag)
        assert found == list(range(len(found)))
        assert 0 < len(found) < 300
        assert "lost" in bag.damage


def _write_sqlite(path: Path) -> Path:
    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/a", "std_msgs/msg/String", typestore=types)
        for at in range(200):
            text = f"{at} " + "x" * 3000
            message = types.types["std_msgs/msg/String"](data=text)
            writer.write(connection, START_NS + at * MS,
                         types.serialize_cdr(message, "std_msgs/msg/String"))
    return path


def test_a_database_is_read_whole_or_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = _write_sqlite(tmp_path / "whole")
    with BagReader(whole) as bag:
        assert numbers(bag) == list(range(200))
    shutil.copytree(whole, tmp_path / "cut")
    (data,) = (tmp_path / "cut").glob("*.db3")
    data.write_bytes(data.read_bytes()[:300_000])
    with BagReader(tmp_path / "cut") as bag:
        found = numbers(bag)
        assert found == list(range(len(found)))
        assert 20 < len(found) < 200
        assert "breaks off" in bag.damage


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    random = Random(5)
    picture = random.randbytes(200_000)
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/a", "sensor_msgs/msg/CompressedImage")
        for at in range(250):  # 50 MB
            data = np.frombuffer(random.randbytes(100) + picture, np.uint8)
            bag.write("/a", START_NS + at * MS, bag.serialize(bag.make(
                "sensor_msgs/msg/CompressedImage", header=header_of(bag, START_NS, "camera"),
                format="jpeg", data=data)))
    for path in (tmp_path / "bag", cut(tmp_path / "bag", tmp_path / "cut", 0.9)):
        tracemalloc.start()
        with BagReader(path) as bag:
            count = sum(1 for _ in bag.messages())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count > 200
        assert peak < 15e6, f"{path.name}: {peak / 1e6:.1f} MB"


# Posed observations.

def test_the_sample_becomes_posed_observations() -> None:
    with BagReader(SAMPLE) as bag:
        reading = BagObservations(bag)
        assert reading.topics == BagTopics(
            image=COLOR, image_info=COLOR_INFO, depth=DEPTH, depth_info=DEPTH_INFO, odom="/odom",
            plan="/plan")
        count = 0
        stamps = []
        for observation in reading:
            count += 1
            stamps.append(observation.stamp_ns)
            assert observation.image.shape == (360, 540, 3)
            assert 0.3 < observation.depth_coverage < 1.0
        assert count == reading.statistics.observations == 92
        assert not reading.statistics.dropped
    assert stamps == sorted(set(stamps))


def test_the_samples_plan_is_the_path_really_taken() -> None:
    with BagReader(SAMPLE) as bag:
        seen = {o.stamp_ns: o.world_from_camera for o in BagObservations(bag)}
        base_from_camera = rigid.BODY_FROM_OPTICAL
        compared = 0
        for message in bag.messages(["/plan"]):
            plan = bag.deserialize(message)
            assert plan.header.frame_id == "odom"
            for pose in plan.poses:
                p, q = pose.pose.position, pose.pose.orientation
                world_from_base = rigid.from_quaternion([q.x, q.y, q.z, q.w], [p.x, p.y, p.z])
                np.testing.assert_allclose(world_from_base @ base_from_camera,
                                           seen[to_ns(pose.header.stamp)], atol=1e-5)
                compared += 1
        assert compared > 200


def test_the_same_twice() -> None:
    with BagReader(SAMPLE) as bag:
        reading = BagObservations(bag)
        first, second = ([(o.stamp_ns, o.image.tobytes(), o.depth.tobytes(),
                           o.world_from_camera.tobytes()) for o in islice(iter(reading), 5)]
                         for _ in range(2))
    assert first == second


def test_poses_come_from_odometry_where_tf_does_not_connect(tmp_path: Path) -> None:
    bag = copy_part(SAMPLE, tmp_path / "bag", (COLOR, COLOR_INFO, DEPTH, DEPTH_INFO, "/odom",
                                               "/tf_static"), stop=1.5)
    with BagReader(bag) as reader:
        from_odometry = list(BagObservations(reader))
    with BagReader(SAMPLE) as reader:
        from_tf = list(islice(iter(BagObservations(reader)), len(from_odometry)))
    assert len(from_odometry) >= 6
    for one, two in zip(from_odometry, from_tf, strict=True):
        assert one.stamp_ns == two.stamp_ns
        np.testing.assert_allclose(one.world_from_camera, two.world_from_camera, atol=1e-9)


@pytest.mark.parametrize(("left_out", "message"), [
    ((COLOR,), "lacks an image; it has /camera"),
    ((COLOR_INFO,), f"lacks a CameraInfo beside {COLOR}; it has /camera"),
    ((*POSED, "/odom"), "neither tf nor odometry.*; it has /camera"),
    (("/tf", "/odom"), "none of its pictures became an observation: .*odom"),
])
def test_missing_topics_are_named_and_what_there_is_listed(
        tmp_path: Path, left_out: tuple[str, ...], message: str) -> None:
    with BagReader(SAMPLE) as bag:
        kept = [topic for topic in bag.topics if topic not in left_out]
    part = copy_part(SAMPLE, tmp_path / "bag", kept, stop=1.0)
    with BagReader(part) as bag, pytest.raises(BagError, match=message):
        list(BagObservations(bag))


@pytest.mark.parametrize("left_out", [DEPTH, DEPTH_INFO])
def test_depth_that_is_asked_for_and_not_there(tmp_path: Path, left_out: str) -> None:
    with BagReader(SAMPLE) as bag:
        kept = [topic for topic in bag.topics if topic != left_out]
    part = copy_part(SAMPLE, tmp_path / "bag", kept, stop=1.0)
    message = "lacks a depth image, or a right image, with its CameraInfo; it has /camera"
    with BagReader(part) as bag, pytest.raises(BagError, match=message):
        BagObservations(bag, options=BagOptions(depth="sensor"))
    with BagReader(part) as bag, pytest.raises(BagError, match=message):
        find_topics(bag)


def test_a_recording_of_one_camera_and_its_poses_has_depth_from_motion(tmp_path: Path) -> None:
    with BagReader(SAMPLE) as bag:
        kept = [topic for topic in bag.topics if topic not in (DEPTH, DEPTH_INFO)]
    part = copy_part(SAMPLE, tmp_path / "bag", kept, stop=2.5)
    with BagReader(part) as bag:
        moving = BagObservations(bag)
        assert moving.options.depth == "motion"
        seen = list(moving)
    assert len(seen) >= 8
    # Before the camera has moved there is nothing to tell depth by: dropped and counted.
    assert moving.statistics.dropped["no_depth_yet"] >= 1
    with BagReader(SAMPLE) as bag:
        measured = {one.stamp_ns: one.depth for one in islice(iter(BagObservations(bag)), 40)}
    errors = [np.abs(one.depth / measured[one.stamp_ns] - 1) for one in seen[-5:]]
    everything = np.concatenate([e[np.isfinite(e)] for e in errors])
    assert everything.size > 0.3 * sum(e.size for e in errors)
    assert everything.mean() <= 0.15


def test_a_chosen_topic_that_is_not_there(tmp_path: Path) -> None:
    with BagReader(SAMPLE) as bag, pytest.raises(BagError, match="no topic /cam; it has /camera"):
        find_topics(bag, BagTopics(image="/cam"))


def test_a_recording_cut_off_gives_the_observations_before(tmp_path: Path) -> None:
    with BagReader(cut(SAMPLE, tmp_path / "cut", 0.4)) as bag:
        reading = BagObservations(bag)
        assert 20 <= sum(1 for _ in reading) <= 45
        assert bag.damage


def test_latched_transforms_may_come_late(tmp_path: Path) -> None:
    part = copy_part(SAMPLE, tmp_path / "part", stop=1.0)
    with BagReader(part) as bag, BagWriter(tmp_path / "late") as late:
        messages = list(bag.messages())
        for topic in bag.topics.values():
            late.add_topic(topic.name, topic.message_type, latched=topic.latched)
        for message in messages:
            if message.topic != "/tf_static":
                late.write(*message)
        late.write("/tf_static", messages[-1].stamp_ns, next(
            m.data for m in messages if m.topic == "/tf_static"))
    with BagReader(tmp_path / "late") as bag:
        assert len(list(BagObservations(bag))) == 5


def test_a_depth_picture_without_color_is_counted(tmp_path: Path) -> None:
    part = copy_part(SAMPLE, tmp_path / "part", stop=1.5)
    with BagReader(part) as bag, BagWriter(tmp_path / "holes") as holes:
        for topic in bag.topics.values():
            holes.add_topic(topic.name, topic.message_type, latched=topic.latched)
        skipped = 0
        for message in bag.messages():
            if message.topic == COLOR and skipped < 2:
                skipped += 1
                continue
            holes.write(*message)
    with BagReader(tmp_path / "holes") as bag:
        reading = BagObservations(bag)
        assert len(list(reading)) == 6
        assert reading.statistics.dropped == {"depth_unmatched": 2}


def test_a_distorted_camera_is_refused_unless_rectified(tmp_path: Path) -> None:
    bag = data_dir("kitti_residential_bag") / "bag"
    topics = ("/left/image_raw/compressed", "/left/camera_info", "/right/image_raw/compressed",
              "/right/camera_info", *POSED)
    part = copy_part(bag, tmp_path / "part", topics, stop=0.5)
    with BagReader(part) as reader:
        with pytest.raises(BagError, match="/left/camera_info: .* lens distortion; rectify"):
            list(BagObservations(reader, options=BagOptions(rectify=False)))
        first = next(iter(BagObservations(reader, options=BagOptions(stereo_scale=0.25))))
    assert (first.camera.width, first.camera.height) < (1300, 400)
    assert first.depth_coverage > 0.3


def warp_error(one: Observation, two: Observation) -> float:
    """Median grey difference of `one`'s pixels to where they are in `two`."""
    rows, columns = np.nonzero(np.isfinite(one.depth) & (one.depth < 25.0))
    z = one.depth[rows, columns].astype(float)
    camera = one.camera
    points = np.stack([(columns - camera.cx) / camera.fx * z, (rows - camera.cy) / camera.fy * z,
                       z, np.ones_like(z)])
    x, y, z = (rigid.invert(two.world_from_camera) @ one.world_from_camera @ points)[:3]
    u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
    inside = (z > 0.5) & (u > 0) & (v > 0) & (u < camera.width - 1) & (v < camera.height - 1)
    grey_one, grey_two = (cv2.cvtColor(o.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
                          for o in (one, two))
    there = map_coordinates(grey_two, [v[inside], u[inside]], order=1)
    return float(np.median(np.abs(there - grey_one[rows[inside], columns[inside]])))


def test_a_wrong_time_offset_makes_views_fit_worse(tmp_path: Path) -> None:
    bag = data_dir("kitti_residential_bag") / "bag"
    topics = ("/left/image_raw/compressed", "/left/camera_info", "/right/image_raw/compressed",
              "/right/camera_info", *POSED)
    # The end of a turn: the relative pose of two pictures depends on when they were taken.
    part = copy_part(bag, tmp_path / "part", topics, start=1.1, stop=2.1)
    errors = {}
    with BagReader(part) as reader:
        for offset in (0.0, 0.1, -0.1):
            options = BagOptions(stereo_scale=0.25, time_offset=offset)
            found = list(BagObservations(reader, options=options))[1:]
            errors[offset] = np.mean([warp_error(*pair)
                                      for pair in zip(found, found[2:], strict=False)])
    assert errors[0.0] < 0.8 * min(errors[0.1], errors[-0.1]), errors


# One way to open either kind.

def test_open_recording_reads_bags_and_folders(tmp_path: Path) -> None:
    part = copy_part(SAMPLE, tmp_path / "part", stop=0.5)
    with open_recording(part) as observations:
        assert len(list(observations)) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="no metadata.yaml"), open_recording(tmp_path / "empty"):
        pass
    assert recording_name(part) == "part"
    assert recording_name(tmp_path / "office/bag") == "office"
