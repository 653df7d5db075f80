"""What is distributed: the sources are the repository, a wheel of them has all that the package reads."""

import os
import re
import runpy
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[1]
LINKS = {"salcr/kernels": "kernels", "salcr/cuda_sources": "csrc/cuda"}  # folders of the checkout that also stand there


def setup(folder, *arguments):
    """What ``setup.py`` says; nvcc is out of reach, so that it leaves files out that only a build with it names."""
    hidden = os.environ | {"CUDA_HOME": "/nonexistent", "CUDA_PATH": ""}
    command = [sys.executable, "setup.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a checkout")
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).exists()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The source distribution, unpacked."""
    room = tmp_path_factory.mktemp("packaging")
    setup(ROOT, "-q", "egg_info", "--egg-base", room, "sdist", "--formats", "tar", "--dist-dir", room)
    (archive,) = room.glob("*.tar")
    with tarfile.open(archive) as tar:
        tar.extractall(room, filter="data")
    return room / archive.stem


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_sources_are_the_repository(tracked, sources):
    shipped = files(sources)
    assert sorted(tracked - set(LINKS) - shipped) == []
    for link, folder in LINKS.items():
        linked = {name.replace(folder, link, 1) for name in tracked if name.startswith(f"{folder}/")}
        assert sorted(linked - shipped) == []
    assert [name for name in shipped if name.endswith((".so", ".pyc"))] == []


def test_a_wheel_of_the_sources_has_what_the_package_reads(tracked, sources, tmp_path):
    said = setup(sources, "build_py", "--build-lib", tmp_path)
    assert "absent from the" not in said
    expected = {name for name in tracked if name.startswith("salcr/") and name not in LINKS}
    expected |= {name.replace("kernels/", "salcr/kernels/", 1) for name in tracked if name.startswith("kernels/")}
    cuda = {name for name in tracked if name.startswith("csrc/cuda/") and not name.endswith(".cpp")}
    expected |= {name.replace("csrc/cuda/", "salcr/cuda_sources/", 1) for name in cuda}
    assert sorted(expected ^ files(tmp_path)) == []


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({}, {"-DSALCR_PORTABLE", "-fstrict-overflow"}),  # Python 3.12 and newer ask for the opposite
        ({"SALCR_NATIVE": "1"}, {"-march=native", "-fstrict-overflow"}),
        ({"SALCR_SANITIZE": "address"}, {"-fsanitize=address"}),  # loaded too early for a choice of code
    ],
)
def test_builds_are_for_any_machine_unless_asked(monkeypatch, settings, given):
    for name in ("SALCR_NATIVE", "SALCR_SANITIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    built = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: built.update(options))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    flags = {"-DSALCR_PORTABLE", "-march=native", "-fsanitize=address", "-fstrict-overflow"}
    assert flags.intersection(built["ext_modules"][0].extra_compile_args) == given


def test_extrema_in_vector_loops_are_taken_by_value():
    """csrc/extrema.hpp says why."""
    loops = [
        (path.name, body)
        for path in (ROOT / "csrc").glob("*.[ch]pp")
        for body in re.findall(r"#pragma omp simd.*\n((?: {2,}.*\n){2})", path.read_text())
    ]
    assert len(loops) > 30 and not [loop for loop in loops if re.search(r"std::(max|min|clamp)\(", loop[1])]


def test_objects_are_kept_apart_by_architecture_and_interpreter(monkeypatch):
    """A checkout on a shared disk is built by machines of both architectures, one after the other."""
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    known, folders = sysconfig.get_config_var, []
    for made_for in ("cpython-313-x86_64", "cpython-313-aarch64", "cpython-313t-aarch64"):
        suffix = f".{made_for}-linux-gnu.so"
        monkeypatch.setattr(
            sysconfig, "get_config_var", lambda name, suffix=suffix: suffix if name == "EXT_SUFFIX" else known(name)
        )
        build = runpy.run_path("setup.py")["OptionalBuild"](setuptools.Distribution())
        build.finalize_options()
        folders.append(build.build_temp)
    assert len(set(folders)) == 3


@pytest.mark.parametrize(
    ("changed", "recompiled"),
    [
        ("csrc/bind_knn.cpp", ["csrc/bindings.cpp"]),
        ("csrc/knn.cpp", ["csrc/knn.cpp"]),
        ("csrc/binding.hpp", ["csrc/bindings.cpp", "csrc/knn.cpp"]),
    ],
)
def test_what_includes_a_changed_file_is_compiled_again(monkeypatch, tmp_path, changed, recompiled):
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    is_old = runpy.run_path("setup.py")["is_old"]
    compiled = tmp_path / "compiled.o"
    compiled.touch()
    times = {str(compiled): 1, changed: 2}
    monkeypatch.setattr("os.path.getmtime", lambda path: times.get(str(path), 0))
    assert [source for source in ("csrc/bindings.cpp", "csrc/knn.cpp") if is_old(compiled, source)] == recompiled


def test_an_nvcc_that_does_not_know_the_newest_gpus_builds_for_the_others(monkeypatch, tmp_path):
    """CUDA 12.6, which torch is built with too, does not know compute capability 10.0, and ends at its name."""
    nvcc, given = tmp_path / "bin/nvcc", tmp_path / "given"
    nvcc.parent.mkdir()
    nvcc.write_text(
        f"""#!/bin/sh
[ "$1" = --list-gpu-arch ] && printf 'compute_80\\ncompute_86\\ncompute_90\\n' && exit
case "$*" in *_100*) echo "nvcc fatal: Unsupported gpu architecture 'compute_100'" >&2; exit 1;; esac
echo "$*" > "{given}"
"""
    )
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")["OptionalBuild"].run_nvcc(None, ["a.cu"], tmp_path / "built/a.so")
    codes = {word.partition("=")[2] for word in given.read_text().split() if word.startswith("-gencode")}
    assert codes == {f"arch=compute_{n},code={kind}_{n}" for n, kind in ((80, "sm"), (90, "sm"), (90, "compute"))}
