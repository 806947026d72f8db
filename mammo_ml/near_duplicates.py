"""Near-duplicates: pictures of the same piece of film, turned, mirrored, shifted, cropped, relit, noisy or compressed.

Two films of one woman look alike, but their fine texture (0.4 to 1.6 mm on films) fits at no shift; that of a copy
does. So the texture of every two pictures is correlated at all shifts, in the eight rotations and mirrorings. A cheap
comparison that no shift changes, that of their autocorrelations, first picks the pairs and turns worth it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Floats = NDArray[np.float32]
Spectra = NDArray[np.complex64]

MIN_SIDE_PX = 32
"""Of textured pixels; unrelated pictures with fewer can fit each other by chance."""
MIN_SIMILARITY = 0.25
"""Correlation of the textures at the best shift; docs/leak-audit.md has what copies and unrelated films reach."""
MIN_CONTRAST = 7.0
"""That correlation over its root mean square at all shifts. Small or simple pictures, such as an edge, fit each other
somewhere by chance, but then nearly as well elsewhere."""
CANDIDATES = 20
"""Partners of a picture whose texture is correlated with it, however little their autocorrelations agree."""
SURE_AGREEMENT = 0.25
"""Agreement of the autocorrelations from which every partner is a candidate; unrelated films reach 0.16."""

_TEXTURE_FLOOR = 0.5
"""Grey levels of 255; less is the noise of rounding."""
_LINE_PX = 61
"""Running means along rows and columns are taken out: film edges and scanner lines are alike on unrelated films."""
_FLAT_PX = 5
"""Edge of a square of one grey value; texture is never that even."""
_CLIP = 3.0
"""Local standard deviations; calcifications, letters and scratches do not decide alone."""
_AT_ONCE = 16
"""Pairs in one transform: more is not faster, and takes memory."""


@dataclass(frozen=True)
class Grid:
    """How pictures up to `longest_px` are compared: reduced by `factor`, then folded onto `side` x `side` px.

    Folding adds up tiles: a picture and its copy correlate as before, at any shift, and the transforms are small.
    `sigma_px` are those of the two Gaussians whose difference is the band that is compared.
    """

    longest_px: int
    factor: int
    side: int
    sigma_px: tuple[float, float]


GRIDS = (
    Grid(64, 1, 64, (0.8, 2.5)),
    Grid(320, 1, 128, (0.8, 2.5)),
    *(Grid(512 * factor, factor, 256, (1.0, 4.0)) for factor in (1, 2, 4, 8, 16)),
)
"""By the longest edge of a pair: a film of 1024 px at 0.2 mm is compared at 0.4 mm a pixel."""


@dataclass(frozen=True)
class NearPair:
    """Places of two pictures in the list, and the correlation of their textures at the best shift, 1 at most."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs found among `n_compared`; `n_too_plain` were not compared: a picture too small or almost untextured."""

    pairs: tuple[NearPair, ...]
    n_compared: int
    n_too_plain: int


def near_duplicates(
    shapes: Sequence[tuple[int, int]],
    load: Callable[[int], NDArray[np.uint8]],
    roles: NDArray[np.str_],
    progress: Callable[[int], object] = lambda pairs: None,
) -> NearDuplicates:
    """Compare every two pictures of different roles.

    Args:
        shapes: height and width of each of N pictures, px.
        load: picture uint8 (H, W) by its place; called once for every grid it is needed on.
        roles: (N,) role of each picture.
        progress: told how many more pairs are done.

    Returns:
        Pairs that reach MIN_SIMILARITY and MIN_CONTRAST, by place. Of a picture with more than `CANDIDATES` weak copies
        at least that many are found.
    """
    own_grid = np.array([_grid_of(max(shape)) for shape in shapes], dtype=np.int64)
    pairs: list[NearPair] = []
    n_compared = n_too_plain = 0
    for number in sorted(set(own_grid.tolist())):
        places = np.flatnonzero(own_grid <= number)
        textures = _Textures(GRIDS[number], places.size, (load(place) for place in places.tolist()))
        for row, place in enumerate(places.tolist()):
            later = places[row + 1 :]
            due = (roles[later] != roles[place]) & (np.maximum(own_grid[later], own_grid[place]) == number)
            rich = due & textures.rich[row + 1 :] & textures.rich[row]
            for partner, similarity in textures.partners(row, row + 1 + np.flatnonzero(rich)):
                pairs.append(NearPair(place, int(places[partner]), min(similarity, 1.0)))
            n_compared += int(rich.sum())
            n_too_plain += int(due.sum() - rich.sum())
            progress(int(due.sum()))
    return NearDuplicates(tuple(sorted(pairs, key=lambda pair: (pair.first, pair.second))), n_compared, n_too_plain)


def _grid_of(longest_px: int) -> int:
    return next((number for number, grid in enumerate(GRIDS) if longest_px <= grid.longest_px), len(GRIDS) - 1)


