"""What is given to a run: images, the image store, network weights, lists of a data set."""

from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz_files import Kind
from tests.fuzz_files.mutations import mutate, mutate_in_png, mutate_in_zip

if TYPE_CHECKING:
    import numpy as np

SIZE = (24, 48)
PIXELS = 12 * 90_000_000  # Pillow's limit of pixels, deep ones and the RGB made of them


def _image(name: str, mode: str = "RGB", **options) -> Kind:
    def make(folder: Path) -> Path:
        from PIL import Image

        image = Image.radial_gradient("L").resize(SIZE)
        if mode == "I;16":
            image = Image.frombytes(mode, SIZE, bytes(range(256)) * 9)
        image.convert(mode).save(folder / name, **options)
        return folder / name

    return Kind(make, _store, memory=PIXELS, mutate=mutate_in_png if name.endswith(".png") else mutate)


def _store(path: Path) -> "np.ndarray":
    """Decode the image and open the store of it, in the folder beside."""
    import numpy as np

    from salcr.data import Records, open_store

    one = np.zeros(1, dtype=np.int64)
    table = Records(path.parent, (path.name,), one, one, one > 0)
    pixels = open_store(table, height=12, width=6, cache=path.parent / "cache")
    assert pixels.shape == (1, 12, 6, 3)
    return pixels


def _make_store(folder: Path) -> Path:
    image = _image("a.png").make(folder)
    _store(image)
    return next((folder / "cache").iterdir())


def _read_store(path: Path) -> None:
    """Whatever was changed, the pixels are those of the image."""
    from PIL import Image

    source = path.parents[1] / "a.png"
    with Image.open(source) as image:
        assert _store(source).tobytes() == image.resize((6, 12), Image.Resampling.BILINEAR).tobytes()


def _make_list(folder: Path) -> Path:
    from tests.data.trees import make_regdb

    return make_regdb(folder) / "idx/train_thermal_1.txt"


def _read_list(path: Path) -> None:
    from salcr.data import load_dataset, open_store

    root = path.parents[1]
    table = load_dataset("regdb", root).train_infrared
    try:
        open_store(table, height=12, width=6, cache=root / "cache")
    except (ValueError, FileNotFoundError) as error:
        assert f"below {root} " in str(error)  # it names the images that the list has led to


def _make_identities(folder: Path) -> Path:
    from tests.data.trees import make_sysu

    return make_sysu(folder, images=1, cams=(1, 3)) / "exp/test_id.txt"


def _read_identities(path: Path) -> None:
    from salcr.data import load_dataset

    try:
        load_dataset("sysu", path.parents[1])
    except ValueError as error:
        if "test image under" not in str(error):  # other identities, of which there is no image
            raise


def _weights(written: str) -> Kind:
    def make(folder: Path) -> Path:
        import torch

        state = {"state_dict": _tensors(), "epoch": 3, "arch": "tiny"}
        path = folder / "weights.pth"
        if written == "safetensors":
            from safetensors.torch import save_file

            save_file(_tensors(), path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=written == "zip")
        return path

    return Kind(make, _read_weights, mutate=mutate_in_zip if written == "zip" else mutate)


def _published(written: str) -> Kind:
    """A checkpoint of the authors' code, a few kilobytes: every weight is one number, expanded."""

    def make(folder: Path) -> Path:
        import torch

        from salcr.models import SALCRNetwork
        from salcr.models.authors import authors_state

        one = torch.ones(())
        state = {name: one.to(x.dtype).expand(x.shape) for name, x in authors_state(SALCRNetwork("tiny")).items()}
        state |= {"gem.p": one * 3, "disnet.0.weight": one, "classifier.weight": one}
        path = folder / "checkpoint.pth.tar"
        torch.save({"state_dict": state, "epoch": 39}, path, _use_new_zipfile_serialization=written == "zip")
        return path

    return Kind(make, _read_published, mutate=mutate_in_zip if written == "zip" else mutate)


def _read_published(path: Path) -> None:
    import torch

    from salcr.models.checkpoints import load_trained

    load_trained(path, torch.device("cpu"))


def _tensors():
    import torch

    return {"conv1.weight": torch.ones(4, 3, 7, 7), "bn1.bias": torch.ones(4), "fc.bias": torch.arange(9)}


def _read_weights(path: Path) -> None:
    from salcr.models.weights import misfits, read_weights

    own = {name: x for name, x in _tensors().items() if name != "fc.bias"}
    given = read_weights(path)
    if not misfits(own, given):
        for name, x in own.items():
            x.copy_(given[name])


KINDS: dict[str, Kind] = {
    "jpeg": _image("a.jpg"),
    "png": _image("a.png"),
    "deep png": _image("deep.png", "I;16"),
    "palette": _image("palette.png", "P", transparency=b"\x00\x80"),
    "tiff": _image("a.tif", compression="tiff_lzw"),
    "float tiff": _image("float.tif", "F"),
    "webp": _image("a.webp"),
    "bmp": _image("a.bmp", "P"),
    "store": Kind(_make_store, _read_store),
    "image list": Kind(_make_list, _read_list),
    "identities": Kind(_make_identities, _read_identities),
    "weights": _weights("zip"),
    "older weights": _weights("older"),
    "safetensors": _weights("safetensors"),
    "authors' checkpoint": _published("zip"),
    "older authors' checkpoint": _published("older"),
}
