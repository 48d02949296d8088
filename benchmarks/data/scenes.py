"""Rooms of boxes, balls and planes, rendered with what each pixel shows, its depth and its normal.

**What is in a picture.** A room is a box without furniture: floor, ceiling and four walls, 3 to 6 m
wide and 4 to 8 m long. The camera stands in it, 1 to 1.8 m above the floor, turned by up to 30
degrees to either side, 15 degrees down and 5 up, and sees 68 degrees across. On the floor stand up
to six things: tables (boxes wider than high), cabinets (boxes higher than wide), each turned about
the vertical, and balls. They may stand in each other and in walls. On the walls hang up to four
upright rectangles of no thickness: pictures, which are a class, and windows, which are holes in the
labels.

**What makes it hard.** Colours say nothing of the class: they are drawn alike for every surface,
with a plaid of a size, direction and strength of its own over it. One lamp below the ceiling lights
all surfaces by Lambert's law and the square of the distance, with some light from everywhere; there
are no cast shadows and no reflections. Its colour and brightness differ from room to room. Every
pixel has noise in each colour, of a deviation of 0.03. Sizes are not known from the picture alone.

**Conventions** are those of NYUv2. Depth is along the optical axis, in metres, that of a plane
through the pixel's centre, without noise. Normals are unit vectors that point to the camera, in its
axes: right, down, away. What a window shows has label -1, depth 0 and a normal of zeros.

**What it is not.** There are no textures of real things, no curved furniture, no clutter, no lens.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks.data.splits import Splits

HEIGHT, WIDTH = 64, 96
FOCAL = 71.0  # In pixels.
CLASSES = ("floor", "ceiling", "wall", "table", "cabinet", "ball", "picture")
FLOOR, CEILING, WALL, TABLE, CABINET, BALL, PICTURE = range(len(CLASSES))
UNDEFINED = -1
PLANES = (WALL, WALL, CEILING, FLOOR, WALL, WALL)  # Left, right, above, below, behind, in front.
THINGS = 6  # At most, on the floor of a room.
PANELS = 4  # At most, on its walls.
NOISE = 0.03
AT_ONCE = 16  # Rooms to render together: what they need stays in a processor's cache.


class Scenes(NamedTuple):
    """Pictures and what is to be told of each pixel. A batch of them is a ``Scenes`` too."""

    images: Float[np.ndarray, "n h w 3"]
    """Red, green and blue, from 0 to 1."""
    labels: Int[np.ndarray, "n h w"]
    """Places in `CLASSES`, or classes of another data set; -1 where there is none."""
    depths: Float[np.ndarray, "n h w"]
    """In metres, or inverse ones; 0 where it is not known."""
    normals: Float[np.ndarray, "n h w 3"] | None
    """Unit vectors; zeros where they are not known. None of data without normals."""


class Rooms(NamedTuple):
    """What is to be rendered: metres, in axes right, down and away with the camera at zero."""

    camera: Float[np.ndarray, "n 3 3"]
    """Its axes, as columns: right, down and away as it sees them."""
    low: Float[np.ndarray, "n 3"]
    high: Float[np.ndarray, "n 3"]
    """The room is what lies between the two."""
    kinds: Int[np.ndarray, "n k"]
    """`TABLE`, `CABINET` or `BALL`; -1 where there is no such thing."""
    centres: Float[np.ndarray, "n k 3"]
    halves: Float[np.ndarray, "n k 3"]
    """Half of the length along each axis of its own; of a ball, its radius."""
    turns: Float[np.ndarray, "n k"]
    """About the vertical, in radians."""
    walls: Int[np.ndarray, "n j"]
    """On which wall a panel hangs: left, right, behind, in front."""
    panels: Int[np.ndarray, "n j"]
    """`PICTURE`, or -1 for a window."""
    places: Float[np.ndarray, "n j 4"]
    """Its middle along the wall and down, and half its width and height; none has a width of 0."""
    colours: Float[np.ndarray, "n s 3"]
    """Of the six planes of the room, of the things and of the panels."""
    waves: Float[np.ndarray, "n s 2 3"]
    """Wave vectors of the plaid on each, in radians per metre."""
    strengths: Float[np.ndarray, "n s"]
    """Of the plaid."""
    lamp: Float[np.ndarray, "n 3"]
    light: Float[np.ndarray, "n 3"]
    """Its colour."""
    ambient: Float[np.ndarray, " n"]
    """What light comes from everywhere."""


def scenes(*, train: int, validation: int, test: int, seed: int = 0) -> Splits:
    """Rooms drawn at random, the same for the same seed; a split does not depend on the others.

    Args:
        train: number of training pictures.
        validation: number of validation pictures.
        test: number of test pictures.
        seed: of the rooms and the noise.
    """
    parts = []
    for number, size in enumerate((train, validation, test)):
        rng = np.random.default_rng([seed, number])
        parts.append(render(draw(rng, size), rng))
    return Splits(*parts)


def draw(rng: np.random.Generator, number: int) -> Rooms:
    """So many rooms at random."""
    n = number
    between = lambda low, high, *shape: rng.uniform(low, high, (n, *shape))
    turned, down = np.radians(between(-30, 30)), np.radians(between(-5, 15))
    size = np.stack([between(3, 6), between(2.4, 3.2), between(4, 8)], axis=1)
    above = between(1.0, 1.8)
    # Where the camera stands: anywhere across, in the rear half along.
    part = np.stack([between(0.2, 0.8), 1 - above / size[:, 1], between(0.05, 0.5)], axis=1)
    low = -part * size
    high = low + size

    kinds = rng.choice([TABLE, CABINET, BALL, BALL], (n, THINGS))
    kinds = np.where(rng.random((n, THINGS)) < 0.7, kinds, UNDEFINED)
    table = np.stack([between(*ends, THINGS) for ends in ((0.3, 0.9), (0.15, 0.4), (0.3, 0.6))], -1)
    upright = ((0.2, 0.5), (0.6, 1), (0.2, 0.4))
    cabinet = np.stack([between(*ends, THINGS) for ends in upright], -1)
    ball = np.repeat(between(0.15, 0.5, THINGS)[..., None], 3, axis=-1)
    halves = np.select([kinds[..., None] == TABLE, kinds[..., None] == CABINET], [table, cabinet])
    halves = np.where(kinds[..., None] == BALL, ball, halves)
    around = np.hypot(halves[..., 0], halves[..., 2])
    # Where the camera looks, at least a metre before it, if the room is long enough.
    away = around + 1 + between(0, 4, THINGS)
    angle = turned[:, None] + np.radians(between(-35, 35, THINGS))
    x, z = away * np.sin(angle), away * np.cos(angle)
    x = np.clip(x, low[:, None, 0] + 0.3, high[:, None, 0] - 0.3)
    z = np.clip(z, low[:, None, 2] + 0.3, high[:, None, 2] - 0.3)
    kinds = np.where(np.hypot(x, z) > around + 0.3, kinds, UNDEFINED)
    centres = np.stack([x, high[:, None, 1] - halves[..., 1], z], axis=-1)

    walls = rng.integers(0, 4, (n, PANELS))
    along = np.where(walls < 2, 2, 0)
    ends = [np.take_along_axis(corner, along, axis=1) for corner in (low, high)]
    middle = ends[0] + (ends[1] - ends[0]) * between(0.1, 0.9, PANELS)
    height = low[:, None, 1] + between(0.7, 1.3, PANELS)
    places = np.stack(
        [middle, height, between(0.25, 0.8, PANELS), between(0.2, 0.55, PANELS)], axis=-1
    )
    places[..., 2] *= rng.random((n, PANELS)) < 0.6
    panels = np.where(rng.random((n, PANELS)) < 0.6, PICTURE, UNDEFINED)

    surfaces = len(PLANES) + THINGS + PANELS
    waves = rng.normal(size=(n, surfaces, 2, 3))
    waves /= np.linalg.norm(waves, axis=-1, keepdims=True)
    waves *= 2 * np.pi / np.exp(between(*np.log([0.15, 1.5]), surfaces, 1, 1))
    colours = between(0.25, 0.95, surfaces, 1) * between(0.6, 1, surfaces, 3)
    strengths = between(0, 0.4, surfaces)
    # The walls of a room are papered alike.
    for drawn in (colours, waves, strengths):
        drawn[:, 1] = drawn[:, 4] = drawn[:, 5] = drawn[:, 0]
    lamp = low + size * np.stack([between(0.2, 0.8), np.full(n, 0.1), between(0.2, 0.8)], axis=1)
    rooms = Rooms(
        camera=_axes(turned, down),
        low=low,
        high=high,
        kinds=kinds,
        centres=centres,
        halves=halves,
        turns=between(0, np.pi, THINGS),
        walls=walls,
        panels=panels,
        places=places,
        colours=colours,
        waves=waves,
        strengths=strengths,
        lamp=lamp,
        light=between(3, 9, 1) * between(0.8, 1, 3),
        ambient=between(0.2, 0.5),
    )
    return Rooms(*(x if x.dtype.kind == "i" else x.astype(np.float32) for x in rooms))


def render(rooms: Rooms, rng: np.random.Generator) -> Scenes:
    """What the camera sees, with noise drawn from ``rng``."""
    number = len(rooms.camera)
    parts = [
        _render(Rooms(*(x[at : at + AT_ONCE] for x in rooms)), rng)
        for at in range(0, number, AT_ONCE)
    ]
    return Scenes(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def rays() -> Float[np.ndarray, "3 p"]:
    """Through the middle of each pixel to where the depth is 1, in the camera's axes."""
    v, u = np.indices((HEIGHT, WIDTH)).reshape(2, -1) + 0.5
    return np.stack(
        [(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones(HEIGHT * WIDTH)]
    ).astype(np.float32)


def meet_room(
    directions: Float[np.ndarray, "n 3 p"],
    low: Float[np.ndarray, "n 3"],
    high: Float[np.ndarray, "n 3"],
) -> tuple[Float[np.ndarray, "n p"], Int[np.ndarray, "n p"], Float[np.ndarray, "n 3 p"]]:
    """Where rays from zero leave a box around it: how many times their length, plane, normal."""
    with np.errstate(divide="ignore"):
        ends = np.maximum(low[..., None] / directions, high[..., None] / directions)
    axis = ends.argmin(axis=1)
    signs = np.sign(directions)
    beyond = np.take_along_axis(signs, axis[:, None], axis=1)[:, 0] > 0
    normals = np.where(axis[:, None] == np.arange(3)[:, None], -signs, 0)
    return ends.min(axis=1), 2 * axis + beyond, normals


def meet_boxes(
    directions: Float[np.ndarray, "n 3 p"],
    centres: Float[np.ndarray, "n 3"],
    halves: Float[np.ndarray, "n 3"],
    turns: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n 3 p"]]:
    """Where rays from zero enter a box: how many times their length, infinite if they do not.

    And its normal there.
    """
    own = _axes(turns, np.zeros_like(turns)).swapaxes(1, 2)
    along, start = own @ directions, own @ -centres[..., None]
    with np.errstate(divide="ignore"):
        ends = [(side * halves[..., None] - start) / along for side in (-1, 1)]
    enters, leaves = np.minimum(*ends), np.maximum(*ends).min(axis=1)
    axis, near = enters.argmax(axis=1), enters.max(axis=1)
    normals = np.where(axis[:, None] == np.arange(3)[:, None], -np.sign(along), 0)
    met = (near > 0) & (near < leaves)
    return np.where(met, near, np.inf), own.swapaxes(1, 2) @ normals


def meet_balls(
    directions: Float[np.ndarray, "n 3 p"],
    centres: Float[np.ndarray, "n 3"],
    radii: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n 3 p"]]:
    """As `meet_boxes`, of balls."""
    squares = (directions**2).sum(axis=1)
    towards = (directions * centres[..., None]).sum(axis=1)
    beside = (centres**2).sum(axis=1) - radii**2
    inside = towards**2 - squares * beside[:, None]
    near = (towards - np.sqrt(np.maximum(inside, 0))) / squares
    normals = (near[:, None] * directions - centres[..., None]) / radii[:, None, None]
    return np.where((inside > 0) & (near > 0), near, np.inf), normals


def _axes(
    turned: Float[np.ndarray, " n"], down: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3 3"]:
    """Right, down and away of one who has turned to the right, and then down, as columns."""
    zero = np.zeros_like(turned)
    right = np.stack([np.cos(turned), zero, -np.sin(turned)], axis=1)
    away = np.stack(
        [np.sin(turned) * np.cos(down), np.sin(down), np.cos(turned) * np.cos(down)], axis=1
    )
    return np.stack([right, np.cross(away, right), away], axis=2)


def _render(rooms: Rooms, rng: np.random.Generator) -> Scenes:
    number = len(rooms.camera)
    directions = rooms.camera @ rays()
    depths, surfaces, normals = meet_room(directions, rooms.low, rooms.high)
    first = len(PLANES) + THINGS
    for j, (wall, place) in enumerate(zip(rooms.walls.T, rooms.places.swapaxes(0, 1), strict=True)):
        hangs = _hangs(surfaces, depths[:, None] * directions, wall, place)
        surfaces = np.where(hangs, first + j, surfaces)
    for k, kind in enumerate(rooms.kinds.T):
        for chosen, meet in (
            (kind == BALL, lambda d, c, h, _: meet_balls(d, c, h[:, 0])),
            ((kind == TABLE) | (kind == CABINET), meet_boxes),
        ):
            of_thing = (rooms.centres[:, k], rooms.halves[:, k], rooms.turns[:, k])
            found = meet(*(x[chosen] for x in (directions, *of_thing)))
            nearer = found[0] < depths[chosen]
            depths[chosen] = np.where(nearer, found[0], depths[chosen])
            surfaces[chosen] = np.where(nearer, len(PLANES) + k, surfaces[chosen])
            normals[chosen] = np.where(nearer[:, None], found[1], normals[chosen])

    classes = np.hstack([np.tile(PLANES, (number, 1)), rooms.kinds, rooms.panels])
    labels = np.take_along_axis(classes, surfaces, axis=1)
    window = labels == UNDEFINED
    images = _shade(rooms, depths[:, None] * directions, normals, surfaces, window)
    images += NOISE * rng.standard_normal(images.shape, np.float32)
    seen = rooms.camera.swapaxes(1, 2) @ normals
    shape = (number, HEIGHT, WIDTH)
    return Scenes(
        images=np.clip(images, 0, 1).reshape(*shape, 3),
        labels=labels.astype(np.int32).reshape(shape),
        depths=np.where(window, 0, depths).astype(np.float32).reshape(shape),
        normals=np.where(window[..., None], 0, seen.swapaxes(1, 2))
        .astype(np.float32)
        .reshape(*shape, 3),
    )


def _hangs(
    surfaces: Int[np.ndarray, "n p"],
    points: Float[np.ndarray, "n 3 p"],
    wall: Int[np.ndarray, " n"],
    place: Float[np.ndarray, "n 4"],
) -> Bool[np.ndarray, "n p"]:
    """Whether the panel on a wall is at the point of a plane."""
    along = np.where(wall[:, None] < 2, points[:, 2], points[:, 0])
    middle, height, width, tall = place.T[..., None]
    at = (np.abs(along - middle) < width) & (np.abs(points[:, 1] - height) < tall)
    return at & (surfaces == np.where(wall < 2, wall, wall + 2)[:, None])


def _shade(
    rooms: Rooms,
    points: Float[np.ndarray, "n 3 p"],
    normals: Float[np.ndarray, "n 3 p"],
    surfaces: Int[np.ndarray, "n p"],
    window: Bool[np.ndarray, "n p"],
) -> Float[np.ndarray, "n p 3"]:
    """The light that comes from each point; windows are as bright as day."""
    rows = np.arange(len(surfaces))[:, None]
    phases = np.einsum("npwc,ncp->wnp", rooms.waves[rows, surfaces], points)
    pattern = np.tanh(3 * np.sin(phases[0]) * np.sin(phases[1]))
    pattern *= rooms.strengths[rows, surfaces]
    colours = rooms.colours[rows, surfaces] * (1 + pattern)[..., None]
    towards = rooms.lamp[..., None] - points
    square = (towards**2).sum(axis=1)
    lit = np.maximum((towards * normals).sum(axis=1), 0) / np.sqrt(square) / (1 + square)
    light = rooms.ambient[:, None, None] + rooms.light[:, None] * lit[..., None]
    return np.where(window[..., None], 0.5 + 0.5 * colours, colours * light)
