# SPDX-License-Identifier: Apache-2.0
"""Makes the environment of a checkout: Python packages, ROS 2, our interfaces, one `inspatio`.

    python3.11 tools/environment.py [--extras dev,ros] [--print-python]

ROS 2 is the sourced installation when there is one, else wheels of Jazzy (`.venv`) or, with
ROS_DISTRO=kilted, of Kilted (`.venv-kilted`). What is already there and unchanged is left alone,
so a second run takes under a second; parallel runs wait for each other. The result works
unsourced: `.venv/bin/python` and `.venv/bin/inspatio` find ROS and the interfaces by themselves.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_TIMEOUT_S = 5.0
WHEEL_DISTRIBUTIONS = ("jazzy", "kilted")
INTERFACE_FOLDERS = ("msg", "srv", "action")
SHARED_FOLDERS = ("config", "launch", "rviz", "samples", "weights")

# Runs at every start of the environment's Python, before the program.
HOOK = '''\
# SPDX-License-Identifier: Apache-2.0
"""Written by tools/environment.py: lets this Python find ROS and the interfaces unsourced."""

import os
import sys

_SOURCES = {sources!r}
_SOURCED = {sourced!r}
_LIBRARIES = os.path.join(sys.prefix, "lib")


def _prepend(variable: str, entry: str) -> None:
    entries = [e for e in os.environ.get(variable, "").split(os.pathsep) if e]
    if entry not in entries:
        os.environ[variable] = os.pathsep.join([entry, *entries])


def prepare() -> None:
    """Set the search paths; where the loader must see one, start this program anew, once."""
    if _SOURCES not in sys.path:
        sys.path.insert(0, _SOURCES)
    _prepend("AMENT_PREFIX_PATH", sys.prefix)
    seen = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if not _SOURCED:
        os.environ.setdefault("ROS_DISTRO", {distribution!r})
        if _LIBRARIES not in seen and os.environ.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None):
            # Started from another such environment: its libraries must not be mixed with ours. The
            # wheels' own hook, which runs next, then sets the path afresh.
            os.environ.pop("LD_LIBRARY_PATH", None)
            os.environ["AMENT_PREFIX_PATH"] = sys.prefix
            os.environ["ROS_DISTRO"] = {distribution!r}
    elif _LIBRARIES not in seen:
        _prepend("LD_LIBRARY_PATH", _LIBRARIES)
        os.execv(sys.executable, sys.orig_argv)


prepare()
'''


class EnvironmentFailure(Exception):
    """A sentence for the user: what is missing and what to do."""


def say(text: str) -> None:
    """Report one step on stderr, which leaves stdout to --print-python."""
    print(f"[environment] {text}", file=sys.stderr, flush=True)


def run(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
    """Run a step with its output kept for the failure message."""
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        raise EnvironmentFailure(f"{what} failed:\n$ {shlex.join(command)}\n{tail}")


def digest(parts: Iterable[str | Path]) -> str:
    """A hash of texts and of the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        total.update(b"\0")
    return total.hexdigest()


# --- what is to be made -------------------------------------------------------------------------


def sourced_distribution() -> str | None:
    """The name of a sourced ROS 2 installation whose rclpy this Python imports, or None."""
    name = os.environ.get("ROS_DISTRO")
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    # The environments made here set the same variables for the programs they start.
    foreign = [p for p in prefixes if not Path(p).resolve().is_relative_to(ROOT)]
    if not name or not foreign or "_ROS_WHEELS_BOOTSTRAP_COMPLETE" in os.environ:
        return None
    found = subprocess.run(
        [sys.executable, "-c", "import rclpy"], stdin=subprocess.DEVNULL, capture_output=True,
        check=False,
    )
    if found.returncode != 0:
        raise EnvironmentFailure(
            f"ROS 2 {name} is sourced, but {sys.executable} (Python {platform.python_version()}) "
            f"cannot import its rclpy. Run `make PYTHON=...` with the Python that {name} was "
            "built for (3.11 or newer), or use a shell where no ROS is sourced."
        )
    return name


