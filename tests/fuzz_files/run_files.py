"""Files that a run writes and reads again."""

from tests.fuzz_files import Kind

KINDS: dict[str, Kind] = {}