class _Textures:
    """Pictures on one grid: spectra of their folded textures, halves of their autocorrelations, and which are rich."""

    def __init__(self, grid: Grid, n_pictures: int, pictures: Iterable[NDArray[np.uint8]]) -> None:
        side = grid.side
        self._shape = (side, side)
        self._spectra = np.empty((n_pictures, side, side // 2 + 1), dtype=np.complex64)
        self._autocorrelations = np.empty((n_pictures, side // 2 * (side - 1)), dtype=np.float32)
        self.rich = np.empty(n_pictures, dtype=np.bool_)
        for row, pixels in enumerate(pictures):
            texture, self.rich[row] = _texture(pixels, grid)
            self._spectra[row] = fft.rfft2(_fold(texture, side))
            self._autocorrelations[row] = _half(self._autocorrelation(row))

    def partners(self, row: int, others: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
        """Row and similarity of each of the others (M,; ascending) that is a near-duplicate of the one in `row`."""
        if others.size == 0:
            return
        lags = np.stack([_half(turned) for turned in _turns(self._autocorrelation(row))])
        agreement = (self._autocorrelations[others[0] :] @ lags.T)[others - others[0]]
        best = agreement.max(axis=1)
        enough = min(SURE_AGREEMENT, float(np.sort(best)[-min(CANDIDATES, best.size)]))
        chosen = np.flatnonzero(best >= enough)
        turns = fft.rfft2(np.stack(list(_turns(fft.irfft2(self._spectra[row], s=self._shape)))))
        for begin in range(0, chosen.size, _AT_ONCE):
            part = chosen[begin : begin + _AT_ONCE]
            similarity, contrast = self._fit(turns[agreement[part].argmax(axis=1)], self._spectra[others[part]])
            for k in np.flatnonzero((similarity >= MIN_SIMILARITY) & (contrast >= MIN_CONTRAST)):
                yield int(others[part[k]]), float(similarity[k])

    def _fit(self, asked: Spectra, others: Spectra) -> tuple[Floats, Floats]:
        """Similarity and contrast (M,) of spectra (M, S, S // 2 + 1), the first as they are or turned by 180°."""
        # Turning by 180° conjugates the spectrum of real pixels.
        both = np.stack([fft.irfft2(others * turned, s=self._shape) for turned in (asked, asked.conj())])
        highest = both.max(axis=(2, 3))
        contrast = highest / np.maximum(np.sqrt((both * both).mean(axis=(2, 3))), 1e-9)
        return highest.max(axis=0), contrast.max(axis=0)

    def _autocorrelation(self, row: int) -> Floats:
        """What a shift of a picture does not change: correlation (S - 1, S - 1) of its tile with itself.

        Its spectrum is flattened, and the middle, which only tells how fine the texture is, set to 0.
        """
        side = self._shape[0]
        lags: Floats = np.fft.fftshift(fft.irfft2(np.abs(self._spectra[row]), s=self._shape))[1:, 1:]
        distance = np.abs(np.arange(side - 1) - (side // 2 - 1))
        lags[np.hypot(distance[:, None], distance[None]) < side // 8] = 0
        return lags


def _texture(pixels: NDArray[np.uint8], grid: Grid) -> tuple[Floats, bool]:
    """Band-passed pixels, of unit norm, and whether enough of them are textured.

    They are in units of their local standard deviation, so that brightness and contrast cancel.
    """
    reduced = _reduce(pixels, grid.factor)
    narrow, wide = grid.sigma_px
    band = _blur(reduced, narrow) - _blur(reduced, wide)
    for axis in (0, 1):
        band -= ndimage.uniform_filter1d(band, _LINE_PX, axis=axis, mode="nearest")
    band[_near_flat(reduced, round(3 * wide))] = 0
    variance = _blur(band * band, 2 * wide)
    values = np.clip(band / np.sqrt(variance + _TEXTURE_FLOOR**2), -_CLIP, _CLIP)
    return _unit(values), bool(np.count_nonzero(variance > _TEXTURE_FLOOR**2) >= MIN_SIDE_PX**2)


def _near_flat(reduced: Floats, reach_px: int) -> NDArray[np.bool_]:
    """Pixels (H, W) at the padding of a picture or another area of one grey value, whose outline is not of the film."""
    flat = ndimage.maximum_filter(reduced, _FLAT_PX) == ndimage.minimum_filter(reduced, _FLAT_PX)
    near: NDArray[np.bool_] = ndimage.maximum_filter(flat, 2 * reach_px + 1)
    return near


def _reduce(pixels: NDArray[np.uint8], factor: int) -> Floats:
    """Mean of blocks of `factor` x `factor` px; a rest at the edges is left out, a smaller picture is padded."""
    pixels = np.pad(pixels, [(0, max(0, factor - edge)) for edge in pixels.shape], mode="edge")
    height, width = (edge // factor * factor for edge in pixels.shape)
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor)
    means: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _blur(values: Floats, sigma_px: float) -> Floats:
    blurred: Floats = ndimage.gaussian_filter(values, sigma_px, mode="nearest", truncate=3.0)
    return blurred


def _fold(texture: Floats, side: int) -> Floats:
    """Sum (S, S) of the tiles of a texture (H, W) that is padded to whole tiles."""
    height, width = texture.shape
    padded = np.pad(texture, ((0, -height % side), (0, -width % side)))
    tiles: Floats = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side).sum(axis=(0, 2))
    return tiles


def _turns(square: Floats) -> Iterator[Floats]:
    """Four of the eight rotations and mirrorings; the others are these turned by 180°."""
    for turned in (square, square.T):
        yield turned
        yield turned[:, ::-1]


def _half(lags: Floats) -> Floats:
    """Upper half of an autocorrelation, which the lower one repeats, as a unit vector."""
    return _unit(lags[: (lags.shape[0] + 1) // 2].ravel())


def _unit(values: Floats) -> Floats:
    """Values over their norm; those of a picture without any texture stay zero."""
    unit: Floats = values / np.float32(max(float(np.linalg.norm(values)), 1e-6))
    return unit
