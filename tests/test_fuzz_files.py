import re

import safetensors  # noqa: F401  without it one kind cannot be made

from tests.fuzz_files import faulty
from tests.fuzz_files.__main__ import run
from tests.fuzz_files.kinds import KINDS

FAULTS = {
    "traceback": "KeyError",
    "written": "open of .* outside of the folder",
    "program": "os.system",
    "advice": "advises to read unsafely",
    "unnamed": "does not name the file",
    "memory": "it filled",
    "death": "ends the process with 3",
    "hang": "does not return within",
}


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, seed):
    """`python -m tests.fuzz_files --files 10000` reads more of them."""
    cases = [(kind, number) for number in range(12) for kind in KINDS]
    assert run(cases, seed, tmp_path) == {}


def test_every_fault_is_found_and_the_others_go_on(tmp_path):
    prompt = [(kind, 0) for kind in faulty.KINDS if kind != "hang"]
    findings = run(prompt, 0, tmp_path / "prompt", table=faulty.__name__)
    findings |= run([("hang", 0)], 0, tmp_path / "hang", table=faulty.__name__, seconds=0.5)
    assert findings.keys() == {(kind, 0) for kind in FAULTS}
    for kind, fault in FAULTS.items():
        assert re.search(fault, findings[kind, 0]), findings[kind, 0]
