# SPDX-License-Identifier: Apache-2.0
"""Exposure: gains and offsets that carry the colours of one picture to another's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Byte = npt.NDArray[np.uint8]

# Three gains and three offsets, RGB.
IDENTITY_TONE: Float = np.array([1, 1, 1, 0, 0, 0], np.float32)
IDENTITY_TONE.setflags(write=False)
MIN_PIXELS = 200
# More pixels than this add nothing; an even share of them is taken.
ENOUGH_PIXELS = 1500
# Relative depth difference up to which two pictures show the same surface.
SAME_DEPTH = 0.03


def fit_tone(old: Byte, new: Byte) -> Float:
    """Gains and offsets [6] (RGB, RGB) that carry colours `old` [N, 3] to `new` [N, 3], robustly.

    Iteratively reweighted least squares with Cauchy weights and a pull towards no change;
    clipped colours are left out. The identity when fewer than 200 pixels are left.
    """
    tone = IDENTITY_TONE.copy()
    for channel in range(3):
        x, y = old[:, channel].astype(np.float64), new[:, channel].astype(np.float64)
        fair = (x > 4) & (x < 251) & (y > 4) & (y < 251)
        x, y = x[fair], y[fair]
        if len(x) < MIN_PIXELS:
            return IDENTITY_TONE
        gain, offset = 1.0, 0.0
        for _ in range(6):
            residual = y - gain * x - offset
            scale = max(2.0, 1.5 * float(np.median(np.abs(residual))))
            weight = 1.0 / (1.0 + (residual / scale) ** 2)
            # The prior counts like a twentieth of the pixels: little overlap, little change.
            prior = 0.05 * weight.sum()
            a = np.array([[np.sum(weight * x * x) + prior * 64.0**2, np.sum(weight * x)],
                          [np.sum(weight * x), weight.sum() + prior]])
            b = np.array([np.sum(weight * x * y) + prior * 64.0**2, np.sum(weight * y)])
            gain, offset = np.linalg.solve(a, b)
        tone[channel] = np.clip(gain, 0.4, 2.5)
        tone[3 + channel] = np.clip(offset, -60, 60)
    return tone


def fit_tone_of_views(old: Byte, old_depth: Float, new: Byte, new_depth: Float) -> Float:
    """As `fit_tone`, of two views of one camera [H, W, 3], where their depths [H, W] agree."""
    with np.errstate(invalid="ignore"):
        same = np.abs(old_depth - new_depth) < SAME_DEPTH * new_depth
    places = np.flatnonzero(same)
    places = places[::max(1, len(places) // ENOUGH_PIXELS)]
    return fit_tone(old.reshape(-1, 3)[places], new.reshape(-1, 3)[places])


def inverse_tone(tone: Float) -> Float:
    """The tone curve [6] that undoes another."""
    return np.concatenate([1 / tone[:3], -tone[3:] / tone[:3]]).astype(np.float32)


def compose_tone(outer: Float, inner: Float) -> Float:
    """Tone curves [..., 6] of `inner` followed by `outer` [6]."""
    gains = outer[:3] * inner[..., :3]
    offsets = outer[:3] * inner[..., 3:] + outer[3:]
    return np.ascontiguousarray(np.concatenate([gains, offsets], axis=-1), dtype=np.float32)
