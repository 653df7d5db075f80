"""Random calls of every public operator on every backend of this CPU: each works, or says why, and all of them alike.

``python -m tests.fuzz --calls 200000`` runs as many as asked for; ``test_fuzz.py`` runs 2,000. A call is drawn from a
seed and its number alone, so that both name it: ``python -m tests.fuzz --seed 0 --first 1234 --calls 1``.

- ``draw.py``: tensors with NaN, Inf, ties, odd strides; what is wrong for an argument of each kind
- ``operators.py``: how each operator's arguments are drawn, and who judges its results
- ``judges.py``: what equal means for each kind of result
- ``calls.py``: one call on all backends, and the verdict
- ``campaign.py``: calls in worker processes that may crash, hang or ask for too much memory
"""
