import json

import pytest

from benchmarks import plots, report, summary


def times(ms, **more):
    return dict(median_ms=ms, p20_ms=ms, p80_ms=ms, runs=3, **more)


def record(load=0.5):
    return {
        "date": "2026-11-21T00:00:00Z",
        "commit": "0123456789abcdef",
        "machine": {"cpu": "a CPU", "cores": 2, "load": load, "gpu": None},
        "versions": {"torch": "2.13"},
        "device": "cpu",
        "quick": False,
        "ceilings": {"copy_bytes_s": 1e10, "float32_flop_s": 1e11, "bfloat16_flop_s": 2e11},
        "cases": {
            "operator": {
                "note": "sizes",
                "phase": False,
                "floor_bytes": 100,
                "floor_flops": 1000,
                "variants": {
                    "reference": times(40.0, peak_mb=2000.0),
                    "published": times(5000.0, peak_mb=6160.0),
                    "cpp": times(0.25, peak_mb=0.2),
                    "triton": {"failure": "wrong"},
                    "peer": times(1.234567),
                },
            },
            "whole": {
                "note": "all",
                "phase": True,
                "variants": {"published": {"oom": "out"}, "auto": times(100.0, peak_mb=5.0)},
            },
        },
    }


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for module in (report, plots):
        monkeypatch.setattr(module, "HEADLINE", ("operator", "not recorded"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    for page in ("README.md", "docs/benchmarks.md", "docs/distributed.md"):
        (tmp_path / page).write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    (tmp_path / "benchmarks/results/cpu.json").write_text(json.dumps(record()))
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch):
    """They take a second each time; that they are drawn, and what of, is tested by themselves."""
    monkeypatch.setattr(report, "write_plots", lambda *_: None)


def rows(page):
    return [line for line in page.read_text().splitlines() if "<sub>" in line]


def test_the_tables_are_of_the_fastest_right_variants(checkout, no_pictures):
    readme, page = checkout / "README.md", checkout / "docs/benchmarks.md"
    assert report.main(["--check"], checkout) == 1
    assert report.main([], checkout) == 0 and report.main(["--check"], checkout) == 0
    for text in (readme.read_text(), page.read_text()):
        assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
        assert "**a CPU, 2 cores**: torch 2.13, 2026-11-21, commit 01234567." in text and "busy" not in text
    whole = "| **whole**<br><sub>all</sub> | – | – | 100 ms (auto) | – | – |"
    operator = (
        "| `operator`<br><sub>sizes</sub> | 5 s (published) | 1.23 ms (peer) | 250 µs (cpp) | 20,000× "
        "| 6.16 GB → < 1 MB |"
    )
    assert rows(readme) == [operator] and rows(page) == [whole, operator]
    changed = record(load=2)  # a process a core
    (checkout / "benchmarks/results/cpu.json").write_text(json.dumps(changed))
    assert report.main(["--check"], checkout) == 0
    changed = record(load=7)
    changed["cases"]["operator"]["variants"]["cpp"]["median_ms"] = 0.5
    (checkout / "benchmarks/results/cpu.json").write_text(json.dumps(changed))
    assert report.main(["--check"], checkout) == 1
    report.main([], checkout)
    for text in (readme.read_text(), page.read_text()):
        assert "500 µs (cpp) | 10,000×" in text and "on a busy machine (load 7)" in text


@pytest.mark.parametrize("name", ["README.md", "docs/benchmarks.md"])
def test_either_page_alone_can_be_out_of_date(checkout, no_pictures, name, capsys):
    report.main([], checkout)
    (checkout / name).write_text((checkout / name).read_text().replace("250 µs", "25 µs"))
    assert report.main(["--check"], checkout) == 1
    assert capsys.readouterr().err == f"{name} differs from benchmarks/results: run python -m benchmarks.report\n"


def test_the_headline_is_recorded():
    cases = {name: case for one in report.read_records(report.ROOT).values() for name, case in one["cases"].items()}
    assert all(summary.speed_up(cases[name]) > 1 for name in summary.HEADLINE)


def test_a_newer_record_of_some_cases_stands_for_them(checkout, no_pictures):
    newer = record() | {"date": "2026-11-22T00:00:00Z", "machine": record()["machine"] | {"cpu": "another"}}
    newer["cases"] = {"whole": newer["cases"]["whole"]}
    (checkout / "benchmarks/results/cpu_another.json").write_text(json.dumps(newer))
    found = report.read_records(checkout)
    assert {name: list(one["cases"]) for name, one in found.items()} == {"cpu_another": ["whole"], "cpu": ["operator"]}
    report.main([], checkout)
    page, readme = ((checkout / name).read_text() for name in ("docs/benchmarks.md", "README.md"))
    assert page.index("**another, 2 cores**") < page.index("**whole**") < page.index("**a CPU, 2 cores**")
    assert page.count("**whole**") == 1 and "(benchmarks/speedup_cpu_another.svg)" in page
    assert "another" not in readme  # it has none of the README's cases


def test_records_of_one_machine_share_a_table(checkout, no_pictures):
    newer = record() | {"date": "2026-11-22T00:00:00Z", "commit": "fedcba9876"}
    newer["cases"] = {"operator": newer["cases"]["operator"]}
    (checkout / "benchmarks/results/cpu_part.json").write_text(json.dumps(newer))
    report.main([], checkout)
    page, readme = checkout / "docs/benchmarks.md", checkout / "README.md"
    where = "**a CPU, 2 cores**: torch 2.13, 2026-11-22, commit fedcba98"
    assert f"{where}; 2026-11-21, commit 01234567.\n" in page.read_text()
    assert f"{where}.\n" in readme.read_text() and [row[:12] for row in rows(page)] == ["| **whole**<", "| `operator`"]


def test_pictures_come_from_the_records_alone(checkout):
    pytest.importorskip("matplotlib")
    times = {"gemm_s": 0.25, "knn_s": 0.125}
    rows = [
        {"images": n, "width": 64, **times, "after_s": n / 1e4, "cluster_s": n / 1e3, "peak_mb": n} for n in (10, 100)
    ]
    (checkout / "benchmarks/results/scaling.json").write_text(json.dumps({"rows": rows}))
    pictures = checkout / "docs/benchmarks"

    def drawn():
        report.main([], checkout)
        return {path.name: path.read_bytes() for path in pictures.iterdir()}

    first = drawn()
    of_the_page = {"speedup_cpu.svg", "memory_cpu.svg", "roofline_cpu.svg", "scaling.svg"}
    assert set(first) == of_the_page | {"headline.svg"}
    assert b"20,000" in first["headline.svg"] and b"whole" not in first["headline.svg"]
    assert drawn() == first
    assert all(len(content) < 100_000 for content in first.values())
    page = (checkout / "docs/benchmarks.md").read_text()
    assert all(f"(benchmarks/{name})" in page for name in of_the_page)
    assert "| 100 | 64 | 0.25 | 0.125 | 0.01 | 0.1 | 100 MB |" in page


def test_a_group_stands_beside_one_process(checkout, no_pictures):
    page = checkout / "docs/distributed.md"
    report.main([], checkout)
    assert "Nothing is recorded yet." in page.read_text()
    found = {"1": {"seconds": 1234.5, "peak_mb": 41}, "2": {"seconds": 2.25, "peak_mb": 7}}
    of = {"commit": "0123456789abcdef", "machine": {"cpu": "a CPU", "cores": 2, "load": 0.5}, "versions": {}}
    (checkout / "benchmarks/results/groups.json").write_text(json.dumps({"cluster 5000": of | found}))
    assert report.main(["--check"], checkout) == 1
    report.main([], checkout)
    lines = page.read_text().splitlines()
    start = lines.index("`cluster 5000`, a CPU, 2 cores, commit 01234567:")
    assert lines[start + 2 : start + 6] == [
        "| | 1 process | 2 processes |",
        "|---|---|---|",
        "| seconds | 1,234 | 2.25 |",
        "| peak mb | 41 | 7 |",
    ]


def test_without_records_the_table_is_empty(checkout):
    (checkout / "benchmarks/results/cpu.json").unlink()
    pytest.importorskip("matplotlib")
    assert report.main([], checkout) == 0
    assert "| baseline |" not in (checkout / "README.md").read_text()


def test_a_damaged_record_is_one_line(checkout, capsys):
    (checkout / "benchmarks/results/cpu.json").write_text("[]")
    assert report.main(["--check"], checkout) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "cpu.json is no record of salcr bench" in said
