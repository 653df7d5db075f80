import math

import pytest
import torch

from salcr.engine import best
from salcr.engine.checkpoint import save_atomically


def record(epoch, mAP=None, rank=1.0):
    figures = {"rank-1": rank, "mAP": mAP, "mINP": 0.0}
    return {"epoch": epoch} | ({} if mAP is None else {"evaluation": {"all": figures, "indoor": {"mAP": 99.0}}})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_first_of_the_best_by_the_first_protocol():
    records = [record(0), record(1, 3.0), record(2, 4.0), record(3), record(4, 4.0), record(5, 2.0, rank=5.0)]
    assert best.best_epoch(records, "mAP") == {"metric": "mAP", "protocol": "all", "value": 4.0, "epoch": 2}
    assert best.best_epoch(records, "rank-1") == {"metric": "rank-1", "protocol": "all", "value": 5.0, "epoch": 5}
    assert best.best_epoch(records[:1], "mAP") is None
    assert best.best_epoch([], "mAP") is None


def test_one_of_each_metric_stays_and_is_marked(tmp_path):
    (tmp_path / "best_of_mine.pt").write_bytes(b"a copy of one's own")
    for records in ([record(0, 1.0)], [record(7, 2.0)]):
        for metric in ("mAP", "rank-1"):
            if metric == "mAP" or records[0]["epoch"] == 0:
                mark = best.best_epoch(records, metric)
                path = best.save_best(tmp_path, mark, {"network": {"x": torch.ones(2)}})
                assert best.mark_of(path) == mark
    mAP, rank = "best_mAP_on_test_data_epoch_0007.pt", "best_rank-1_on_test_data_epoch_0000.pt"
    assert names(tmp_path) == sorted([mAP, "best_of_mine.pt", rank])
    assert [path.name for path in best.files(tmp_path, since=1)] == [mAP]
    assert sorted(path.name for path in best.files(tmp_path)) == [mAP, rank]


def test_others_are_not_marked(tmp_path):
    save_atomically({"network": {}}, tmp_path / "plain.pt")
    (tmp_path / "other.pt").write_bytes(b"of another layout")
    assert best.mark_of(tmp_path / "plain.pt") is None and best.mark_of(tmp_path / "other.pt") is None
    with pytest.raises(FileNotFoundError):
        best.mark_of(tmp_path / "absent.pt")


MARK = {"metric": "mAP", "protocol": "all", "value": 1.0, "epoch": 3}


@pytest.mark.parametrize(
    "mark",
    [True, {}, MARK | {"epoch": True}, MARK | {"value": torch.ones(1)}, MARK | {"protocol": "\x1b[2Jall"}, [MARK]],
)
def test_a_strange_mark_is_named(tmp_path, mark):
    save_atomically({best.MARK: mark}, tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=r"theirs\.pt: chosen_on_test_data must hold metric, protocol, value, epoch"):
        best.mark_of(tmp_path / "theirs.pt")


def test_what_else_a_mark_holds_is_left():
    assert best.describe(MARK | {"value": math.pi}) == (
        "chosen on test data: of the evaluated epochs, epoch 3 has the best mAP of all, 3.14"
    )
