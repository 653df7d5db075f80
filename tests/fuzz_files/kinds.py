"""Every kind of file, by name."""

from tests.fuzz_files import Kind, input_files, run_files

KINDS: dict[str, Kind] = input_files.KINDS | run_files.KINDS
