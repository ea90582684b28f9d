# SPDX-License-Identifier: Apache-2.0
"""Launch files: evaluated as `ros2 launch` does, checked, and their processes really started."""

from __future__ import annotations

import ast
import importlib
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from support.launch_evaluation import LAUNCH_FOLDER, LaunchedNode, evaluate, flattened
from support.ros import ROOT, Graph, NodeProcess

LAUNCH_FILES = sorted(path.name for path in LAUNCH_FOLDER.glob("*.launch.py"))
NODE_LAUNCH_FILES = ["closed_loop.launch.py", "demo.launch.py", "depth.launch.py",
                     "hindsight.launch.py", "imagination.launch.py", "replay.launch.py"]
REQUIRED = {"replay.launch.py": {"bag": "some_recording"}}
COMMON_ARGUMENTS = {"namespace", "use_sim_time", "params_file", "autostart", "log_level"}
TRANSPORT_VARIABLES = {"FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE",
                       "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}


def nodes_of(launch_file: str, **arguments: str) -> tuple[LaunchedNode, ...]:
    return evaluate(launch_file, **{**REQUIRED.get(launch_file, {}), **arguments}).nodes


def our_nodes(launch_file: str, **arguments: str) -> list[LaunchedNode]:
    return [node for node in nodes_of(launch_file, **arguments) if node.package == "inspatio_ros"]


def parameters_type(executable: str) -> type:
    """Return the parameters dataclass of the node that scripts/<executable> runs."""
    tree = ast.parse((ROOT / "scripts" / executable).read_text())
    module_name = next(entry.module for entry in ast.walk(tree)
                       if isinstance(entry, ast.ImportFrom) and entry.module)
    module = importlib.import_module(module_name)
    types = [value.parameters_type for value in vars(module).values()
             if isinstance(value, type) and value.__module__ == module_name
             and hasattr(value, "parameters_type")]
    assert len(types) == 1, f"{module_name} has {len(types)} classes with a parameters_type"
    return types[0]


def declared_parameters(executable: str) -> set[str]:
    from inspatio_ros.ros.parameters import BUILT_IN, describe

    return {info.name for info in describe(parameters_type(executable))} | set(BUILT_IN)


def test_the_expected_launch_files_exist() -> None:
    assert {*NODE_LAUNCH_FILES, "rviz.launch.py", "transport.launch.py"} <= set(LAUNCH_FILES)


@pytest.mark.parametrize("launch_file", LAUNCH_FILES)
def test_a_launch_file_is_short_and_evaluates(launch_file: str) -> None:
    assert len((LAUNCH_FOLDER / launch_file).read_text().splitlines()) <= 60
    assert evaluate(launch_file, **REQUIRED.get(launch_file, {})) is not None


@pytest.mark.parametrize("launch_file", LAUNCH_FILES)
def test_every_launch_file_sets_the_transport(launch_file: str) -> None:
    environment = evaluate(launch_file, **REQUIRED.get(launch_file, {})).environment
    assert set(environment) == TRANSPORT_VARIABLES
    profiles = {environment[name] for name in TRANSPORT_VARIABLES if "PROFILES" in name}
    assert len(profiles) == 1
    root = ElementTree.parse(profiles.pop()).getroot()
    assert root.tag.endswith("}dds")
    for node in nodes_of(launch_file):
        assert set(node.environment) >= TRANSPORT_VARIABLES


def test_a_profile_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/etc/mine.xml")
    description = evaluate("imagination.launch.py")
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in description.environment  # not changed
    (node,) = description.nodes
    assert node.environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == "/etc/mine.xml"


@pytest.mark.parametrize("launch_file", LAUNCH_FILES)
def test_arguments_are_described_and_closed_ones_have_choices(launch_file: str) -> None:
    arguments = evaluate(launch_file, **REQUIRED.get(launch_file, {})).arguments
    if launch_file in NODE_LAUNCH_FILES:
        assert set(arguments) >= COMMON_ARGUMENTS
    for name, argument in arguments.items():
        assert argument.description not in (None, "", "no description given"), name
        if name in ("use_sim_time", "autostart", "loop", "rviz", "hindsight"):
            assert list(argument.choices) == ["true", "false"], name
        if name == "log_level":
            assert "warn" in argument.choices


@pytest.mark.parametrize("launch_file", NODE_LAUNCH_FILES)
@pytest.mark.parametrize("argument", ["use_sim_time", "autostart", "log_level"])
def test_a_value_outside_the_choices_is_refused(launch_file: str, argument: str) -> None:
    with pytest.raises(RuntimeError, match=argument):
        nodes_of(launch_file, **{argument: "maybe"})


def test_replay_without_a_bag_is_refused() -> None:
    with pytest.raises(RuntimeError, match="bag"):
        evaluate("replay.launch.py")


@pytest.mark.parametrize("launch_file", [*NODE_LAUNCH_FILES, "rviz.launch.py"])
def test_a_namespace_holds_the_nodes_and_their_tf(launch_file: str) -> None:
    nodes = nodes_of(launch_file, namespace="robot1")
    assert nodes
    for node in nodes:
        assert node.namespace == "/robot1"
        assert node.remappings["/tf"] == "tf"
        assert node.remappings["/tf_static"] == "tf_static"
    assert all(node.namespace == "/" for node in nodes_of(launch_file))


@pytest.mark.parametrize("launch_file", NODE_LAUNCH_FILES)
def test_arguments_reach_the_nodes(launch_file: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**:\n  ros__parameters:\n    autostart: true\n")
    nodes = our_nodes(launch_file, use_sim_time="true", autostart="false", log_level="debug",
                      params_file=str(mine))
    for node in nodes:
        assert node.command[node.command.index("--log-level") + 1] == "debug"
    main = nodes[0]
    assert mine in main.parameter_files
    assert main.parameters["use_sim_time"] is True
    assert main.parameters["autostart"] is False  # the argument wins over the file


@pytest.mark.parametrize("launch_file", [*NODE_LAUNCH_FILES, "rviz.launch.py"])
def test_every_executable_exists(launch_file: str) -> None:
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    runs_with = {entry.text for entry in package.iter("exec_depend")}
    for node in nodes_of(launch_file):
        if node.package == "inspatio_ros":
            assert (ROOT / "scripts" / node.executable).stat().st_mode & 0o111, node.executable
        else:
            assert node.package in runs_with


@pytest.mark.parametrize("launch_file", NODE_LAUNCH_FILES)
def test_every_parameter_given_is_declared(launch_file: str) -> None:
    for node in our_nodes(launch_file):
        assert all(path.is_file() for path in node.parameter_files), node.parameter_files
        unknown = set(node.parameters) - declared_parameters(node.executable)
        assert not unknown, f"{node.executable} declares no {sorted(unknown)}"


PARAMETER_FILES = sorted(path for path in (ROOT / "config").rglob("*.yaml")
                         if path.name != "record_qos.yaml")


@pytest.mark.parametrize("path", PARAMETER_FILES, ids=lambda path: path.name)
def test_every_key_of_a_parameter_file_is_declared(path: Path) -> None:
    sections = yaml.safe_load(path.read_text())
    executable = path.stem if (ROOT / "scripts" / path.stem).exists() else "imagination"
    known = declared_parameters(executable)
    for section in sections.values():
        unknown = {name for name, _ in flattened(section["ros__parameters"])} - known
        assert not unknown, f"{path.name}: {executable} declares no {sorted(unknown)}"


def test_demo_opens_rviz_unless_told_not_to() -> None:
    # First: launch leaves behind what it has started when a later package is missing.
    assert nodes_of("demo.launch.py")[0].package == "rviz2"
    assert "rviz2" not in {node.package for node in nodes_of("demo.launch.py", rviz="false")}


def test_the_recording_waits_for_the_node() -> None:
    player = next(node for node in nodes_of("replay.launch.py", camera_info="/front/info")
                  if node.executable == "bag_player")
    assert player.parameters["wait_for"] == ["/front/info"]


def test_topic_arguments_reach_both_transports() -> None:
    (node,) = nodes_of("imagination.launch.py", image="/front/image_raw", depth="/front/depth")
    assert node.remappings["camera/image_rect"] == "/front/image_raw"
    assert node.remappings["camera/image_rect/compressed"] == "/front/image_raw/compressed"
    assert node.remappings["depth/image_rect/compressedDepth"] == "/front/depth/compressedDepth"


def topics_of(ros: Graph, node: LaunchedNode) -> set[str]:
    """Return the full names of the topics that a running node reads or writes."""
    if (node.name, node.namespace) not in ros.node.get_node_names_and_namespaces():
        return set()
    reads = ros.node.get_subscriber_names_and_types_by_node(node.name, node.namespace)
    writes = ros.node.get_publisher_names_and_types_by_node(node.name, node.namespace)
    return {name for name, _ in [*reads, *writes]}


@pytest.fixture
def start() -> Iterator[Callable[[LaunchedNode], NodeProcess]]:
    """A function that starts a launched node as launch_ros would; what is left is killed."""
    with ExitStack() as stack:
        def started(node: LaunchedNode) -> NodeProcess:
            command = [sys.executable, str(ROOT / "scripts" / node.executable), *node.command[1:]]
            return stack.enter_context(NodeProcess(command, env=node.environment))
        yield started


def parameter_file(folder: Path, name: str, values: dict[str, str]) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
    return str(path)


# Between them, these read every input the node can have.
INPUT_VARIANTS: dict[str, dict[str, dict[str, str]]] = {
    "imagination.launch.py": {
        "sensor": {},
        "compressed": {"input.image_transport": "compressed",
                       "input.depth_transport": "compressedDepth"},
        "stereo": {"input.depth": "stereo", "transforms.source": "odometry"},
        "compressed_stereo": {"input.depth": "stereo", "input.image_transport": "compressed"},
    },
    "depth.launch.py": {"raw": {}, "compressed": {"input.image_transport": "compressed"}},
    "hindsight.launch.py": {"raw": {}, "compressed": {"input.image_transport": "compressed",
                                                      "transforms.source": "odometry"}},
}


@pytest.mark.parametrize("launch_file", INPUT_VARIANTS)
def test_every_remap_leads_to_a_topic_of_the_node(
        launch_file: str, ros: Graph, tmp_path: Path,
        start: Callable[[LaunchedNode], NodeProcess]) -> None:
    arguments = evaluate(launch_file).arguments
    inputs = {name: f"mapped/{name}" for name in arguments if name not in COMMON_ARGUMENTS}
    targets: set[str] = set()
    running: list[tuple[LaunchedNode, NodeProcess]] = []
    for variant, values in INPUT_VARIANTS[launch_file].items():
        file = parameter_file(tmp_path, variant, values)
        (node,) = nodes_of(launch_file, namespace=variant, params_file=file, **inputs)
        targets |= {target for source, target in node.remappings.items()
                    if not source.startswith("__")}
        running.append((node, start(node)))

    def missing() -> set[str]:
        found: set[str] = set()
        for node, process in running:
            assert process.running, process.output
            prefix = f"{node.namespace}/"
            found |= {topic.removeprefix(prefix) for topic in topics_of(ros, node)}
        return targets - found

    try:
        ros.spin_until(lambda: not missing(), 60.0, "every remapped topic")
    except AssertionError as error:
        raise AssertionError(f"no node reads or writes {sorted(missing())}") from error
    for _, process in running:
        assert process.interrupt() == 0, process.output


@pytest.mark.parametrize(("launch_file", "topics"), [
    ("imagination.launch.py", {"imagination/image", "imagination/status", "tf"}),
    ("depth.launch.py", {"depth/image_rect", "depth/camera_info"}),
    ("hindsight.launch.py", {"hindsight/score", "imagination/frame", "tf"}),
])
@pytest.mark.parametrize("namespace", ["", "robot1"])
def test_a_launched_node_comes_up_and_ends_cleanly(
        launch_file: str, topics: set[str], namespace: str, ros: Graph,
        start: Callable[[LaunchedNode], NodeProcess]) -> None:
    (node,) = nodes_of(launch_file, namespace=namespace)
    process = start(node)
    wanted = {f"{node.namespace.rstrip('/')}/{topic}" for topic in topics}
    ros.spin_until(lambda: wanted <= topics_of(ros, node) or not process.running, 60.0,
                   f"the topics of {node.full_name}")
    assert process.running, process.output
    assert process.interrupt() == 0, process.output


def test_a_node_without_autostart_waits_for_its_manager(
        ros: Graph, start: Callable[[LaunchedNode], NodeProcess]) -> None:
    from lifecycle_msgs.msg import State
    from lifecycle_msgs.srv import GetState

    (node,) = nodes_of("imagination.launch.py", autostart="false")
    process = start(node)
    answer = ros.call(GetState, f"{node.full_name}/get_state", GetState.Request(), 60.0)
    assert answer.current_state.id == State.PRIMARY_STATE_UNCONFIGURED
    assert process.interrupt() == 0, process.output


@pytest.mark.parametrize(("launch_file", "namespace"), [
    ("demo.launch.py", ""), ("replay.launch.py", "robot1")])
def test_a_replayed_recording_is_imagined(
        launch_file: str, namespace: str, ros: Graph,
        start: Callable[[LaunchedNode], NodeProcess]) -> None:
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image

    player = next(node for node in nodes_of("demo.launch.py") if node.executable == "bag_player")
    sample = player.parameters["bag"]
    arguments = {"bag": sample, "namespace": namespace}
    nodes = [node for node in nodes_of(launch_file, **arguments) if node.package == "inspatio_ros"]
    judged = {"hindsight"} if launch_file == "replay.launch.py" else set()
    assert {node.executable for node in nodes} == {"imagination", "bag_player"} | judged
    images: list[Image] = []
    topic = f"{nodes[0].full_name}/image"
    ros.node.create_subscription(Image, topic, images.append, QoSProfile(depth=1))
    running = [start(node) for node in nodes]
    ros.spin_until(lambda: len(images) >= 5 or not all(p.running for p in running), 90.0,
                   f"five images on {topic}")
    for process in running:
        assert process.running, process.output
    assert images[-1].header.frame_id == "imagined_camera_optical"
    assert max(images[-1].data) > 0
    for process in running:
        assert process.interrupt() == 0, process.output
