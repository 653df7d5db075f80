"""``python -m tests.fuzz``: as many random calls as asked for; what is wrong is printed with how to see it again."""

import argparse
import sys
import threading
import time
from collections import Counter
from itertools import count, islice

from tests.fuzz.calls import NAMES, operator_of
from tests.fuzz.campaign import Finding, campaign


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="a call follows from the seed and its number")
    parser.add_argument("--first", type=int, default=0, help="number of the first call, to go on from")
    parser.add_argument("--operator", choices=NAMES, help="calls of this operator alone")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    options = parser.parse_args()
    of_operator = (n for n in count(options.first) if options.operator in (None, operator_of(n)))
    made, lock, start = 0, threading.Lock(), time.monotonic()

    def report(calls: int, findings: list[Finding]) -> None:
        nonlocal made
        with lock:
            made += calls
            for finding in findings:
                print(f"{operator_of(finding.number)}: {finding}", flush=True)
            print(f"{made} of {options.calls} calls, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)

    found = campaign(options.seed, list(islice(of_operator, options.calls)), options.workers, report)
    by_operator = ", ".join(f"{name} {n}" for name, n in Counter(operator_of(f.number) for f in found).most_common())
    print(f"{options.calls} calls from {options.first} of seed {options.seed}: {len(found)} findings. {by_operator}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
