"""The kernels of sinkhorn, compiled for every architecture."""

import pytest

from tests.kernels.lanes import ARCHITECTURES, SHARED_LIMIT, compile_for

pytest.importorskip("triton")

STATE = dict.fromkeys(("cost", "smallest", "log_alpha", "log_beta", "change", "high", "total", "plan"), "*fp32")
SCALARS = dict(num_rows="i32", num_columns="i32", blocks="i32", strips="i32", lam="fp32", tol="fp32", done="*i32")
SIGNATURE = STATE | SCALARS | dict(log_rows="fp32", log_columns="fp32")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kernel", ["rows_kernel", "columns_kernel", "plan_kernel"])
def test_no_spills_and_shared_memory_fits(kernel, arch):
    from salcr.kernels import sinkhorn

    function = getattr(sinkhorn, kernel)
    tile = dict(R=sinkhorn.ROWS, C=sinkhorn.COLUMNS)
    if kernel == "columns_kernel":
        tile = dict(LOOK=True, C=16, BLOCK=sinkhorn.BLOCKS)
    signature = {name: SIGNATURE[name] for name in function.arg_names if name not in tile}
    used = compile_for(function, signature, tile, arch, num_warps=4)
    assert used.spills == 0, used
    assert used.shared <= SHARED_LIMIT[arch], used
