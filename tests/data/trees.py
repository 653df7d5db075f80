"""Tiny data sets in every layout: every image a few pixels of one colour."""

from pathlib import Path

from PIL import Image


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (5, 9)) -> None:
    """A small picture (width, height) whose pixels follow from ``seed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    count = width * height * 3
    pixels = bytes((seed * 37 + i * (i % 7 + 3)) % 256 for i in range(count))
    Image.frombytes("RGB", size, pixels).save(path)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_sysu(root, *, train=(3, 11), val=(7,), test=(20, 4), images=2, cams=(1, 2, 3, 4, 5, 6)):
    """``images`` pictures of every identity in every camera; it may be a function of (identity, camera)."""
    count = images if callable(images) else lambda identity, cam: images
    for name, ids in (("train", train), ("val", val), ("test", test)):
        write_text(root / f"exp/{name}_id.txt", ",".join(map(str, ids)) + "\n")
    for identity in (*train, *val, *test):
        for cam in cams:
            for i in range(count(identity, cam)):
                write_image(root / f"cam{cam}/{identity:04d}/{i + 1:04d}.jpg", identity + 10 * cam + i)
    return root


def make_regdb(root, *, train=3, test=2, images=2, splits=(1,)):
    """Labels 0 to ``train - 1`` and 0 to ``test - 1``; split t numbers the person folders from 100 t."""
    for split in splits:
        for modality, folder in (("visible", "Visible"), ("thermal", "Thermal")):
            for part, ids, first in (("train", train, 0), ("test", test, train)):
                lines = []
                for label in range(ids):
                    for i in range(images):
                        person = 100 * split + first + label
                        path = f"{folder}/{person}/{part}_{modality[0]}_{i}.bmp"
                        write_image(root / path, person + i)
                        lines.append(f"{path} {label}\n")
                write_text(root / f"idx/{part}_{modality}_{split}.txt", "".join(lines))
    return root


def make_llcm(root, *, train=(2, 9), test=(31, 5), images=2, vis_cams=(1, 3, 5), nir_cams=(1, 5)):
    for modality, cams in (("vis", vis_cams), ("nir", nir_cams)):
        lines = []
        for label, identity in enumerate(train):
            for cam in cams:
                for i in range(images):
                    path = f"{modality}/{identity:04d}/{identity:04d}_c{cam:02d}_s{100 + i}_f{7 * i}_{modality}.jpg"
                    write_image(root / path, identity + cam + i)
                    lines.append(f"{path} {label}\n")
        write_text(root / f"idx/train_{modality}.txt", "".join(lines))
        for identity in test:
            for cam in cams:
                for i in range(images):
                    name = f"{identity:04d}_c{cam:02d}_s{100 + i}_f{7 * i}_{modality}.jpg"
                    write_image(root / f"test_{modality}/cam{cam}/{identity:04d}/{name}", identity + cam + i)
    write_text(root / "idx/test_id.txt", ",".join(map(str, test)))
    return root


def make_folder(root, *, train=(3, 11), test=(20, 4), images=2):
    """Training images by identity, test images asked for in each modality and searched for in the other."""
    parts = {"": train, "query/": test, "gallery/": test}
    for part, ids in parts.items():
        for modality in ("visible", "infrared"):
            for identity in ids:
                for i in range(images):
                    write_image(root / f"{part}{modality}/{identity:04d}/{i + 1:04d}.jpg", identity + i)
    return root