def wheel_distribution() -> str:
    """The distribution whose wheels are used: ROS_DISTRO, Jazzy by default."""
    name = os.environ.get("ROS_DISTRO") or "jazzy"
    if name not in WHEEL_DISTRIBUTIONS:
        raise EnvironmentFailure(
            f"ROS_DISTRO={name}: there are wheels of {' and '.join(WHEEL_DISTRIBUTIONS)} only. "
            f"Unset ROS_DISTRO, or source an installed {name}."
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise EnvironmentFailure(
            f"There are no ROS 2 wheels for {sys.platform} {platform.machine()}: install ROS 2 "
            "from apt, source it, and run this again."
        )
    return name


def ros_wheels(distribution: str) -> list[str]:
    """The wheel names of tools/ros_wheels.txt for one distribution."""
    names = []
    for line in (ROOT / "tools/ros_wheels.txt").read_text().splitlines():
        name, _, only = (part.strip() for part in line.split("#")[0].partition(";"))
        if name and only in ("", distribution):
            names.append(name if name.startswith("ros-") else f"ros-{distribution}-{name}")
    return names


def python_requirements(extras: list[str]) -> list[str]:
    """Our dependencies and those of the extras, without torch, which is installed on its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    unknown = sorted(set(extras) - set(project["optional-dependencies"]))
    if unknown:
        raise EnvironmentFailure(f"pyproject.toml has no extra named {', '.join(unknown)}")
    wanted = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return [r for r in wanted if re.split(r"[\s<>=!~\[;]", r)[0] != "torch"]


# --- system packages ----------------------------------------------------------------------------


def missing_system_packages() -> list[str]:
    """The apt packages without which the build cannot work."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    missing = [p for tool, p in (("cmake", "cmake"), ("g++", "g++"), ("make", "make"))
               if shutil.which(tool) is None]
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing.append(f"{python}-dev")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        missing.append(f"{python}-venv")
    return missing


