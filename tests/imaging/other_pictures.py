"""Pictures that are no mammogram: photographs that come with libraries, and drawings of what else a file may hold."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage import data
from sklearn.datasets import load_sample_images

Picture = NDArray[np.uint8]

Y, X = np.mgrid[:1000, :800] / np.array([1000, 800]).reshape(2, 1, 1)


def grey(picture: NDArray[np.generic]) -> Picture:
    values = picture if picture.ndim == 2 else picture[..., :3].mean(axis=2)
    size = (800, 800 * values.shape[0] // values.shape[1])
    return np.asarray(Image.fromarray(values.astype(np.uint8)).resize(size))


def ellipse(x: float, y: float, width: float, height: float, turn: float = 0) -> NDArray[np.bool_]:
    """Inside of an ellipse about (x, y), full width and height, turned by `turn` rad; all as shares of the picture."""
    u = (X - x) * np.cos(turn) + (Y - y) * np.sin(turn)
    v = (Y - y) * np.cos(turn) - (X - x) * np.sin(turn)
    return np.asarray(np.hypot(u / width, v / height) < 0.5)


def drawn(levels: NDArray[np.floating], blur: float = 4) -> Picture:
    """Grey levels 0 to 255, blurred and with a film's grain."""
    grain = np.random.default_rng(0).normal(0, 3, levels.shape)
    return np.clip(ndimage.gaussian_filter(levels.astype(np.float64), blur) + grain, 0, 255).astype(np.uint8)


def chest() -> Picture:
    body = np.where(ellipse(0.5, 0.75, 1.1, 1.5), 190.0, 15.0)
    for side in (-1, 1):
        body[ellipse(0.5 + side * 0.2, 0.5, 0.3, 0.65, side * 0.15)] = 60
    for rib in np.arange(0.2, 0.8, 0.08):
        body += 25 * (np.abs(Y - rib - 0.4 * (X - 0.5) ** 2) < 0.012)
    body[ellipse(0.55, 0.62, 0.3, 0.3)] = 200
    body += 60 * (np.abs(X - 0.5) < 0.04)
    return drawn(body)


def hand() -> Picture:
    picture = np.full(X.shape, 8.0)
    picture[ellipse(0.5, 0.68, 0.45, 0.4)] = 140
    picture[(np.abs(X - 0.5) < 0.13) & (Y > 0.75)] = 140
    for x, y, length, turn in ((0.3, 0.4, 0.4, -0.2), (0.44, 0.33, 0.5, -0.06), (0.57, 0.34, 0.48, 0.07)):
        picture[ellipse(x, y, 0.09, length, turn)] = 150
        picture[ellipse(x, y, 0.035, length * 0.9, turn)] = 220
    picture[ellipse(0.7, 0.42, 0.08, 0.38, 0.25)] = 150
    picture[ellipse(0.2, 0.68, 0.1, 0.36, -0.8)] = 150
    return drawn(picture)


def skull() -> Picture:
    picture = np.full(X.shape, 10.0)
    picture[ellipse(0.5, 0.45, 0.75, 0.75)] = 230
    picture[ellipse(0.5, 0.45, 0.68, 0.69)] = 120
    for side in (-1, 1):
        picture[ellipse(0.5 + side * 0.14, 0.5, 0.16, 0.13)] = 50
    picture[(np.abs(X - 0.5) < 0.2) & (Y > 0.75)] = 170
    return drawn(picture)


def leg() -> Picture:
    picture = np.full(X.shape, 6.0)
    picture[np.abs(X - 0.5) < 0.2 + 0.04 * np.cos(7 * Y)] = 110
    picture[np.abs(X - 0.5) < 0.08 + 0.03 * np.cos(7 * Y)] = 210
    return drawn(picture)


def head_slice() -> Picture:
    picture = np.zeros(X.shape)
    picture[ellipse(0.5, 0.5, 0.7, 0.75)] = 250
    picture[ellipse(0.5, 0.5, 0.64, 0.69)] = 110
    picture[ellipse(0.5, 0.5, 0.1, 0.3)] = 40
    return drawn(picture)


def ultrasound() -> Picture:
    angle, radius = np.arctan2(X - 0.5, Y + 0.1), np.hypot(X - 0.5, Y + 0.1)
    fan = (np.abs(angle) < 0.6) & (radius > 0.2) & (radius < 1)
    speckle = ndimage.gaussian_filter(np.random.default_rng(2).exponential(1, X.shape), 3)
    return drawn(np.where(fan, 90 * speckle, 0), 1)


def document(ink: int, paper: int) -> Picture:
    page = Image.new("L", (800, 1000), paper)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(22)
    for line in range(60, 940, 34):
        pen.text((70, line), "Findings: the picture shows a letter and no breast.", fill=ink, font=font)
    return np.asarray(page)


def screenshot(dark: bool) -> Picture:
    screen = Image.new("L", (1280, 800), 30 if dark else 235)
    pen, font = ImageDraw.Draw(screen), ImageFont.load_default(16)
    text, panel = (220, 60) if dark else (20, 200)
    pen.rectangle((0, 0, 1280, 40), fill=panel)
    pen.rectangle((0, 40, 260, 800), fill=panel)
    for row in range(60, 780, 28):
        pen.text((16, row), f"file_{row}.txt", fill=text, font=font)
        pen.text((290, row), "def read(path): return open(path).read()", fill=text, font=font)
    return np.asarray(screen)


def others() -> dict[str, Picture]:
    """Every picture by what it shows."""
    generator = np.random.default_rng(1)
    china, flower = load_sample_images().images
    clouds = ndimage.gaussian_filter(generator.normal(0, 1, (800, 800)), 40)
    return {
        "photograph of a man with a camera": grey(data.camera()),
        "photograph of a woman": grey(data.astronaut()),
        "photograph of coins": grey(data.coins()),
        "photograph of a cup": grey(data.coffee()),
        "photograph of a cat": grey(data.chelsea()),
        "photograph of a temple": grey(china),
        "photograph of a flower": grey(flower),
        "photograph of the moon": grey(data.moon()),
        "photograph of a rocket": grey(data.rocket()),
        "photograph of bricks": grey(data.brick()),
        "negative of a photograph": 255 - grey(data.camera()),
        "scanned page": grey(data.page()),
        "photographed text": grey(data.text()),
        "document": document(20, 250),
        "document, white on black": document(250, 5),
        "screenshot": screenshot(dark=False),
        "dark screenshot": screenshot(dark=True),
        "all black": np.zeros((1000, 800), np.uint8),
        "all white": np.full((1000, 800), 255, np.uint8),
        "all grey": np.full((1000, 800), 128, np.uint8),
        "noise": generator.integers(0, 256, (1000, 800), dtype=np.uint8),
        "dark noise": np.abs(generator.normal(0, 20, (1000, 800))).clip(0, 255).astype(np.uint8),
        "clouds": ((clouds - clouds.min()) / np.ptp(clouds) * 255).astype(np.uint8),
        "gradient": np.tile(np.linspace(255, 0, 800).astype(np.uint8), (1000, 1)),
        "chess board": grey(data.checkerboard()),
        "step wedge": np.tile(np.repeat(np.arange(8) * 32, 100).astype(np.uint8), (1000, 1)),
        "half white": np.tile(np.repeat([230, 5], 400).astype(np.uint8), (1000, 1)),
        "X-ray of a chest": chest(),
        "X-ray of a hand": hand(),
        "X-ray of a skull": skull(),
        "X-ray of a leg": leg(),
        "slice of a head": head_slice(),
        "ultrasound": ultrasound(),
        "64 x 64": chest()[::16, ::13][:64, :64],
    }
