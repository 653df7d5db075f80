"""What is given to a run: images, the image store, network weights, lists of a data set."""

from pathlib import Path

from tests.fuzz_files import Kind


def _read_image(path: Path) -> None:
    import numpy as np

    from salcr.data import Records, open_store

    one = np.zeros(1, dtype=np.int64)
    table = Records(path.parent, (path.name,), one, one, one.astype(bool))
    assert open_store(table, height=12, width=6, cache=path.parent / "cache").shape == (1, 12, 6, 3)


def _write_image(mode: str, name: str, **options):
    def make(folder: Path) -> Path:
        from PIL import Image

        size = (24, 48)
        image = Image.frombytes("L", size, bytes(range(256)) * 4 + bytes(128)).convert(mode)
        image.save(folder / name, **options)
        return folder / name

    return make


KINDS: dict[str, Kind] = {"jpeg": Kind(_write_image("RGB", "image.jpg"), _read_image)}