def install_system_packages() -> None:
    """Install what is missing where that is allowed, else raise with the one command to run."""
    missing = missing_system_packages()
    if not missing:
        return
    command = "apt-get update && apt-get install -y --no-install-recommends " + " ".join(missing)
    by_hand = EnvironmentFailure(
        "System packages are missing. Run this, then try again:\n  sudo sh -c '" + command + "'"
    )
    if shutil.which("apt-get") is None:
        raise EnvironmentFailure(f"Please install: {', '.join(missing)}")
    prefix: list[str] = []
    if os.geteuid() != 0:
        prefix = ["sudo", "-n"]
        if shutil.which("sudo") is None or subprocess.run(
            [*prefix, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False
        ).returncode != 0:
            raise by_hand
    say(f"installing {' '.join(missing)}")
    run([*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-c", command],
        "Installing system packages")
    if missing_system_packages():
        raise by_hand


# --- steps --------------------------------------------------------------------------------------


class Environment:
    """One virtual environment and the record of what was put into it."""

    def __init__(self, folder: Path, distribution: str, sourced: bool) -> None:
        self.folder = folder
        self.distribution = distribution
        self.sourced = sourced
        self.python = folder / "bin/python"
        self._record = folder / "inspatio_environment.json"

    def step(self, name: str, wanted: str) -> bool:
        """Whether a step must run: its inputs are not the recorded ones."""
        return self._read().get(name) != wanted

    def finished(self, name: str, wanted: str) -> None:
        """Record a step; written beside and moved, so that a crash leaves the old record."""
        record = self._read() | {name: wanted}
        beside = self._record.with_suffix(".new")
        beside.write_text(json.dumps(record, indent=1))
        beside.replace(self._record)

    def _read(self) -> dict[str, str]:
        if not self._record.exists():
            return {}
        record: dict[str, str] = json.loads(self._record.read_text())
        return record

    @property
    def site_packages(self) -> Path:
        """Where the environment's Python looks for packages."""
        return self.folder / f"lib/python3.{sys.version_info.minor}/site-packages"

    def pip(self, arguments: list[str], what: str) -> None:
        """Run the environment's pip."""
        run([str(self.python), "-I", "-m", "pip", "install", "--quiet",
             "--disable-pip-version-check", "--retries", "2", *arguments], what)

    def build_variables(self) -> dict[str, str]:
        """The variables under which CMake finds the environment's ROS and Python."""
        env = dict(os.environ)
        # A sourced installation gives AMENT_PREFIX_PATH, an overlay gives CMAKE_PREFIX_PATH too.
        names = ("CMAKE_PREFIX_PATH", "AMENT_PREFIX_PATH") if self.sourced else ()
        known = [path for name in names for path in env.get(name, "").split(os.pathsep) if path]
        prefixes = os.pathsep.join(dict.fromkeys([str(self.folder), *known]))
        env["CMAKE_PREFIX_PATH"] = env["AMENT_PREFIX_PATH"] = prefixes
        env["PATH"] = os.pathsep.join([str(self.folder / "bin"), env.get("PATH", os.defpath)])
        env["VIRTUAL_ENV"] = str(self.folder)
        return env


def make_folder(env: Environment) -> None:
    """Create the virtual environment, anew when it belongs to another Python, ROS or place."""
    wanted = digest([str(ROOT), sys.version, sys.base_prefix, env.distribution, str(env.sourced)])
    if not env.step("folder", wanted) and env.python.exists():
        return
    say(f"making {env.folder.name} with Python {platform.python_version()}, "
        f"ROS 2 {env.distribution} ({'sourced' if env.sourced else 'wheels'})")
    options = ["--system-site-packages"] if env.sourced else []
    run([sys.executable, "-m", "venv", "--clear", *options, str(env.folder)], "Making the venv")
    env.finished("folder", wanted)


def torch_source() -> list[str]:
    """Options that keep pip from fetching gigabytes of CUDA where there is no NVIDIA GPU."""
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return []
    try:
        with urllib.request.urlopen(f"{TORCH_CPU_INDEX}/torch/", timeout=PROBE_TIMEOUT_S):
            return ["--extra-index-url", TORCH_CPU_INDEX]
    except (urllib.error.URLError, OSError) as reason:
        say(f"the index of CPU builds of torch does not answer ({reason}): taking the default one")
        return []


def resolves_to_cpu_torch(env: Environment) -> bool:
    """Whether pip, configured as it is, would take a CPU build of torch."""
    done = subprocess.run(
        [str(env.python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", TORCH],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )
    if done.returncode != 0:
        return False  # the installation proper repeats it and reports why
    installs = json.loads(done.stdout)["install"]
    return any(item["metadata"]["version"].endswith("+cpu") for item in installs)


def install_packages(env: Environment, extras: list[str]) -> None:
    """Install torch, our dependencies and, without a sourced ROS, the wheels of ROS."""
    wheels = [] if env.sourced else ros_wheels(env.distribution)
    requirements = [*python_requirements(extras), "setuptools>=68", *wheels]
    wanted = digest([TORCH, *sorted(requirements)])
    if not env.step("packages", wanted):
        return
    say("installing torch")
    env.pip([TORCH, *([] if resolves_to_cpu_torch(env) else torch_source())], "Installing torch")
    say(f"installing {len(requirements)} packages")
    env.pip([TORCH, *requirements], "Installing the Python packages")
    if not env.sourced:
        point_wheels_at_this_python(env)
    env.finished("packages", wanted)


def point_wheels_at_this_python(env: Environment) -> None:
    """Rewrite the CMake targets that name the headers of the Python that built the wheels."""
    headers = sysconfig.get_paths()["include"]
    numpy_headers = subprocess.run(
        [str(env.python), "-c", "import numpy; print(numpy.get_include())"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    ).stdout.strip()
    for path in (env.folder / "share").rglob("*.cmake"):
        text = path.read_text(errors="surrogateescape")
        fixed = re.sub(r"/opt/python/[^;\"]*/numpy/_?core/include", numpy_headers, text)
        fixed = re.sub(r"/opt/python/[^;\"/]*/include/python3\.\d+", headers, fixed)
        if fixed != text:
            path.write_text(fixed, errors="surrogateescape")


def build_interfaces(env: Environment) -> None:
    """Build our messages, and beside wheels tf2_msgs, into the environment."""
    sources = [] if env.sourced else [ROOT / "tools/tf2_msgs"]
    sources.append(ROOT)
    files: list[Path] = []
    for source in sources:
        files += [source / "CMakeLists.txt", source / "package.xml"]
        for folder in INTERFACE_FOLDERS:
            files += sorted((source / folder).glob("*.*"))
    # The generated code belongs to one ROS, Python and numpy; other packages may change freely.
    built_with = sorted(
        folder.name
        for pattern in ("ros_*.dist-info", "numpy-*.dist-info")
        for folder in env.site_packages.glob(pattern)
    )
    wanted = digest([*built_with, *map(str, files), *files])
    if not env.step("interfaces", wanted):
        return
    say("building the interfaces")
    for source in sources:
        folder = env.folder / "interfaces_build" / source.name
        manifest = folder / "install_manifest.txt"
        outdated = manifest.read_text().splitlines() if manifest.exists() else []
        shutil.rmtree(folder, ignore_errors=True)
        variables = env.build_variables()
        run(["cmake", "-S", str(source), "-B", str(folder), f"-DCMAKE_INSTALL_PREFIX={env.folder}",
             f"-DPython3_EXECUTABLE={env.python}", "-DCMAKE_BUILD_TYPE=Release",
             "-DBUILD_TESTING=OFF", "-DINSPATIO_INTERFACES_ONLY=ON"],
            f"Configuring {source.name}", variables)
        run(["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1)],
            f"Building {source.name}", variables)
        for line in outdated:  # an interface that was removed must not stay importable
            Path(line).unlink(missing_ok=True)
        run(["cmake", "--install", str(folder)], f"Installing {source.name}", variables)
    env.finished("interfaces", wanted)


def link_checkout(env: Environment) -> None:
    """Let the environment use the checkout: sources, data folders, executables, start-up hook."""
    # A folder with this one link, rather than the checkout itself, goes on the path: the
    # checkout's `launch/` would otherwise be importable as a module `launch`.
    sources = env.folder / "source"
    sources.mkdir(exist_ok=True)
    point_link(sources / "inspatio_ros", ROOT / "inspatio_ros")
    write_if_changed(
        env.site_packages / "_inspatio_environment.py",
        HOOK.format(
            sources=str(sources), sourced=env.sourced, distribution=env.distribution
        ),
    )
    write_if_changed(
        env.site_packages / "_inspatio_environment.pth",
        "import _inspatio_environment\n",
    )
    share = env.folder / "share/inspatio_ros"
    share.mkdir(parents=True, exist_ok=True)
    for name in SHARED_FOLDERS:
        if (ROOT / name).is_dir():
            point_link(share / name, ROOT / name)
    executables = env.folder / "lib/inspatio_ros"
    executables.mkdir(exist_ok=True)
    wrappers = {path.name: path for path in sorted((ROOT / "scripts").iterdir()) if path.is_file()}
    for stale in executables.iterdir():
        if stale.name not in wrappers:
            stale.unlink()
    for name, path in wrappers.items():
        text = re.sub(r"\A#!.*", f"#!{env.python}", path.read_text())
        write_if_changed(executables / name, text, mode=0o755)
        if name == "inspatio":
            write_if_changed(env.folder / "bin/inspatio", text, mode=0o755)


def compile_kernels(env: Environment) -> None:
    """Compile what the nodes would compile at their first start, while nobody waits for them."""
    kernels = [path for path in sorted((ROOT / "inspatio_ros").rglob("*.py"))
               if "njit" in path.read_text()]
    wanted = digest([*map(str, kernels), *kernels])
    if not env.step("kernels", wanted):
        return
    say("compiling the kernels")
    try:
        run([str(env.python), str(ROOT / "tools/compile_kernels.py")], "Compiling the kernels")
    except EnvironmentFailure as failure:
        # The environment is complete all the same: the first start of a node is slow, or shows
        # the same error in its own words.
        say(str(failure))
        return
    env.finished("kernels", wanted)


def point_link(link: Path, target: Path) -> None:
    """Make `link` a link to `target`."""
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def write_if_changed(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one move unless it already says so."""
    if path.exists() and path.read_text() == text:
        return
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.chmod(mode)
    beside.replace(path)


def main() -> int:
    """Make or update the environment; say why and return 1 when that is not possible."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default="dev,ros", help="extras of pyproject.toml, by comma")
    parser.add_argument("--print-python", action="store_true", help="print the interpreter's path")
    options = parser.parse_args()
    try:
        sourced = sourced_distribution()
        distribution = sourced or wheel_distribution()
        kilted_wheels = sourced is None and distribution == "kilted"
        folder = ROOT / (".venv-kilted" if kilted_wheels else ".venv")
        env = Environment(folder, distribution, sourced is not None)
        with open(__file__) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            install_system_packages()
            make_folder(env)
            install_packages(env, [e for e in options.extras.split(",") if e])
            build_interfaces(env)
            link_checkout(env)
            compile_kernels(env)
    except EnvironmentFailure as failure:
        say(str(failure))
        return 1
    if options.print_python:
        print(env.python)
    return 0


if __name__ == "__main__":
    sys.exit(main())
