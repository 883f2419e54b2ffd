"""Strokes as people draw them in a few seconds: paths, loops and zigzags of a thick pen.

Measured against examples of QD-IMD's masks, whose drawings come from the game Quick, Draw!.
"""

import cv2
import numpy as np

SIDE = 512


def drawing(rng: np.random.Generator) -> np.ndarray:
    """One drawing: SIDE × SIDE, bool, true where the pen went."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    count = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.15, 0.25, 0.25, 0.15, 0.1, 0.1]))
    lengths = rng.uniform(4.0, 11.5) * SIDE * rng.dirichlet(np.full(count, 2.0))
    pen = float(np.exp(rng.normal(np.log(11.5), 0.35)))
    for length in lengths:
        width = int(np.clip(round(pen * np.exp(rng.normal(0, 0.25))), 6, 30))
        points = np.rint(_stroke(rng, length)).astype(np.int32)
        cv2.polylines(canvas, [points[:, None]], False, 255, width)
    return canvas > 0


def _stroke(rng: np.random.Generator, length: float) -> np.ndarray:
    """The corners of one stroke inside the canvas: M, 2 (x, y)."""
    kind = rng.choice(["path", "loop", "zigzag"], p=[0.4, 0.35, 0.25])
    step = {"path": (40, 140), "loop": (20, 60), "zigzag": (40, 150)}[kind]
    # A loop's radius is its step over its turn.
    bend = rng.choice([-1, 1]) * rng.uniform(0.2, 0.7)
    margin = 0.02 * SIDE
    at = rng.uniform(0.1 * SIDE, 0.9 * SIDE, 2)
    heading = rng.uniform(0, 2 * np.pi)
    points = [at]
    while length > 0:
        if kind == "path":
            # Mostly straight on, now and then a corner.
            heading += rng.normal(0, 1.4 if rng.random() < 0.3 else 0.25)
        elif kind == "loop":
            heading += bend + rng.normal(0, 0.12)
        else:
            heading += np.pi + rng.normal(0.25 * np.sign(bend), 0.2)
        far = rng.uniform(*step)
        following = at + far * np.array([np.cos(heading), np.sin(heading)])
        if (following < margin).any() or (following > SIDE - margin).any():
            # At the edge the hand turns back into the picture.
            goal = rng.uniform(0.2 * SIDE, 0.8 * SIDE, 2)
            heading = float(np.arctan2(*(goal - at)[::-1]))
            following = at + far * np.array([np.cos(heading), np.sin(heading)])
        at = following.clip(margin, SIDE - margin)
        points.append(at)
        length -= far
    return np.stack(points)
