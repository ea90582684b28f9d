# SPDX-License-Identifier: Apache-2.0
"""What the worker of the imagination node does, step by step. Only its thread runs this.

A step takes in what came (commands, one observation, plan, goal) and imagines one block, so that
nothing waits longer than a block.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from inspatio_ros.depth.sensor_depth import decode_depth
from inspatio_ros.evaluation.calibration import MonotoneMap, prior_error_of
from inspatio_ros.geometry import rigid
from inspatio_ros.geometry.camera import PinholeCamera
from inspatio_ros.geometry.trajectory import CameraTrajectory, EmptyPath
from inspatio_ros.imagination.assessment import Drift
from inspatio_ros.imagination.engine import BLOCKS_AT_ONCE, ImaginationEngine, ImaginedWay
from inspatio_ros.imagination.request import (
    ImaginationRequest,
    ImaginedFrame,
    NoGeometry,
)
from inspatio_ros.memory.stereo_memory import StereoOptions
from inspatio_ros.memory.world_memory import MemoryOptions, WorldMemory
from inspatio_ros.planning.candidates import Candidate
from inspatio_ros.planning.footprint import Footprint
from inspatio_ros.planning.scores import CandidateScorer, Situation
from inspatio_ros.ros.camera_input import CameraInput
from inspatio_ros.ros.camera_poses import CameraPoses
from inspatio_ros.ros.convert import cameras
from inspatio_ros.ros.convert.detections import to_detections
from inspatio_ros.ros.convert.paths import read_path
from inspatio_ros.ros.convert.stamps import to_ns
from inspatio_ros.ros.diagnostics import DropCounter, Problems
from inspatio_ros.ros.imagination_output import ImaginationOutput
from inspatio_ros.ros.imagination_parameters import ImaginationNodeParameters
from inspatio_ros.ros.imagine_path_server import CANCELLED, PathGoal, Result
from inspatio_ros.ros.live_scoring import LiveScoring, Sight
from inspatio_ros.ros.observations import InputRejected, ObservationDecoder
from inspatio_ros.ros.plans import PendingPlan, Plan, way_of_camera
from inspatio_ros.ros.transforms import TransformUnavailable
from inspatio_ros.ros.virtual_rig import VirtualRig
from inspatio_ros.runtime.latest import LatestSlot
from inspatio_ros.runtime.stages import StageTimer
from inspatio_ros.sensing.gating import FuseGate
from inspatio_ros.sensing.observation import Observation

_ARRIVALS = 64
# Images that are older or newer than this are of another clock, ns.
_SAME_CLOCK_NS = 5_000_000_000
# Between two ways along one plan the node waits for a new image; that is still imagining. Seconds.
_LINGER = 1.0
# imagination.keep_ahead: the way is imagined so many times as fast as it is driven, with at least
# so many frames to the horizon.
_TIMES_AHEAD = 2.0
_FEWEST_FRAMES = 4.0


@dataclass(eq=False)
class Pass:
    """One request in work: its way, block by block, and how much of each frame that was sent is
    backed by what was seen."""

    request: ImaginationRequest
    way: ImaginedWay
    goal: PathGoal | None = None
    support: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Progress:
    """What the executor's thread may know about the worker; replaced as a whole."""

    observed: bool = False
    imagining: bool = False
    following: bool = True
    source_age: float = float("nan")
    cloud_points: int = 0
    memory_bytes: int = 0
    plans_superseded: int = 0
    plan_poses: int = 0
    drift: Drift | None = None
    drifting: bool = False


