# SPDX-License-Identifier: Apache-2.0
"""Gaussian splats of a scene through gsplat, on a CUDA device.

One Gaussian a point of the fused cloud, optimised on the scene's pictures (Kerbl et al. 2023); no
densification: the cloud covers the surface already. Imagined pictures weigh less than real ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from inspatio_ros.geometry import rigid
from inspatio_ros.scene.camera_files import Shot
from inspatio_ros.scene.reconstruct import ReconstructionError

Array = npt.NDArray[np.float64]

SPLATS = "splats.ply"
_MOST, _STEPS = 300_000, 3000
# Learning rates by parameter, those of the 3DGS release; of means relative to the scene's size.
_RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "colors": 2.5e-3}
# How much less a wholly imagined picture weighs, and the first opacity.
_IMAGINED_WEIGHT, _OPACITY = 0.3, 0.5
# Of the zeroth spherical harmonic, which viewers expect colours in.
_SH0 = 0.28209479177387814

# gsplat.rasterization: (means, quats, scales, opacities, colors, viewmats, Ks, width, height) to
# (pictures [1, H, W, 3], alphas, information).
Rasterize = Callable[..., Any]


def require_gsplat() -> Rasterize:
    """gsplat's rasteriser. Raises ReconstructionError when it or a CUDA device is missing."""
    import torch

    if not torch.cuda.is_available():
        raise ReconstructionError("splats need a CUDA device; leave --splats out")
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise ReconstructionError("splats need gsplat: pip install gsplat") from error
    return rasterization  # type: ignore[no-any-return]


def train_splats(
    folder: Path, shots: Sequence[Shot], points: Array, colors: npt.NDArray[np.uint8], *,
    say: Callable[[str], None], steps: int = _STEPS, rasterize: Rasterize | None = None,
    device: str = "cuda", seed: int = 0,
) -> dict[str, float]:
    """Train splats of the pictures in `folder`, write splats.ply; first and last mean error.

    points [P, 3] m, colors uint8 [P, 3]: where Gaussians begin. The errors are mean absolute ones
    of colours in [0, 1], over the first and the last tenth of the steps. Raises
    ReconstructionError.
    """
    import torch

    draw = rasterize or require_gsplat()
    rng = np.random.default_rng(seed)
    if len(points) > _MOST:
        chosen = rng.choice(len(points), _MOST, replace=False)
        points, colors = points[chosen], colors[chosen]
    if len(points) == 0 or not shots:
        raise ReconstructionError("no points or no pictures to train splats on")
    parameters = _first_guess(points, colors, device)
    size = float(np.linalg.norm(points.std(0)))
    optimizer = torch.optim.Adam([
        {"params": [value], "lr": _RATES[name] * (size if name == "means" else 1.0)}
        for name, value in parameters.items()], eps=1e-15)
    order = rng.permutation(np.arange(steps) % len(shots))
    errors = []
    for step, number in enumerate(order):
        shot = shots[int(number)]
        camera = shot.camera
        view = torch.tensor(rigid.invert(shot.world_from_camera)[None], dtype=torch.float32,
                            device=device)
        # gsplat's pixel middles are at .5.
        matrix = camera.matrix
        matrix[:2, 2] += 0.5
        pictures, _, _ = draw(
            parameters["means"], parameters["quats"], parameters["scales"].exp(),
            parameters["opacities"].sigmoid(), parameters["colors"].sigmoid(), view,
            torch.tensor(matrix[None], dtype=torch.float32, device=device), camera.width,
            camera.height)
        error = (pictures[0] - _picture(folder / shot.file, device)).abs().mean()
        weight = 1.0 - (1.0 - _IMAGINED_WEIGHT) * shot.imagined
        optimizer.zero_grad(set_to_none=True)
        (error * weight).backward()
        optimizer.step()
        errors.append(float(error.detach()))
        if (step + 1) % 500 == 0:
            say(f"splats: step {step + 1} of {steps}, error {np.mean(errors[-200:]):.4f}")
    _write(folder / SPLATS, {name: value.detach().cpu().numpy()
                             for name, value in parameters.items()})
    tenth = max(1, steps // 10)
    return {"count": len(points), "first_error": float(np.mean(errors[:tenth])),
            "last_error": float(np.mean(errors[-tenth:]))}


def _first_guess(points: Array, colors: npt.NDArray[np.uint8], device: str) -> dict[str, Any]:
    import torch
    from scipy.spatial import cKDTree

    near = cKDTree(points).query(points, min(4, len(points)))[0][:, 1:] if len(points) > 1 \
        else np.full((1, 1), 0.05)
    spacing = np.maximum(near.mean(1), 1e-4)
    share = np.clip(colors / 255.0, 0.02, 0.98)
    values = {
        "means": points, "scales": np.repeat(np.log(spacing)[:, None], 3, axis=1),
        "quats": np.tile([1.0, 0.0, 0.0, 0.0], (len(points), 1)),
        "opacities": np.full(len(points), math.log(_OPACITY / (1 - _OPACITY))),
        "colors": np.log(share / (1 - share))}
    return {name: torch.tensor(value, dtype=torch.float32, device=device, requires_grad=True)
            for name, value in values.items()}


def _picture(path: Path, device: str) -> Any:
    import torch

    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ReconstructionError(f"{path}: no picture that can be read")
    rgb = np.ascontiguousarray(bgr[..., ::-1]).astype(np.float32) / 255.0
    return torch.from_numpy(rgb).to(device)


def _write(path: Path, values: dict[str, npt.NDArray[np.float32]]) -> None:
    """The PLY that viewers of Gaussian splats read."""
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
             "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    colors = 1.0 / (1.0 + np.exp(-values["colors"]))
    table = np.concatenate([
        values["means"], np.zeros_like(values["means"]), (colors - 0.5) / _SH0,
        values["opacities"][:, None], values["scales"], values["quats"]], axis=1)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}",
              *(f"property float {name}" for name in names), "end_header", ""]
    path.write_bytes("\n".join(header).encode("ascii") + table.astype("<f4").tobytes())
