# SPDX-License-Identifier: Apache-2.0
"""Exact ray casting of textured oriented boxes, compiled with numba.

Everything in the analytic worlds is a box: walls, ground, cars. A camera inside a box sees its
inner faces, so a room is one big box. Boxes are drawn in object order: each is projected to its
rectangle on the picture and only those pixels test the ray against it, with a depth buffer.

Textures are functions of metres on the face, filtered analytically over the pixel's footprint
(patterns by box filter, noise octaves faded at their Nyquist limit, up to 4 taps along the longer
axis at grazing angles), so that pictures carry detail up to the pixel grid without shimmering.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

# Rows of a texture table: kind, first color (3), second color (3), scale in m, noise, seed.
TEXTURE_COLUMNS = 10
PLAIN, CHECKER, STRIPES, TEXT, BRICKS, WINDOWS, ROAD, TILES = range(8)

NEAREST = 1e-3  # metres; nothing closer than this to the camera is drawn
NO_BOX = -1

_jit = numba.njit(cache=True, nogil=True, error_model="numpy")


@_jit
def _hash(i: int, j: int, seed: int) -> int:
    h = (i * 374761393 + j * 668265263 + seed * 974711) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 739982445) & 0xFFFFFFFF
    return h ^ (h >> 16)


@_jit
def _unit(i: int, j: int, seed: int) -> float:
    return _hash(i, j, seed) / 4294967295.0


# Noise reads its lattice from tables (Perlin 1985): most of the time goes here.
_PERMUTATION = np.random.default_rng(12345).permutation(256)
_GRADIENT_X = math.sqrt(2.0) * np.cos(np.arange(256) * (math.pi / 128))
_GRADIENT_Y = math.sqrt(2.0) * np.sin(np.arange(256) * (math.pi / 128))


@_jit
def _corner(column: int, j: int, x: float, y: float) -> float:
    """Height at (x, y) from a lattice point of a column, j within it, of the slope there."""
    k = _PERMUTATION[(column + j) & 255]
    return float(_GRADIENT_X[k] * x + _GRADIENT_Y[k] * y)


@_jit
def _noise(x: float, y: float, seed: int) -> float:
    """Gradient noise of wavelength about one unit, in about [-1, 1]; repeats after 256."""
    xi, yi = math.floor(x), math.floor(y)
    fx, fy = x - xi, y - yi
    i, j = int(xi), int(yi)
    a = fx * fx * fx * (fx * (fx * 6 - 15) + 10)
    b = fy * fy * fy * (fy * (fy * 6 - 15) + 10)
    left, right = _PERMUTATION[(i + seed) & 255], _PERMUTATION[(i + 1 + seed) & 255]
    n00, n10 = _corner(left, j, fx, fy), _corner(right, j, fx - 1, fy)
    n01, n11 = _corner(left, j + 1, fx, fy - 1), _corner(right, j + 1, fx - 1, fy - 1)
    top = n00 + a * (n10 - n00)
    return top + b * (n01 + a * (n11 - n01) - top)


@_jit
def _fractal(u: float, v: float, width: float, seed: int) -> float:
    """Seven octaves from 1.6 m to 2.5 cm, each faded before the pixel grid cannot hold it."""
    total = 0.0
    wavelength = 1.6
    amplitude = 0.4
    for octave in range(7):
        room = wavelength / (2.0 * width) - 0.5
        if room <= 0.0:
            break
        height = _noise(u / wavelength, v / wavelength, seed + 37 * octave)
        total += amplitude * min(room, 1.0) * height
        wavelength *= 0.5
        amplitude *= 0.9
    return total


@_jit
def _edge(x: float, width: float) -> tuple[int, float]:
    """Cell left of the nearest border and the share of the box filter that lies right of it."""
    base = math.floor(x - 0.5)
    offset = (x - 0.5 - base) - 0.5
    return int(base), min(max(offset / max(width, 1e-6) + 0.5, 0.0), 1.0)


@_jit
def _pulse(x: float, start: float, end: float, width: float) -> float:
    """Share of [x-width/2, x+width/2] inside the period-one pulses [start, end]."""
    width = max(width, 1e-6)
    a, b = x - 0.5 * width, x + 0.5 * width
    duty = end - start
    fa, fb = math.floor(a), math.floor(b)
    left = fa * duty + min(max(a - fa - start, 0.0), duty)
    right = fb * duty + min(max(b - fb - start, 0.0), duty)
    return (right - left) / width


@_jit
def _glyph_bit(i: int, j: int, seed: int) -> float:
    """Whether a dot of a page of made-up 5x7 characters is inked."""
    column, x = i // 6, i % 6
    row, y = j // 10, j % 10
    if x == 5 or y >= 7 or _unit(column, row, seed + 31) < 0.16:  # gaps between letters and words
        return 0.0
    letter = _hash(column, row, seed) % 40
    stem = x == 0 and (letter & 1) == 0
    bar = (y == 0 or y == 3 or y == 6) and ((letter >> (1 + y // 3)) & 1) == 1
    return 1.0 if stem or bar or _unit(x + 7 * letter, y, seed + 57) < 0.35 else 0.0


@_jit
def _lattice(kind: int, i: int, j: int, seed: int) -> float:
    if kind == CHECKER:
        return float((i + j) & 1)
    if kind == TEXT:
        return _glyph_bit(i, j, seed)
    return _unit(i, j, seed)


@_jit
def _filtered_lattice(kind: int, x: float, y: float, wx: float, wy: float, seed: int,
                      mean: float) -> float:
    """A function of square cells, box filtered; fades to its mean when cells shrink to a pixel."""
    i, a = _edge(x, wx)
    j, b = _edge(y, wy)
    near = _lattice(kind, i, j, seed) * (1 - a) + _lattice(kind, i + 1, j, seed) * a
    far = _lattice(kind, i, j + 1, seed) * (1 - a) + _lattice(kind, i + 1, j + 1, seed) * a
    value = near + b * (far - near)
    width = max(wx, wy)
    if width > 1.0:
        value = mean + (value - mean) * max(0.0, 2.0 - width)
    return value


@_jit
def _pattern(kind: int, u: float, v: float, wu: float, wv: float, scale: float,
             seed: int) -> tuple[float, float]:
    """Mix of second color in [0, 1] and brightness factor at a point of a face."""
    x, y, wx, wy = u / scale, v / scale, wu / scale, wv / scale
    if kind == CHECKER:
        return _filtered_lattice(kind, x, y, wx, wy, seed, 0.5), 1.0
    if kind == STRIPES:
        return _pulse(x, 0.0, 0.5, wx), 1.0
    if kind == TEXT:
        return _filtered_lattice(kind, x, -y, wx, wy, seed, 0.3), 1.0
    if kind == BRICKS:
        row = int(math.floor(y))
        shifted = x * 0.4 + 0.5 * (row & 1)
        bed, head = _pulse(y, 0.0, 0.12, wy), _pulse(shifted, 0.0, 0.05, wx * 0.4)
        mortar = 1.0 - (1.0 - bed) * (1.0 - head)
        strength = max(0.0, 1.0 - 0.5 * max(wx, wy))
        tint = 0.75 + 0.5 * _unit(int(math.floor(shifted)), row, seed)
        return mortar, 1.0 + (tint - 1.0) * strength
    if kind == WINDOWS:
        glass = _pulse(x, 0.25, 0.75, wx) * _pulse(y, 0.3, 0.85, wy)
        cross = _pulse(x * 4.0, 0.46, 0.54, 4 * wx)
        strength = max(0.0, 1.0 - 0.5 * max(wx, wy))
        lit = 0.5 + 1.3 * _unit(int(math.floor(x)), int(math.floor(y)), seed)
        return glass * (1.0 - cross), 1.0 + glass * (lit - 1.0) * strength
    if kind == ROAD:
        # u along the street; v across it. Dashes between lanes, solid lines at the rim.
        dash = _pulse(u / 6.0, 0.0, 0.5, wu / 6.0) * _pulse((v + 0.06) / scale, 0.0, 0.12 / scale,
                                                              wv / scale)
        rim = _pulse((abs(v) - 2.0 * scale + 0.25) / 100.0, 0.0, 0.0015, wv / 100.0)
        return max(dash, rim), 1.0
    if kind == TILES:
        joint = 1.0 - (1.0 - _pulse(x, 0.0, 0.04, wx)) * (1.0 - _pulse(y, 0.0, 0.04, wy))
        strength = max(0.0, 1.0 - 0.5 * max(wx, wy))
        tint = 0.85 + 0.3 * _unit(int(math.floor(x)), int(math.floor(y)), seed)
        return joint, 1.0 + (tint - 1.0) * strength
    return 0.0, 1.0


@_jit
def _face_color(texture: NDArray[np.float64], u: float, v: float, wu: float, wv: float,
                out: NDArray[np.float64]) -> None:
    seed = int(texture[9])
    mix, brightness = _pattern(int(texture[0]), u, v, wu, wv, texture[7], seed)
    grain = 1.0
    if texture[8] > 0.0:
        grain += texture[8] * _fractal(u, v, max(wu, wv), seed)
    for c in range(3):
        base = texture[1 + c] + mix * (texture[4 + c] - texture[1 + c])
        out[c] += base * brightness * grain


@_jit
def _sky_color(direction: NDArray[np.float64], focal: float, sky: NDArray[np.float64],
               out: NDArray[np.float64]) -> None:
    norm = math.sqrt(direction[0] ** 2 + direction[1] ** 2 + direction[2] ** 2)
    up = direction[2] / norm
    haze = min(max(up, 0.0), 1.0) ** 0.5
    spread = max(up, 0.0) + 0.15
    cloud = _fractal(direction[0] / norm / spread, direction[1] / norm / spread,
                     1.0 / (focal * spread * spread), int(sky[6]))
    cloud = min(max(cloud * 1.5, 0.0), 1.0) * 0.8
    for c in range(3):
        blue = sky[c] + haze * (sky[3 + c] - sky[c])
        out[c] = blue + cloud * (245.0 - blue)


@_jit
def _slab(origin: NDArray[np.float64], dx: float, dy: float, dz: float,
          half: NDArray[np.float64]) -> tuple[float, int]:
    """Ray parameter and face (axis * 2 + positive side) of the hit, or (inf, -1)."""
    enter, leave = -math.inf, math.inf
    enter_face, leave_face = -1, -1
    for axis in range(3):
        d = dx if axis == 0 else (dy if axis == 1 else dz)
        o = origin[axis]
        if d == 0.0:
            if abs(o) > half[axis]:
                return math.inf, -1
            continue
        low, high = (-half[axis] - o) / d, (half[axis] - o) / d
        low_face, high_face = 2 * axis, 2 * axis + 1
        if low > high:
            low, high = high, low
            low_face, high_face = high_face, low_face
        if low > enter:
            enter, enter_face = low, low_face
        if high < leave:
            leave, leave_face = high, high_face
    if enter > leave or leave < NEAREST:
        return math.inf, -1
    if enter >= NEAREST:
        return enter, enter_face
    return leave, leave_face


@_jit
def draw_boxes(
    width: int, height: int, intrinsics: NDArray[np.float64],
    box_from_camera: NDArray[np.float64], halves: NDArray[np.float64],
    depth: NDArray[np.float64], hit_box: NDArray[np.int32], hit_face: NDArray[np.int8],
) -> None:
    """Fill z-depth (inf where nothing is hit), box index and face for every pixel.

    intrinsics: fx, fy, cx, cy; box_from_camera [P,4,4]; halves [P,3] half sizes in metres;
    outputs [H,W], overwritten.
    """
    fx, fy, cx, cy = intrinsics
    depth[:] = math.inf
    hit_box[:] = NO_BOX
    hit_face[:] = -1
    for box in range(halves.shape[0]):
        pose = box_from_camera[box]
        half = halves[box]
        left, right, top, bottom = _screen_rectangle(pose, half, width, height, fx, fy, cx, cy)
        origin = pose[:3, 3].copy()
        for y in range(top, bottom):
            b = (y - cy) / fy
            for x in range(left, right):
                a = (x - cx) / fx
                distance, face = _slab(
                    origin,
                    pose[0, 0] * a + pose[0, 1] * b + pose[0, 2],
                    pose[1, 0] * a + pose[1, 1] * b + pose[1, 2],
                    pose[2, 0] * a + pose[2, 1] * b + pose[2, 2], half)
                if distance < depth[y, x]:
                    depth[y, x] = distance
                    hit_box[y, x] = box
                    hit_face[y, x] = face


@_jit
def _screen_rectangle(
    box_from_camera: NDArray[np.float64], half: NDArray[np.float64], width: int, height: int,
    fx: float, fy: float, cx: float, cy: float,
) -> tuple[int, int, int, int]:
    """Half-open pixel rectangle that holds the box; the whole picture when it crosses z = 0."""
    left, right, top, bottom = math.inf, -math.inf, math.inf, -math.inf
    behind = 0
    for corner in range(8):
        p0 = (half[0] if corner & 1 else -half[0]) - box_from_camera[0, 3]
        p1 = (half[1] if corner & 2 else -half[1]) - box_from_camera[1, 3]
        p2 = (half[2] if corner & 4 else -half[2]) - box_from_camera[2, 3]
        x = box_from_camera[0, 0] * p0 + box_from_camera[1, 0] * p1 + box_from_camera[2, 0] * p2
        y = box_from_camera[0, 1] * p0 + box_from_camera[1, 1] * p1 + box_from_camera[2, 1] * p2
        z = box_from_camera[0, 2] * p0 + box_from_camera[1, 2] * p1 + box_from_camera[2, 2] * p2
        if z < NEAREST:
            behind += 1
            continue
        left, right = min(left, x / z * fx + cx), max(right, x / z * fx + cx)
        top, bottom = min(top, y / z * fy + cy), max(bottom, y / z * fy + cy)
    if behind == 8:
        return 0, 0, 0, 0
    if behind > 0:
        return 0, width, 0, height
    return (int(min(max(math.floor(left), 0), width)),
            int(min(max(math.ceil(right) + 1, 0), width)),
            int(min(max(math.floor(top), 0), height)),
            int(min(max(math.ceil(bottom) + 1, 0), height)))


@_jit
def shade(
    intrinsics: NDArray[np.float64], world_from_camera: NDArray[np.float64],
    box_from_camera: NDArray[np.float64], world_from_box: NDArray[np.float64],
    halves: NDArray[np.float64], face_textures: NDArray[np.int32],
    textures: NDArray[np.float64], light: NDArray[np.float64], sky: NDArray[np.float64],
    depth: NDArray[np.float64], hit_box: NDArray[np.int32], hit_face: NDArray[np.int8],
    colors: NDArray[np.float64],
) -> None:
    """Write the color [H,W,3] in 0..255 of every hit made by `draw_boxes`.

    light: sun direction (3, towards the sun), sun strength, ambient strength, lamp position (3),
    lamp strength, lamp range in m, exposure factor. Surfaces are matt, so a point has one color
    from everywhere.
    """
    fx, fy, cx, cy = intrinsics
    direction = np.empty(3)
    derivative_x = np.empty(3)
    derivative_y = np.empty(3)
    color = np.empty(3)
    for y in range(depth.shape[0]):
        for x in range(depth.shape[1]):
            a, b = (x - cx) / fx, (y - cy) / fy
            box = hit_box[y, x]
            color[:] = 0.0
            if box == NO_BOX:
                for k in range(3):
                    direction[k] = (world_from_camera[k, 0] * a + world_from_camera[k, 1] * b
                                    + world_from_camera[k, 2])
                _sky_color(direction, fx, sky, color)
                for c in range(3):
                    colors[y, x, c] = color[c] * light[10]
                continue
            pose, half, t = box_from_camera[box], halves[box], depth[y, x]
            axis = hit_face[y, x] // 2
            for k in range(3):
                direction[k] = pose[k, 0] * a + pose[k, 1] * b + pose[k, 2]
            # Footprint of the pixel on the face: t changes with the pixel along the plane.
            for k in range(3):
                derivative_x[k] = t / fx * (
                    pose[k, 0] - direction[k] * pose[axis, 0] / direction[axis])
                derivative_y[k] = t / fy * (
                    pose[k, 1] - direction[k] * pose[axis, 1] / direction[axis])
            i = 1 if axis == 0 else 0
            j = 1 if axis == 2 else 2
            u = pose[i, 3] + t * direction[i]
            v = pose[j, 3] + t * direction[j]
            texture = textures[face_textures[box, hit_face[y, x]]]
            size_x = math.hypot(derivative_x[i], derivative_x[j])
            size_y = math.hypot(derivative_y[i], derivative_y[j])
            major = derivative_x if size_x > size_y else derivative_y
            taps = int(min(max(max(size_x, size_y) / max(min(size_x, size_y), 1e-9), 1.0), 4.0))
            wu = abs(derivative_x[i]) + abs(derivative_y[i])
            wv = abs(derivative_x[j]) + abs(derivative_y[j])
            wu -= abs(major[i]) * (1.0 - 1.0 / taps)
            wv -= abs(major[j]) * (1.0 - 1.0 / taps)
            for tap in range(taps):
                s = (tap + 0.5) / taps - 0.5
                # The origin of patterns is the face's lower left corner.
                _face_color(texture, u + s * major[i] + (0.0 if texture[0] == ROAD else half[i]),
                            v + s * major[j] + (0.0 if texture[0] == ROAD else half[j]),
                            wu, wv, color)
            lit = _lighting(light, world_from_box[box], axis, pose, t, direction, half)
            for c in range(3):
                colors[y, x, c] = color[c] / taps * lit


@_jit
def _lighting(
    light: NDArray[np.float64], world_from_box: NDArray[np.float64], axis: int,
    box_from_camera: NDArray[np.float64], t: float, direction: NDArray[np.float64],
    half: NDArray[np.float64],
) -> float:
    point = np.empty(3)
    inside = True
    for k in range(3):
        point[k] = box_from_camera[k, 3] + t * direction[k]
        inside = inside and abs(box_from_camera[k, 3]) <= half[k]
    side = 1.0 if point[axis] > 0.0 else -1.0
    if inside:
        side = -side
    facing_sun, facing_lamp, distance2 = 0.0, 0.0, 1e-12
    for k in range(3):
        normal = side * world_from_box[k, axis]
        world = (world_from_box[k, 0] * point[0] + world_from_box[k, 1] * point[1]
                 + world_from_box[k, 2] * point[2] + world_from_box[k, 3])
        facing_sun += normal * light[k]
        facing_lamp += normal * (light[5 + k] - world)
        distance2 += (light[5 + k] - world) ** 2
    lamp = light[8] * max(facing_lamp, 0.0) / math.sqrt(distance2)
    lamp /= 1.0 + distance2 / (light[9] * light[9])
    return float((light[4] + light[3] * max(facing_sun, 0.0) + lamp) * light[10])


@_jit
def cast_rays(
    origins: NDArray[np.float64], directions: NDArray[np.float64],
    box_from_world: NDArray[np.float64], halves: NDArray[np.float64],
    distances: NDArray[np.float64], hit_box: NDArray[np.int32],
) -> None:
    """Ray parameter (inf for no hit) and box index of P free rays [P,3] in the world frame."""
    origin = np.empty(3)
    turned = np.empty(3)
    for ray in range(origins.shape[0]):
        distances[ray] = math.inf
        hit_box[ray] = NO_BOX
        for box in range(halves.shape[0]):
            pose = box_from_world[box]
            for k in range(3):
                origin[k] = pose[k, 3]
                turned[k] = 0.0
                for m in range(3):
                    origin[k] += pose[k, m] * origins[ray, m]
                    turned[k] += pose[k, m] * directions[ray, m]
            distance, _ = _slab(origin, turned[0], turned[1], turned[2], halves[box])
            if distance < distances[ray]:
                distances[ray] = distance
                hit_box[ray] = box
