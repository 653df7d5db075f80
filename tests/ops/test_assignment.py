import re
from functools import partial
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from salcr import _C, ops, reference
from salcr.reference.published import association as published
from tests.ops.assignment_problems import INF, KINDS, assert_optimal, costs
from tests.ops.contract import assert_compiles, assert_operator_contract

SMALL = settings(deadline=None, max_examples=60, derandomize=True)
SHAPES = [(1, 1), (1, 70), (70, 1), (6, 6), (23, 40), (40, 23), (50, 200), (90, 90)]
IMPLS = ["cpp", "reference"]
SOLVERS = [partial(ops.linear_assignment, impl=impl) for impl in IMPLS] + [published.linear_assignment]
BOTH_WAYS = [partial(ops.bidirectional_assignment, impl=impl) for impl in IMPLS] + [published.bidirectional_assignment]


def all_matchings(num_rows, num_cols):
    """Every complete matching of the smaller side, as a list of (row, column) pairs."""
    if num_rows <= num_cols:
        return [list(enumerate(cols)) for cols in permutations(range(num_cols), num_rows)]
    return [[(r, c) for c, r in pairs] for pairs in all_matchings(num_cols, num_rows)]


def all_row_maps(num_rows, num_cols):
    """Every map of rows to columns that uses no column more than ceil(num_rows / num_cols) times."""
    capacity = -(-num_rows // num_cols)
    return [m for m in product(range(num_cols), repeat=num_rows) if np.bincount(m).max() <= capacity]


@st.composite
def small_costs(draw, largest=7):
    num_rows, num_cols = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    entries = draw(st.sampled_from([st.integers(-3, 3).map(float), st.floats(-100, 100, width=32)]))
    row = st.lists(entries, min_size=num_cols, max_size=num_cols)
    return torch.tensor(draw(st.lists(row, min_size=num_rows, max_size=num_rows)), dtype=torch.float64)


@pytest.mark.parametrize("solve", SOLVERS)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_total_is_that_of_scipy(generator, solve, kind, shape, maximize):
    cost = costs(kind, shape, generator)
    cost = -cost if maximize else cost
    rows, cols = solve(cost, maximize=maximize)
    assert rows.dtype == cols.dtype == torch.int64 and len(rows) == len(cols) == min(shape)
    assert (rows.diff() > 0).all() and len(cols.unique()) == len(cols)
    expected = cost.double().numpy()[linear_sum_assignment(cost.numpy(), maximize)].sum()
    np.testing.assert_allclose(cost.double()[rows, cols].sum(), expected, rtol=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_duals_prove_the_assignment_optimal(generator, kind, shape, maximize, impl):
    cost = costs(kind, shape, generator)
    cost = -cost if maximize else cost
    results = ops.linear_assignment(cost, maximize=maximize, return_duals=True, impl=impl)
    assert_optimal(cost, *results, maximize=maximize)


@pytest.mark.parametrize("shape", [(300, 300), (50, 2000), (300, 250), (400, 780)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_solver_is_optimal_at_sizes_where_lists_leave_out_most_columns(generator, kind, shape):
    cost = costs(kind, shape, generator)
    rows, cols, *duals = ops.linear_assignment(cost, return_duals=True, impl="cpp")
    assert_optimal(cost, rows, cols, *duals)
    expected = cost.double().numpy()[linear_sum_assignment(cost.numpy())].sum()
    np.testing.assert_allclose(cost.double()[rows, cols].sum(), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_solver_is_optimal_where_it_keeps_lists_of_a_square_problem(generator, kind):
    cost = costs(kind, (800, 800), generator)
    assert_optimal(cost, *ops.linear_assignment(cost, return_duals=True, impl="cpp"))


def test_prices_only_fall_however_sums_are_rounded(generator):
    """Of tenths: what should be equal differs in the last bit, so that a search may seem to come nearer again."""
    dear = 7 * torch.randint(0, 5, (34, 1), generator=generator)
    cost = 0.1 * (dear + torch.randint(0, 30, (500, 34, 37), generator=generator)).double()
    assert (ops.linear_assignment(cost, return_duals=True, impl="cpp")[3] <= 0).all()


def test_lists_are_made_anew_when_all_their_columns_have_become_dear(generator):
    """Forty rows share twenty cheap columns: more than a list holds, and fewer than the rows need."""
    for _ in range(3):
        cost = 1 + torch.rand(400, 780, generator=generator, dtype=torch.float64)
        for rows in torch.arange(400).split(40):
            cheap = torch.randperm(780, generator=generator)[:20]
            cost[rows[:, None], cheap] = torch.rand(40, 20, generator=generator, dtype=torch.float64)
        assert_optimal(cost, *ops.linear_assignment(cost, return_duals=True, impl="cpp"))


def test_lists_of_before_a_new_start_are_not_read_after_it(generator):
    """Counted from each row's least, negative costs rise, and so do the prices that bids begin with."""
    cost = costs("dear rows", (780, 780), generator) - 5
    assert_optimal(cost, *ops.linear_assignment(cost, return_duals=True, impl="cpp"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_every_width_around_that_of_a_register(generator, kind, dtype):
    for rows, cols in product((7, 8, 9, 16, 17), repeat=2):
        cost = costs(kind, (rows, cols), generator).to(dtype)
        assert_optimal(cost, *ops.linear_assignment(cost, return_duals=True, impl="cpp"))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    levels=st.sampled_from([1, 2, 3, 50, 10**6]),
    scale=st.sampled_from([1.0, 1e-30, 1e30]),
    forbidden=st.floats(0, 0.9),
    seed=st.integers(0, 999),
)
def test_ties_scales_and_forbidden_pairs_are_as_in_scipy(rows, cols, levels, scale, forbidden, seed):
    draw = np.random.default_rng(seed)
    cost = scale * (draw.integers(0, levels, (rows, cols)) - levels // 2).astype(np.float64)
    cost[draw.random(cost.shape) < forbidden] = INF
    try:
        expected = cost[linear_sum_assignment(cost)].sum()
    except ValueError:
        with pytest.raises(ValueError, match="infeasible"):
            ops.linear_assignment(torch.from_numpy(cost), impl="cpp")
        return
    found = ops.linear_assignment(torch.from_numpy(cost), return_duals=True, impl="cpp")
    assert_optimal(torch.from_numpy(cost), *found)
    np.testing.assert_allclose(cost[found[0], found[1]].sum(), expected, rtol=1e-6)


@SMALL
@given(cost=small_costs(), maximize=st.booleans())
def test_no_matching_is_better(cost, maximize):
    rows, cols, *duals = ops.linear_assignment(cost, maximize=maximize, return_duals=True)
    assert_optimal(cost, rows, cols, *duals, maximize=maximize)
    pairs = list(zip(rows.tolist(), cols.tolist(), strict=True))
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == min(cost.shape)
    sign, table = -1 if maximize else 1, cost.tolist()
    best = min(sign * sum(table[r][c] for r, c in matching) for matching in all_matchings(*cost.shape))
    assert sign * sum(table[r][c] for r, c in pairs) == pytest.approx(best, abs=1e-9)


def test_worked_by_hand():
    cost = torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
    rows, cols = ops.linear_assignment(cost)
    assert rows.tolist() == [0, 1, 2] and cols.tolist() == [1, 0, 2]
    rows, cols = ops.linear_assignment(cost, maximize=True)
    assert cols.tolist() == [0, 2, 1]
    rows, cols = ops.linear_assignment(cost[:, :2])
    assert rows.tolist() == [0, 1] and cols.tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(5, 4, 4), (3, 2, 9), (3, 9, 2), (1, 1, 1)])
def test_batch_is_each_problem_alone(generator, shape):
    cost = torch.rand(shape, generator=generator)
    results = ops.linear_assignment(cost, return_duals=True)
    assert results[0].shape == results[1].shape == (shape[0], min(shape[1:]))
    assert results[2].shape == shape[:2] and results[3].shape == (shape[0], shape[2])
    for problem, *parts in zip(cost, *results, strict=True):
        assert_optimal(problem, *parts)
        for got, expected in zip(parts, ops.linear_assignment(problem, return_duals=True), strict=True):
            assert torch.equal(got, expected)


def test_threads_share_a_batch_without_a_trace(generator):
    cost = torch.rand(9, 30, 40, generator=generator)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(ops.linear_assignment(cost, return_duals=True, impl="cpp"))
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly(generator, dtype):
    cost = torch.rand(9, 12, generator=generator).to(dtype)
    for got, expected in zip(ops.linear_assignment(cost), ops.linear_assignment(cost.float()), strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(
        ops.bidirectional_assignment(cost), ops.bidirectional_assignment(cost.float()), strict=True
    ):
        assert torch.equal(got, expected)


def test_strided_cost_that_requires_a_gradient(generator):
    cost = torch.rand(8, 10, generator=generator)
    view = cost.T.contiguous().T.requires_grad_()
    assert torch.equal(ops.linear_assignment(view)[1], ops.linear_assignment(cost)[1])
    assert torch.equal(ops.bidirectional_assignment(view)[1], ops.bidirectional_assignment(cost)[1])
    assert torch.equal(ops.bidirectional_assignment(view.T)[0], ops.bidirectional_assignment(cost)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_costs_are_read_where_they_are(generator, dtype):
    stored = torch.rand(4, 30, 60, generator=generator, dtype=dtype)
    views = [stored[:, :, 7:37], stored[::2, ::3], stored[:, :, ::2], stored.mT, stored[0, :, :30].T, stored[1].T]
    views += [stored[:, :1].expand(4, 30, 60), stored[:, :, :1], stored[:, :1], stored[2:3, 5:]]
    for view in views:
        batch = view if view.ndim == 3 else view[None]
        results = ops.linear_assignment(view, return_duals=True, impl="cpp")
        for cost, *parts in zip(batch, *(x.view(len(batch), -1) for x in results), strict=True):
            assert_optimal(cost, *parts)


def test_costs_that_are_the_negative_of_what_is_stored(generator):
    stored = torch.rand(5, 7, generator=generator)
    for operator in (ops.linear_assignment, ops.bidirectional_assignment):
        for found, expected in zip(operator(torch._neg_view(stored)), operator(-stored), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "cost",
    [
        [[INF, INF], [1.0, 2.0]],
        [[1.0, INF], [2.0, INF]],
        [[1.0, 2.0, INF], [3.0, 4.0, INF], [INF, INF, INF]],
        [[INF]],
    ],
)
def test_infeasible_raises(cost, impl):
    cost = torch.tensor(cost)
    with pytest.raises(ValueError, match="infeasible"):
        ops.linear_assignment(cost, impl=impl)
    with pytest.raises(ValueError, match="infeasible"):
        ops.linear_assignment(-cost, maximize=True, impl=impl)
    with pytest.raises(ValueError, match="infeasible"):
        ops.linear_assignment(torch.stack([cost, torch.zeros_like(cost)]), impl=impl)
    with pytest.raises(ValueError, match="infeasible"):
        ops.bidirectional_assignment(cost, impl=impl)


@pytest.mark.parametrize("size", [90, 780])
def test_a_row_without_a_column_where_costs_are_counted_from_each_rows_least(generator, size):
    cost = costs("dear rows", (size, size), generator)
    cost[5] = INF
    with pytest.raises(ValueError, match="infeasible"):
        ops.linear_assignment(cost, impl="cpp")


def check_bidirectional(cost, row_to_col, col_to_row):
    num_rows, num_cols = cost.shape
    assert row_to_col.shape == (num_rows,) and col_to_row.shape == (num_cols,)
    assert row_to_col.dtype == col_to_row.dtype == torch.int64
    assert row_to_col.min() >= 0 and row_to_col.bincount(minlength=num_cols).shape == (num_cols,)
    assert col_to_row.min() >= 0 and col_to_row.bincount(minlength=num_rows).shape == (num_rows,)
    assert row_to_col.bincount().max() <= -(-num_rows // num_cols)
    assert col_to_row.bincount().max() <= -(-num_cols // num_rows)


@pytest.mark.parametrize("solve", BOTH_WAYS)
@pytest.mark.parametrize("smaller", [1, 3])
def test_every_row_and_column_has_a_partner_at_every_ratio(generator, solve, smaller):
    for ratio in range(1, 51):
        for larger in {ratio * smaller, ratio * smaller + smaller // 2}:
            cost = torch.rand(smaller, larger, generator=generator)
            check_bidirectional(cost, *solve(cost))
            check_bidirectional(cost.T, *solve(cost.T))


@SMALL
@given(cost=small_costs(largest=5))
def test_no_map_in_either_direction_is_better(cost):
    for solve in BOTH_WAYS:
        row_to_col, col_to_row = solve(cost)
        check_bidirectional(cost, row_to_col, col_to_row)
        for table, partner in ((cost.tolist(), row_to_col), (cost.T.tolist(), col_to_row)):
            maps = all_row_maps(len(table), len(table[0]))
            best = min(sum(row[c] for row, c in zip(table, m, strict=True)) for m in maps)
            total = sum(row[c] for row, c in zip(table, partner.tolist(), strict=True))
            assert total == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(200, 100), (150, 40), (30, 200), (300, 7), (60, 60)])
def test_capacities_cost_no_more_than_repeated_columns(generator, kind, shape):
    cost = costs(kind, shape, generator)
    if kind == "forbidden":  # both directions need more than one partner in the smaller side's rows
        cost[:, 0], cost[0] = 3.0, 3.0
    got, expected = (ops.bidirectional_assignment(cost, impl=impl) for impl in IMPLS)
    check_bidirectional(cost, *got)
    for table, partner, best in zip((cost.double(), cost.mT.double()), got, expected, strict=True):
        totals = (table.gather(1, x[:, None]).sum() for x in (partner, best))
        np.testing.assert_allclose(*totals, rtol=1e-6)


def test_bidirectional_worked_by_hand():
    """Four rows, three columns: two rows may share a column, and the column left over has a partner of its own."""
    cost = torch.tensor([[0.0, 5.0, 9.0], [0.0, 5.0, 9.0], [1.0, 6.0, 9.0], [9.0, 0.0, 9.0]])
    row_to_col, col_to_row = ops.bidirectional_assignment(cost)
    total = cost[torch.arange(4), row_to_col].sum()
    assert row_to_col[3] == 1 and row_to_col[:3].sort().values.tolist() == [0, 0, 1] and total == 6.0
    assert col_to_row[1] == 3 and col_to_row.unique().numel() == 3 and cost[col_to_row, torch.arange(3)].sum() == 9.0


@pytest.mark.parametrize("kind", ["uniform", "integer", "equal"])
def test_equally_many_make_one_permutation(generator, kind):
    row_to_col, col_to_row = ops.bidirectional_assignment(costs(kind, (9, 9), generator))
    assert torch.equal(row_to_col[col_to_row], torch.arange(9)) and torch.equal(col_to_row[row_to_col], torch.arange(9))


def test_forbidden_pairs_are_avoided_in_both_directions(generator):
    cost = torch.rand(12, 5, generator=generator)
    forbidden = torch.rand(cost.shape, generator=generator) < 0.3
    forbidden[torch.arange(12), torch.arange(12) % 5] = False  # or there may be no assignment at all
    cost[forbidden] = INF
    row_to_col, col_to_row = ops.bidirectional_assignment(cost)
    assert torch.isfinite(cost[torch.arange(12), row_to_col]).all()
    assert torch.isfinite(cost[col_to_row, torch.arange(5)]).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_rounds_worked_by_hand(impl):
    """Rows 1 and 2 are the cheapest pair for the columns; then 0 and 3 share them; the last takes what it likes."""
    cost = torch.tensor([[4.0, 6.0], [0.0, 9.0], [9.0, 0.0], [5.0, 4.0], [7.0, 9.0]])
    row_to_col, col_to_row = ops.progressive_matching(cost, impl=impl)
    assert row_to_col.tolist() == [0, 0, 1, 1, 0] and col_to_row.tolist() == [1, 2]
    col_to_row, row_to_col = ops.progressive_matching(cost.T, impl=impl)
    assert row_to_col.tolist() == [0, 0, 1, 1, 0] and col_to_row.tolist() == [1, 2]


def rounds_by_hand(cost):
    """With dictionaries: the larger side's partners, then the smaller side's, of more rows than columns."""
    partner, back = {}, {}
    while len(partner) < len(cost):
        left = [row for row in range(len(cost)) if row not in partner]
        pairs = [(left[row], int(col)) for row, col in zip(*linear_sum_assignment(cost[left]), strict=True)]
        partner |= dict(pairs)
        back = back or {col: row for row, col in pairs}
    return [[found[key] for key in sorted(found)] for found in (partner, back)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(1, 1), (6, 6), (50, 1), (101, 7), (20, 7), (9, 8)])
def test_rounds_are_matched_one_after_the_other_and_evenly(generator, shape, impl):
    cost = torch.randn(shape, generator=generator)
    expected = rounds_by_hand(cost.double().numpy())
    partners = ops.progressive_matching(cost, impl=impl)
    assert [x.tolist() for x in partners] == expected
    assert [x.tolist() for x in ops.progressive_matching(cost.mT, impl=impl)] == expected[::-1]
    assert [x.tolist() for x in reference.progressive_matching(cost)] == expected
    assert [x.tolist() for x in reference.progressive_matching(cost.mT)] == expected[::-1]
    for mine, theirs, found in zip(shape, shape[::-1], partners, strict=True):
        used = found.bincount(minlength=theirs)
        assert found.dtype == torch.int64 and mine // theirs <= used.min() and used.max() <= -(-mine // theirs)
    larger, smaller = partners
    assert torch.equal(larger[smaller], torch.arange(shape[1]))  # the first round's pairs are mutual


def test_a_round_without_a_way_around_forbidden_pairs_is_an_error():
    cost = torch.tensor([[0.0, 9.0], [9.0, 0.0], [INF, INF]])
    with pytest.raises(ValueError, match="cost"):
        ops.progressive_matching(cost)
    cost[2, 1] = 3.0
    assert ops.progressive_matching(cost.half())[0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (5, 40), (40, 5), (3, 1000)])
def test_a_bad_cost_is_named_wherever_it_is(shape, impl):
    """Also one behind a row that has no partner, which would be an error of its own."""
    for at in {(0, 0), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, shape[1] // 3)}:
        cost = torch.ones(shape)
        cost[at] = torch.nan
        row = torch.full((1, shape[1]), INF)
        for problem, place in ((cost, list(at)), (torch.cat([row, cost]), [at[0] + 1, at[1]])):
            with pytest.raises(ValueError, match=re.escape(f"first nan at {place}")):
                ops.linear_assignment(problem, impl=impl)
            with pytest.raises(ValueError, match=re.escape(f"first nan at {place}")):
                ops.bidirectional_assignment(problem, impl=impl)
        cost[at] = -INF
        with pytest.raises(ValueError, match=re.escape(f"first -inf at {list(at)}")):
            ops.linear_assignment(cost, impl=impl)
        with pytest.raises(ValueError, match=re.escape(f"first inf at {list(at)}")):
            ops.linear_assignment(-cost, impl=impl, maximize=True)


@pytest.mark.parametrize("bad", [torch.nan, -INF])
def test_a_bad_cost_in_a_row_that_no_bid_has_read(generator, bad):
    """The rows before it contend for three columns in tiny steps, until no bid is left for it in the first round."""
    cost = torch.full((40, 60), 1000.0, dtype=torch.float64)
    cost[:, :3] = 1e-6 * torch.rand(40, 3, generator=generator)
    cost[39, 59] = bad
    with pytest.raises(ValueError, match=r"first -?(nan|inf) at \[39, 59\]"):
        ops.linear_assignment(cost, impl="cpp")


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_bad_cost_where_a_column_takes_several_rows(bad):
    partners, cost = np.zeros((1, 7), np.int64), np.ones((7, 4))
    assert _C.solve_assignment(cost, False, 2, partners, 1)
    cost[6, 3] = bad
    assert not _C.solve_assignment(cost, False, 2, partners, 1)


def test_contract(generator):
    cost = torch.rand(3, 4, 6, generator=generator)
    registered = torch.ops.salcr.linear_assignment
    assert_operator_contract(registered, (cost, False, True, "auto"), (cost.mT.double(), True, False, "reference"))
    assert_operator_contract(registered, (cost[0], False, False, "auto"), (cost[0].T.half(), False, True, "auto"))


def test_compiles(generator):
    examples = [(torch.rand(shape, generator=generator),) for shape in ((5, 9), (12, 4), (6, 6))]
    assert_compiles(ops.linear_assignment, *examples)
    assert_compiles(partial(ops.linear_assignment, return_duals=True, maximize=True), *examples)
    assert_compiles(ops.linear_assignment, *((torch.stack([cost, -cost]),) for (cost,) in examples))


class TotalCost(torch.nn.Module):
    def forward(self, x, y):
        cost = (x[:, None] - y).square().sum(-1)
        rows, cols = ops.linear_assignment(cost)
        return cost[rows, cols].sum(), cols


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_graph_holds_it_for_every_number_of_rows_and_columns(generator, strict):
    sides = [torch.rand(count, 3, generator=generator) for count in (7, 9)]
    dims = {name: {0: torch.export.Dim(name, min=2, max=100)} for name in ("x", "y")}
    program = torch.export.export(TotalCost(), tuple(sides), dynamic_shapes=dims, strict=strict)
    assert "torch.ops.salcr.linear_assignment.default" in program.graph_module.code
    for pair in (sides, sides[::-1]):
        for found, expected in zip(program.module()(*pair), TotalCost()(*pair), strict=True):
            assert torch.equal(found, expected)


def test_nothing_of_the_gradient_goes_through_a_compiled_assignment(generator):
    cost = torch.rand(6, 4, generator=generator, requires_grad=True)

    def total(cost):
        rows, cols = ops.linear_assignment(cost)
        return cost[rows, cols].sum()

    torch.compile(total, fullgraph=True, backend="aot_eager")(cost).backward()
    rows, cols = ops.linear_assignment(cost)
    assert not rows.requires_grad and not cols.requires_grad
    assert torch.equal(cost.grad, torch.zeros(6, 4).index_put((rows, cols), torch.tensor(1.0)))


@pytest.mark.parametrize("operator", [ops.linear_assignment, ops.bidirectional_assignment, ops.progressive_matching])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(cost=[[0.0]]), TypeError, "cost must be a torch.Tensor"),
        (dict(cost=torch.zeros(0, 3)), ValueError, "cost is empty"),
        (dict(cost=torch.zeros(3)), ValueError, "cost must have 2"),
        (dict(cost=torch.zeros(3, 3, dtype=torch.int64)), TypeError, "cost must be floating point"),
        (dict(cost=torch.eye(3).to_sparse()), TypeError, "cost must be dense"),
        (dict(cost=torch.zeros(3, 3, device="meta")), ValueError, "cost is a meta tensor"),
        (dict(cost=torch.tensor([[0.0], [torch.nan]])), ValueError, r"first nan at \[1, 0\]"),
        (dict(cost=torch.tensor([[0.0, -INF]])), ValueError, r"first -inf at \[0, 1\]"),
        (dict(impl="triton"), ValueError, "{operator} has the backends cpp, cuda, reference"),
        (dict(impl="lapjv"), ValueError, "impl must be one of"),
    ],
)
def test_bad_arguments_are_named(operator, change, error, message):
    with pytest.raises(error, match=message.replace("{operator}", operator.__name__)):
        operator(**(dict(cost=torch.zeros(3, 4)) | change))


def test_bad_costs_of_a_batch_and_when_maximising(generator):
    cost = torch.rand(3, 2, 2, generator=generator)
    cost[2, 0, 1] = INF
    with pytest.raises(ValueError, match=r"maximize=True, first inf at \[2, 0, 1\]"):
        ops.linear_assignment(cost, maximize=True)
    with pytest.raises(ValueError, match="cost must have 2 axes"):
        ops.bidirectional_assignment(cost)
