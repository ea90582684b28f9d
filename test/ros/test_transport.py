# SPDX-License-Identifier: Apache-2.0
"""The shipped Fast DDS profile carries large images; without it they still arrive reliably."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from types import ModuleType
from typing import Any

import pytest

from support.launch_evaluation import evaluate
from support.ros import DOMAIN, ROOT

BENCHMARK = ROOT / "benchmarks" / "transport.py"
PROFILE = ROOT / "config" / "fastdds_large_images.xml"
NAMESPACE = {"dds": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
IMAGE_BYTES = 832 * 480 * 3


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    specification = importlib.util.spec_from_file_location("benchmark_transport", BENCHMARK)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def measured(transport: str, reader: str, seconds: float = 2.0) -> dict[str, Any]:
    output = subprocess.run(
        [sys.executable, str(BENCHMARK), "--transport", transport, "--reader", reader,
         "--seconds", str(seconds), "--domain", str(DOMAIN)],
        check=True, stdout=subprocess.PIPE, text=True, timeout=90).stdout
    (run,) = json.loads(output)["runs"]
    assert run["transport"] == transport
    assert run["reader"] == reader
    assert run["sent"] == round(30 * seconds)
    return run


def test_the_profile_holds_many_images_and_keeps_udp() -> None:
    root = ElementTree.parse(PROFILE).getroot()
    transports = {entry.findtext("dds:type", namespaces=NAMESPACE): entry for entry in
                  root.iterfind(".//dds:transport_descriptor", NAMESPACE)}
    assert set(transports) == {"SHM", "UDPv4"}
    segment = int(transports["SHM"].findtext("dds:segment_size", namespaces=NAMESPACE) or 0)
    message = int(transports["SHM"].findtext("dds:maxMessageSize", namespaces=NAMESPACE) or 0)
    assert segment >= 20 * IMAGE_BYTES
    assert message >= 8 * 10**6 > IMAGE_BYTES  # a cloud of half a million points as well
    used = [entry.text for entry in root.iterfind(".//dds:userTransports/dds:transport_id",
                                                  NAMESPACE)]
    assert used == [entry.findtext("dds:transport_id", namespaces=NAMESPACE)
                    for entry in transports.values()]
    assert root.findtext(".//dds:useBuiltinTransports", namespaces=NAMESPACE) == "false"
    assert root.find(".//dds:participant", NAMESPACE).get("is_default_profile") == "true"  # type: ignore[union-attr]


def test_the_benchmark_measures_what_the_launch_files_set(benchmark_module: ModuleType) -> None:
    launched = evaluate("transport.launch.py").environment
    measured_with = benchmark_module.environment("profile", 3)
    for name, value in launched.items():
        if name in benchmark_module.PROFILE_VARIABLES:
            assert PROFILE.samefile(value)
            assert PROFILE.samefile(measured_with[name])
        else:
            assert measured_with[name] == value
    assert not set(launched) & set(benchmark_module.environment("default", 3))


@pytest.mark.parametrize("reader", ["RELIABLE", "BEST_EFFORT"])
def test_with_the_profile_no_image_is_lost(reader: str) -> None:
    # An image takes some 2 ms; the limit leaves room for a busy machine, not for UDP fragments.
    # A machine whose processor is taken away for a moment is measured again.
    runs: list[dict[str, Any]] = []
    for _ in range(3):
        runs.append(measured("profile", reader))
        if runs[-1]["lost"] == 0 and runs[-1]["latency_ms"]["p50"] <= 10.0:
            break
    assert all(run["publish_failed"] == 0 for run in runs)
    assert runs[-1]["lost"] == 0, runs
    assert runs[-1]["latency_ms"]["p50"] <= 10.0, runs


def test_without_the_profile_a_reliable_reader_still_gets_the_images() -> None:
    run = measured("default", "RELIABLE")
    # The publisher keeps two images: on a busy machine a third may come before they are through.
    assert run["lost"] <= 0.1 * run["sent"]