class LiveImagination:
    """Observations and plans in, imagined frames out.

    Other threads only use the slots, `clear`, `set_following`, `set_calibration`, `set_prompt` and
    `progress`. on_fault(reason) is called when the node cannot go on, log(sentence) to tell the
    user.
    """

    def __init__(self, engine: ImaginationEngine, memory: WorldMemory,
                 values: Callable[[], ImaginationNodeParameters], camera_input: CameraInput,
                 poses: CameraPoses, output: ImaginationOutput, drops: DropCounter,
                 problems: Problems, now_ns: Callable[[], int],
                 on_fault: Callable[[str], None], log: Callable[[str], object]) -> None:
        self._engine = engine
        self._memory = memory
        self._values = values
        self._input = camera_input
        self._poses = poses
        self._output = output
        self._drops = drops
        self._problems = problems
        self._now_ns = now_ns
        self._on_fault = on_fault
        self._log = log
        self._decoder = ObservationDecoder(camera_input.topics, poses.tree.lookup,
                                           depth_model=values().input.depth_model)
        self._gate_rate = values().input.fuse_rate
        self._gate = FuseGate(self._gate_rate)
        self.stages = StageTimer()
        self.plans: LatestSlot[PendingPlan] = LatestSlot()
        self.detections: LatestSlot[Any] = LatestSlot()
        self._views_filled = 0
        self.goals: LatestSlot[PathGoal] = LatestSlot()
        self._commands: deque[Callable[[], None]] = deque(maxlen=64)
        self._pending_plan: PendingPlan | None = None
        self._plan: Plan | None = None
        self._plan_is_new = False
        self._pass: Pass | None = None
        self._waiting_goal: tuple[PathGoal, PendingPlan] | None = None
        self._references: tuple[Observation, ...] = ()
        self._seen_any = False
        self._observed_at = -float("inf")
        self._unfused: Observation | None = None
        self._last_source: Observation | None = None
        self._last_sent = -float("inf")
        self._seconds_per_frame = float("nan")
        self._camera_frame = ""
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=_ARRIVALS)
        # One for each block that is begun and not finished: of what is in work, and before that of
        # what a newer plan took the place of.
        self._begun: deque[Pass] = deque()
        self._outbox: deque[tuple[Pass, ImaginedFrame]] = deque()
        self._next_due = 0.0
        self._prompt = ""
        self._calibration: MonotoneMap | None = None
        self._out_of_memory = 0
        self.scoring = LiveScoring(engine, memory, values, poses, self._sight, self._show,
                                   output.hindsight)
        self.rig: VirtualRig | None = None
        self.progress = Progress(following=values().imagination.following)

    # Called from other threads.

    def clear(self, *, everything: bool) -> None:
        """Forget the memory and the references; with `everything` the plan and stamps too."""
        self._commands.append(lambda: self._clear(everything))

    def set_following(self, following: bool) -> None:
        """Whether the plan topic is followed."""
        self._commands.append(lambda: self._set_following(following))

    def set_calibration(self, learnt: MonotoneMap | None) -> None:
        """How predicted errors become expected ones from now on; None: not known."""
        self._commands.append(lambda: self._set_calibration(learnt))

    def set_prompt(self, prompt: str) -> None:
        """The text for requests to come."""
        self._commands.append(lambda: self._set_prompt(prompt))

    # The worker's thread.

    def step(self) -> bool:
        """One bounded piece of work; whether there was any."""
        while self._commands:
            self._commands.popleft()()
        seen = self._observe()
        self._take_detections()
        self._take_plan()
        self._take_goal()
        self._show_rig()
        # Scores have deadlines: while candidates are judged nothing is imagined along the plan.
        imagined = self.scoring.step() or self._imagine()
        sent = self._send_due()
        self._fuse()
        if self._output.cloud_due():
            self._output.cloud(*self._memory.colored_points(self._values().output.cloud_points))
        self._note_progress()
        return seen or imagined or sent

    def close(self) -> None:
        """End what is in work; the goal is told."""
        self._end_pass(Result.NOT_READY, "the node was deactivated")
        for goal in (self._waiting_goal and self._waiting_goal[0], self.goals.take()):
            if goal is not None:
                goal.finish(Result.NOT_READY, "the node was deactivated")
        self._waiting_goal = None
        self.scoring.end_all(Result.NOT_READY, "the node was deactivated")

    def _show_rig(self) -> None:
        """The newest observation from another mounting, when that is asked for and due."""
        if self.rig is None or not self.rig.due(self._references):
            return
        try:
            with self.stages.stage("rig"):
                self.rig.show(self._references[0], self._memory, self._camera_frame)
        except TransformUnavailable as error:
            self._drops.count(f"tf_{error.reason}")
            self._problems.report("rig", f"rig.relative_to base: {error}")

    def _clear(self, everything: bool) -> None:
        self._memory.clear()
        self.scoring.interrupt("the memory was cleared")
        self._unfused = None
        self._references = ()
        self._gate.reset()
        if everything:
            self._end_pass(Result.SUPERSEDED, "time jumped back")
            self.scoring.end_all(Result.SUPERSEDED, "time jumped back")
            self.scoring.forget()
            self._plan = self._pending_plan = None
            self._arrivals.clear()
            self._output.time_jumped()
            if self.rig is not None:
                self.rig.time_jumped()
            self._output.no_way()

    def _set_following(self, following: bool) -> None:
        self.progress = Progress(**{**self.progress.__dict__, "following": following})
        if not following and self._pass is not None and self._pass.goal is None:
            self._end_pass()
        self._plan_is_new = following

    def _set_calibration(self, learnt: MonotoneMap | None) -> None:
        self._calibration = learnt

    def _set_prompt(self, prompt: str) -> None:
        self._prompt = prompt

    def _observe(self) -> bool:
        """Take in the newest image set whose pose is known."""
        values = self._values()
        # A tenth of slack, so that a camera of just this rate loses nothing.
        if time.monotonic() - self._observed_at < 0.9 / values.input.observe_rate:
            return False
        taken = self._input.take(self._poses.world_from,
                                 round(values.transforms.time_offset * 1e9),
                                 values.transforms.timeout)
        if taken is None:
            return False
        item, world_from_camera = taken
        self._observed_at = time.monotonic()
        try:
            with self.stages.stage("decode"):
                seen = self._decoder.decode(item, world_from_camera, values.input)
        except InputRejected as error:
            self._drops.count(error.reason)
            self._problems.report(error.reason, str(error))
            return True
        except TransformUnavailable as error:
            self._drops.count(f"tf_{error.reason}")
            self._problems.report("transform", f"depth camera: {error}")
            return True
        if not self._seen_any:
            self._seen_any = True
            self._log(f"first observation: {seen.camera.width}x{seen.camera.height} from "
                      f"'{item.frame_id}', depth of {seen.depth_coverage:.0%} of the pixels, "
                      f"median {np.nanmedian(seen.depth):.2f} m")
        kept = self._engine.backend.reference_frames
        self._references = (seen, *self._references)[:kept]
        self._camera_frame = item.frame_id
        self._arrivals.append((item.stamp_ns, item.arrived))
        self._unfused = seen
        return True

    def _fuse(self) -> None:
        """Fuse the newest observation where the rate allows it.

        After the block: a frame that shows the new image must not wait for it.
        """
        seen, self._unfused = self._unfused, None
        rate = self._values().input.fuse_rate
        if rate != self._gate_rate:
            self._gate, self._gate_rate = FuseGate(rate), rate
        if seen is not None and self._gate.admits(seen.stamp_ns, seen.world_from_camera):
            with self.stages.stage("fuse"):
                self._memory.integrate(seen)
            self._after_fusing(seen.stamp_ns)

    def _after_fusing(self, stamp_ns: int) -> None:
        """Show the things that move, and say when their motion could not be believed."""
        layer = self._memory.moving
        if layer is None:
            return
        filled = layer.dropped["view_filled"]
        if filled > self._views_filled:
            self._problems.report(
                "moving", "nearly all of the view seems to move: the poses may not fit the images "
                "(transforms.time_offset), or something fills the view (moving.max_share)")
        self._views_filled = filled
        if self._output.objects_wanted():
            self._output.objects(layer.objects(stamp_ns), layer.objects(stamp_ns + 10**9))

    def _take_detections(self) -> None:
        """Hand a detector's boxes to the layer of moving things."""
        message, layer = self.detections.take(), self._memory.moving
        if message is None or layer is None:
            return
        try:
            layer.detect(to_detections(message, self._poses.world_from,
                                       self._values().moving.min_score))
        except TransformUnavailable as error:
            self._drops.count("detections_refused")
            self._problems.report("detections", f"detections: {error}")
        except ValueError as error:
            self._drops.count("detections_refused")
            self._problems.report("detections", str(error))

    def _take_plan(self) -> None:
        """The newest plan message becomes the plan once its transform is there."""
        newest = self.plans.take()
        if newest is not None:
            self._pending_plan = newest
        if self._pending_plan is None:
            return
        try:
            plan = self._pending_plan.resolve(self._poses, self._values().transforms.timeout)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a plan, it is refused
            self._pending_plan = None
            self._drops.count("plan_refused")
            self._problems.report("plan", f"plan refused: {error}", lasting=True)
            return
        if plan is None:
            return
        normalized = self._pending_plan.poses.normalized if self._pending_plan.poses else 0
        self._pending_plan = None
        self._accept(plan, normalized)

    def _accept(self, plan: Plan, normalized: int) -> None:
        self._problems.clear("plan")
        if normalized:
            self._problems.report("plan", f"plan: {normalized} orientations are not of unit "
                                          "length and were normalized")
        if len(plan.world_from_pose) == 0:
            self._plan = None
            self._end_following()
            self._output.no_way()
        elif not plan.same_as(self._plan):
            self._plan = plan
            self._plan_is_new = True

    def _end_following(self) -> None:
        if self._pass is not None and self._pass.goal is None:
            self._end_pass()

    def _take_goal(self) -> None:
        """The newest goal supersedes whatever is in work."""
        goal = self.goals.take()
        if goal is not None:
            self._supersede_goal()
            path = goal.message.path
            self._waiting_goal = (goal, PendingPlan(lambda: read_path(path, 20_000)))
        if self._waiting_goal is None:
            return
        goal, pending = self._waiting_goal
        if goal.cancel_requested:
            self._refuse_goal(CANCELLED, "cancelled before the first frame")
            return
        try:
            of_camera = goal.message.pose_of == goal.message.POSE_OF_CAMERA
            plan = pending.resolve(self._poses, self._values().transforms.timeout,
                                   of_camera=of_camera)
            if plan is not None:
                self._begin_goal(goal, plan)
        except TransformUnavailable as error:
            self._refuse_goal(Result.TF_ERROR, str(error))
        except EmptyPath as error:
            self._refuse_goal(Result.EMPTY_PATH, str(error))
        except ValueError as error:
            self._refuse_goal(Result.GOAL_REJECTED, str(error))
        except Exception as error:  # noqa: BLE001 - a goal always gets its result
            self._refuse_goal(Result.UNKNOWN, f"{type(error).__name__}: {error}")

    def _supersede_goal(self) -> None:
        sentence = "a newer goal came"
        if self._waiting_goal is not None:
            self._refuse_goal(Result.SUPERSEDED, sentence)
        self._end_pass(Result.SUPERSEDED, sentence)

    def _refuse_goal(self, code: int, sentence: str) -> None:
        if self._waiting_goal is not None:
            self._waiting_goal[0].finish(code, sentence)
            self._waiting_goal = None

    def _begin_goal(self, goal: PathGoal, plan: Plan) -> None:
        if len(plan.world_from_pose) == 0:
            raise EmptyPath("the path has no poses")
        if not self._references:
            self._refuse_goal(Result.NO_GEOMETRY, "no observation yet: nothing to imagine from")
            return
        message, source = goal.message, self._references[0]
        way = way_of_camera(
            plan, self._values(), self._poses, self._camera_frame, source.stamp_ns,
            self._now_ns(), speed=message.speed, frame_rate=message.frame_rate,
            max_frames=message.max_frames, from_here=False)
        if message.camera_info.width:
            camera = cameras.to_camera(message.camera_info, "goal's camera_info")
        else:
            camera = self._camera(source)
        self._waiting_goal = None
        self._last_source = None  # following begins anew afterwards
        self._begin(way, camera, goal=goal, prompt=message.prompt or self._prompt,
                    seed=message.seed if message.seed >= 0 else None)

    def _camera(self, source: Observation) -> PinholeCamera:
        output = self._values().output
        if output.width == 0:
            return source.camera
        return source.camera.fitted(output.width, output.height)[0]

    def _sight(self) -> Sight | None:
        """What candidates are judged by; None before the first observation."""
        if not self._references:
            return None
        route = None
        if self._plan is not None and not self._plan.of_camera \
                and len(self._plan.world_from_pose) > 1:
            route = self._plan.world_from_pose[:, :3, 3]
        return Sight(self._references, self._camera_frame, self._camera(self._references[0]),
                     route)

    def _show(self, frame: ImaginedFrame) -> int:
        """Publish a view of a scored candidate; its stamp, ns."""
        return to_ns(self._output.frame(self._calibrated(frame)).header.stamp)

    def _begin(self, way: CameraTrajectory, camera: PinholeCamera, *, prompt: str,
               goal: PathGoal | None = None, seed: int | None = None) -> None:
        """Start a request; of what is in work the blocks begun are still sent."""
        former, self._pass = self._pass, None
        if former is not None and former not in self._begun:
            former.way.close()
        values = self._values()
        request = ImaginationRequest(
            camera, way, self._references, bytes(16) if goal is None else goal.request_id,
            values.imagination.seed if seed is None else seed, prompt,
            self._mode(),
            values.imagination.source if goal is None else "frozen", self._start_ns())
        self._engine.hold_rollouts(values.imagination.reanchor, values.imagination.keyframes)
        self._pass = Pass(request, self._engine.start(
            request, self._memory, lambda: self._references,
            ahead=values.imagination.work_ahead), goal)
        self._output.way(way, camera)

    def _start_ns(self) -> int | None:
        """Now, by which a way's times count; None where the images have another clock (a bag
        played without its time): then they count from the newest image."""
        now = self._now_ns()
        newest = self._references[0].stamp_ns if self._references else now
        return now if abs(now - newest) < _SAME_CLOCK_NS else None

    def _mode(self) -> str:
        """The public model's pictures are shown as they are, as its own program does."""
        mode = self._values().output.mode
        if mode != "auto":
            return mode
        return "model" if self._engine.backend.name == "inspatio_world_1_3b" else "composite"

    def _next_pass(self) -> None:
        """Begin along the plan when it is new, or when something new was seen since."""
        if self._plan is None or not self.progress.following or not self._references:
            return
        running, seen_since = self._pass, self._last_source is not self._references[0]
        if running is None:
            if not self._plan_is_new and not seen_since:
                return
        elif running.goal is not None:
            return
        elif running.way.whole:
            # Its last block is made while the next way is begun.
            if not running.way.ahead or not (self._plan_is_new or seen_since):
                return
        else:
            if not self._plan_is_new or self._values().imagination.on_new_plan == "finish":
                return
            self._drops.count("plan_superseded")
            if self._paced:
                self._end_pass()
        self._begin_along_plan()

    def _begin_along_plan(self) -> None:
        assert self._plan is not None
        source, new = self._references[0], self._plan_is_new
        self._plan_is_new = False
        self._last_source = source
        try:
            way = way_of_camera(self._plan, self._values(), self._poses, self._camera_frame,
                                source.stamp_ns, self._now_ns(), frame_rate=self._way_rate())
        except EmptyPath as error:
            if new:
                self._drops.count("plan_refused")
                self._problems.report("plan", f"plan refused: {error}", lasting=True)
            self._plan = None
            self._end_following()
            self._output.no_way()
            return
        except (TransformUnavailable, ValueError) as error:
            self._problems.report("plan", f"cannot follow the plan: {error}")
            return
        self._begin(way, self._camera(source), prompt=self._prompt)

    def _way_rate(self) -> float:
        """Frames a second of the next way along the plan."""
        options = self._values().imagination
        if not options.keep_ahead or math.isnan(self._seconds_per_frame):
            return options.frame_rate
        rate = 1.0 / (_TIMES_AHEAD * self._seconds_per_frame)
        return min(options.frame_rate, max(rate, _FEWEST_FRAMES / options.horizon))

    def _note_pace(self, running: Pass) -> None:
        """How long a frame along the plan takes in all, whatever else goes on meanwhile."""
        if running.goal is None:
            seconds = (time.monotonic() - running.began) / len(running.support)
            known = self._seconds_per_frame
            self._seconds_per_frame = seconds if math.isnan(known) else (known + seconds) / 2

    def _imagine(self) -> bool:
        """Begin the next block of the request in work, or finish the oldest begun.

        Where the backend works ahead one block is made while the next is begun.
        """
        self._next_pass()
        running = self._pass
        if len(self._outbox) > self._ahead():
            return False
        if running is not None and running.goal is not None and (
                self._ended_from_outside(running.goal)):
            return True
        try:
            if running is not None and not running.way.whole:
                start = time.perf_counter()
                running.way.begin(self._finish_made)
                self._begun.append(running)
                self.stages.add("begin", time.perf_counter() - start)
                if running.way.ahead and len(self._begun) < BLOCKS_AT_ONCE:
                    return True
            if not self._begun:
                return False
            self._finish()
        except NoGeometry as error:
            self._end_pass(Result.NO_GEOMETRY, str(error))
        except Exception as error:  # noqa: BLE001 - the request fails, the node stays up
            self._engine_failed(error)
        return True

    def _finish_made(self) -> None:
        """Send a block as soon as it is made, while the next one is begun."""
        if self._begun and self._begun[0].way.made:
            self._finish()
            self._send_due()

    def _finish(self) -> None:
        """Put the frames of the oldest block begun into the outbox."""
        source = self._begun.popleft()
        block = source.way.finish()
        self.stages.add("block", block.frames[0].compute_time * len(block.frames))
        for name, seconds in block.stage_times.items():
            self.stages.add(name, seconds)
        self._outbox.extend((source, frame) for frame in block.frames)
        if source is not self._pass and source not in self._begun:
            source.way.close()
        self.progress = Progress(**{**self.progress.__dict__, "drift": block.drift,
                                    "drifting": block.drifting})

    def _ahead(self) -> int:
        """Frames that may wait while the next block is made."""
        return self._engine.backend.block_frames if self._paced else 0

    @property
    def _paced(self) -> bool:
        return self._values().output.pacing == "paced"

    def _ended_from_outside(self, goal: PathGoal) -> bool:
        if goal.cancel_requested:
            self._end_pass(CANCELLED, "cancelled")
            return True
        if goal.age > self._values().imagination.goal_timeout:
            self._end_pass(Result.TIMEOUT, f"not finished after {goal.age:.1f} s "
                                           "(imagination.goal_timeout)")
            return True
        return False

    def _engine_failed(self, error: Exception) -> None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            self._out_of_memory += 1
            sentence = f"out of memory while imagining: {error}".rstrip(": ")
            self._drops.count("out_of_memory")
            self._problems.report("out_of_memory", sentence)
            self._end_pass(Result.OUT_OF_MEMORY, sentence)
            if self._out_of_memory > 1:
                self._on_fault(f"{sentence} (a second time)")
            return
        self._drops.count("engine_error")
        sentence = f"imagining failed: {type(error).__name__}: {error}"
        self._problems.report("engine", sentence)
        self._end_pass(Result.UNKNOWN, sentence)

    def _send_due(self) -> bool:
        """Publish what is ready: at once, or at the frame rate when paced."""
        sent = False
        while self._outbox:
            now = time.monotonic()
            if self._paced:
                if now < self._next_due:
                    break
                period = 1.0 / self._values().imagination.frame_rate
                self._next_due = max(self._next_due + period, now)
            running, frame = self._outbox.popleft()
            self._send(running, frame)
            sent = True
        return sent

    def _send(self, running: Pass, frame: ImaginedFrame) -> None:
        with self.stages.stage("publish"):
            message = self._output.frame(self._calibrated(frame))
        self._last_sent = time.monotonic()
        running.support.append(frame.support)
        if running.goal is not None:
            running.goal.published(message)
        if len(running.support) == len(running.request.trajectory):
            self._complete(running)
        while self._arrivals and self._arrivals[0][0] <= frame.source_stamp_ns:
            stamp_ns, arrived = self._arrivals.popleft()
            if stamp_ns == frame.source_stamp_ns:
                self.stages.add("image_to_frame", time.monotonic() - arrived)
        age = (self._now_ns() - frame.source_stamp_ns) * 1e-9
        self.progress = Progress(**{**self.progress.__dict__, "source_age": age})

    def _calibrated(self, frame: ImaginedFrame) -> ImaginedFrame:
        learnt = self._calibration
        if learnt is None or not self._values().imagination.calibrate:
            return frame
        return replace(frame, expected_error=float(learnt(prior_error_of(frame))))

    def _complete(self, running: Pass) -> None:
        """All frames of a request were sent."""
        self._note_pace(running)
        self._output.way(running.request.trajectory, running.request.camera,
                         np.array(running.support))
        running.way.close()
        if self._pass is running:
            self._pass = None
        if running.goal is not None:
            running.goal.finish(Result.NONE, "")

    def _end_pass(self, code: int = Result.NONE, sentence: str = "") -> None:
        """Give up all that is in work; the goal, if there is one, is told the code."""
        running, self._pass = self._pass, None
        self._outbox.clear()
        for begun in self._begun:
            begun.way.close()
        self._begun.clear()
        if running is None:
            return
        running.way.close()
        if running.goal is not None:
            running.goal.finish(code, sentence)

    def _note_progress(self) -> None:
        imagining = (self._pass is not None or bool(self._begun) or self.scoring.busy
                     or time.monotonic() - self._last_sent < _LINGER)
        # What the newest block said of drift stands until the next, or until nothing is imagined.
        self.progress = Progress(
            observed=bool(self._references), imagining=imagining,
            drift=self.progress.drift if imagining else None,
            drifting=self.progress.drifting and imagining,
            following=self.progress.following, source_age=self.progress.source_age,
            cloud_points=self._memory.point_count, memory_bytes=self._memory.nbytes,
            plans_superseded=self._drops["plan_superseded"],
            plan_poses=0 if self._plan is None else len(self._plan.world_from_pose))


