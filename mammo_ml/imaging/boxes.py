"""THE box convention, and the pure functions on boxes.

One geometry everywhere: continuous pixel coordinates, origin at the top-left corner of the image, x to the right,
y down. A box is float `[x1, y1, x2, y2]`, right and bottom edge excluded, `0 <= x1 < x2 <= W`, `0 <= y1 < y2 <= H`.
The centre of the pixel in column i, row j is (i + 0.5, j + 0.5). Arrays of boxes are (N, 4). Another layout says so
in its name, as in `boxes_cxcywh`.
"""

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


def circles_to_boxes(centres: NDArray[np.float64], radii: NDArray[np.float64]) -> Boxes:
    """Square boxes (N, 4) around circles: centres (N, 2) as x, y and radii (N,), in px."""
    return np.concatenate([centres - radii[:, None], centres + radii[:, None]], axis=1)


def clip(boxes: Boxes, width: float, height: float) -> Boxes:
    """Clip boxes (N, 4) to an image of `width` x `height` px; a box outside it becomes one of no area."""
    limits = np.array([width, height, width, height], dtype=np.float64)
    return np.clip(boxes, 0.0, limits)


def area(boxes: Boxes) -> NDArray[np.float64]:
    """Areas (N,) of boxes (N, 4), in px²."""
    areas: NDArray[np.float64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def shift(boxes: Boxes, dx: float, dy: float) -> Boxes:
    """Boxes (N, 4) moved by `dx` px to the right and `dy` px down."""
    return boxes + np.array([dx, dy, dx, dy], dtype=np.float64)


def scale(boxes: Boxes, factor_x: float, factor_y: float) -> Boxes:
    """Boxes (N, 4) after the image was resized by these factors."""
    return boxes * np.array([factor_x, factor_y, factor_x, factor_y], dtype=np.float64)


def flip_horizontal(boxes: Boxes, width: float) -> Boxes:
    """Boxes (N, 4) after the image (`width` px) was mirrored left to right."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def flip_vertical(boxes: Boxes, height: float) -> Boxes:
    """Boxes (N, 4) after the image (`height` px) was mirrored top to bottom."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([x1, height - y2, x2, height - y1], axis=1)


def rotate_90(boxes: Boxes, width: float) -> Boxes:
    """Boxes (N, 4) after the image (`width` px before) was turned 90 degrees counter-clockwise, as `np.rot90` does."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([y1, width - x2, y2, width - x1], axis=1)


def iou(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4); 0 where both have no area."""
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.prod(np.clip(bottom_right - top_left, 0.0, None), axis=2)
    union = area(first)[:, None] + area(second)[None, :] - overlap
    overlaps: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return overlaps
