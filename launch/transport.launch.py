# SPDX-License-Identifier: Apache-2.0
"""Environment of processes that exchange images: Fast DDS profile and malloc thresholds.

Starts nothing; the other launch files include it. Variables that are already set stay as they are.
"""

from launch import LaunchDescription
from launch.actions import SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

# glibc returns freed blocks above its threshold (128 kB at start) to the kernel, and pays page
# faults for each image again; 256 MiB keeps them.
MALLOC_BYTES = "268435456"


def generate_launch_description() -> LaunchDescription:
    profile = PathJoinSubstitution(
        [FindPackageShare("inspatio_ros"), "config", "fastdds_large_images.xml"])
    values = {
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,  # read by Kilted and later
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,  # read by Jazzy and earlier
        "MALLOC_MMAP_THRESHOLD_": MALLOC_BYTES,
        "MALLOC_TRIM_THRESHOLD_": MALLOC_BYTES,
    }
    return LaunchDescription([
        SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=value))
        for name, value in values.items()])