def warm_up(engine: ImaginationEngine, camera: PinholeCamera) -> None:
    """Do now what the first image and the first block would otherwise wait for.

    Compiled code is made or loaded on first use, which takes from a second to half a minute.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (camera.height, camera.width, 3)).astype(np.uint8)
    slanted = np.linspace(1.0, 3.0, image.shape[0] * image.shape[1], dtype=np.float32)
    depth = decode_depth(slanted.reshape(image.shape[:2]), "32FC1")
    memory = WorldMemory(MemoryOptions(capacity=image.shape[0] * image.shape[1],
                                       stereo=StereoOptions()))
    for stamp_ns in (0, 500_000_000):
        memory.integrate(Observation(stamp_ns, image, depth, camera, np.eye(4)))
    seen = (Observation(500_000_001, image, depth, camera, np.eye(4)),)
    memory.render(camera, np.eye(4), seen)
    # From aside, where holes are that the bank is asked for.
    memory.render(camera, rigid.from_rotation(np.eye(3), (0.5, 0.0, 0.0)), seen)
    memory.colored_points(10)
    CandidateScorer(Footprint()).rank(
        [Candidate.from_path("warm up", np.stack([np.eye(4)] * 2), np.array([0, 10**9]), 1.0)],
        Situation(memory, seen, np.eye(4), rigid.BODY_FROM_OPTICAL, camera))
    engine.warm_up(camera)
