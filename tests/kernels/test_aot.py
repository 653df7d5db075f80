"""What launchers launch, compiled: for sm_90 every configuration, for other architectures one of each kernel.

Of kernels of products and of pooling that is one for each precision, as their entries of the launch table are. The
others have the same entries and no tensor cores: they are compiled for sm_100 besides, whose compiler is another.
"""

import re

import pytest
import torch

from tests.kernels.calls import CALLS, batch_norm, update
from tests.kernels.lanes import ARCHITECTURES, REGISTERS, compiled, machine_code, products_and_waits, recorded

pytest.importorskip("triton")

TENSOR_CORES = {80: "mma.sync", 89: "mma.sync", 90: "wgmma", 100: "tcgen05.mma", 120: "mma.sync"}
KNN_PRODUCTS = ("maxima_kernel", "collect_kernel")
MULTIPROCESSORS = 132  # of an H100
THREADS, SYSTEM_BYTES = 2048, 1024  # of a multiprocessor; shared memory that the system takes of each block's
SHARING = ("expand_kernel", "mean_kernel", "pairs_kernel", "dense_kernel")  # programs that are as many as a GPU holds
WGMMA = {("tf32x3", "*fp32"): 12, ("float16x3", "*fp32"): 6}
PRODUCTS = dict(lse_tiles_kernel=2, weights_kernel=2, mean_row_kernel=2)
BLOCKS = {  # of a multiprocessor of sm_90 at a time, as the docstrings of the kernels' files say
    "pooling-half": dict(gather_kernel=3, attention_kernel=2, attention_backward_kernel=2, spread_kernel=2),
    "pooling-single": dict(gather_kernel=4, attention_kernel=2, attention_backward_kernel=1, spread_kernel=1),
    "batch_norm-half": dict(moments_kernel=3, apply_kernel=6, sums_kernel=2, input_kernel=3),
    "batch_norm-shortcut": dict(moments_kernel=3, apply_kernel=4, sums_kernel=2, input_kernel=4),
    "batch_norm-normed": dict(moments_kernel=3, apply_kernel=3, sums_kernel=2, input_kernel=2),
    "labels": dict(weights_kernel=7, pairs_kernel=16, mean_kernel=16),
    **{f"{name}-half": PRODUCTS for name in ("cluster_contrast", "contrasts", "searches", "instance_memory")},
    **{f"{name}-tf32x3": PRODUCTS for name in ("cluster_contrast", "contrasts", "searches")},
    "searches-rounded": PRODUCTS,
    "instance_memory-tf32": PRODUCTS,
    "sinkhorn": dict(rows_kernel=12, columns_kernel=8, plan_kernel=12),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_configuration(name):
    launches = launches_of(name, 90)
    if name == "sinkhorn":  # at the size of the registry
        assert all(launch.grid[0] >= MULTIPROCESSORS for launch in launches)
    for launch in dict.fromkeys(launch._replace(grid=()) for launch in launches):
        used = check(launch, 90)
        if name in BLOCKS:
            check_blocks(launch, used, BLOCKS[name])
        if TENSOR_CORES[90] in used.ptx:
            products, waits = products_and_waits(used)
            assert products == WGMMA.get(precision(launch), products)
            assert waits < products, f"{waits} waits for {products} wgmma, one after the other: {launch}"


@pytest.mark.parametrize("precision", ["half", "tf32x3"])
def test_products_are_counted_as_they_are_printed(precision):
    launches = launches_of(f"cluster_contrast-{precision}", 90)
    launch = next(x for x in launches if x.kernel.__name__ == "mean_row_kernel")
    used = compiled(launch._replace(grid=()), 90)
    printed = machine_code(used)
    assert products_and_waits(used) == (printed.count("HGMMA"), printed.count("WARPGROUP.DEPBAR"))


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch != 90])
def test_one_of_each_kernel(arch):
    launches = [launch for name, call in CALLS.items() if call.everywhere for launch in launches_of(name, arch)]
    one_of_each = {(launch.kernel, precision(launch)): launch for launch in launches}
    for launch in one_of_each.values():
        if precision(launch) or arch == 100:
            check(launch, arch)


@pytest.mark.parametrize("hardest", [False, True])
def test_rows_of_a_memory_that_are_under_way_fit_the_smallest_shared_memory(hardest):
    with recorded(89) as launches:
        update(torch.float32, width=16_384, hardest=hardest)
    check(launches[0]._replace(grid=()), 89)


@pytest.mark.parametrize("kind", [dict(shortcut=True), dict(normed=True)], ids=str)
def test_four_maps_of_a_norm_that_are_under_way_fit_the_smallest_shared_memory(kind):
    with recorded(89) as launches:
        batch_norm(torch.float32, twice=True, **kind)
    check(next(x for x in launches if x.kernel.__name__ == "sums_kernel")._replace(grid=()), 89)


@pytest.mark.parametrize(("name", "mean_row"), [("instance_memory-tf32", "tf32"), ("searches-rounded", "*bf16")])
def test_logits_that_decide_sets_are_float32_whatever_makes_the_mean_row(name, mean_row):
    found = {launch.kernel.__name__: precision(launch) for launch in launches_of(name, 90)}
    assert found["weights_kernel"] == ("float16x3", "*fp32") and mean_row in found["mean_row_kernel"]


def precision(launch):
    constants = dict(launch.constants)
    tiled = {"PRECISION", "STAGES"} & constants.keys() or launch.kernel.__name__ in (*KNN_PRODUCTS, "expand_kernel")
    return (constants.get("PRECISION"), launch.types[0]) if tiled else None


def launches_of(name, arch):
    with recorded(arch) as launches:
        CALLS[name].run()
    assert launches
    for launch in launches:
        assert 0 < launch.grid[0] < 2**31 and all(0 < n < 2**16 for n in launch.grid[1:]), launch
    return launches


def check(launch, arch):
    """No spills, shared memory and registers within limits, and as many programs at a time as launchers count on."""
    from salcr.kernels.launch import PROGRAMS_PER_SM, SHARED_BYTES, nearest

    used, kernel, constants = compiled(launch, arch), launch.kernel.__name__, dict(launch.constants)
    assert dict(launch.options)["enable_fp_fusion"] is False, f"{kernel}: see salcr.kernels.launch"
    threads = 32 * dict(launch.options).get("num_warps", 4)
    print(f"{kernel}: {used[:4]}, {REGISTERS // (used.registers * threads)} blocks by registers")
    assert (used.stack, used.local) == (0, 0), f"{kernel} spills: {used[:4]}, {launch}"
    assert used.shared <= SHARED_BYTES[nearest(SHARED_BYTES, arch)], f"{kernel}: {used[:4]}, {launch}"
    assert used.registers * threads <= REGISTERS
    if kernel in SHARING and threads == 32:
        assert used.registers * threads * PROGRAMS_PER_SM <= REGISTERS, f"{kernel}: {used[:4]}"
    if kernel == "augment_kernel":
        programs = 3 if constants["CHAIN"] else 5 if constants["DRAWS"] else 8
        assert used.registers * threads * programs <= REGISTERS, f"{kernel}: {used[:4]}"
    if "PRECISION" in constants or kernel in KNN_PRODUCTS:
        assert TENSOR_CORES[arch] in used.ptx, kernel
    if constants.get("PRECISION") in ("tf32x3", "float16x3") and launch.types[0] == "*fp32":
        check_sums_of_blocks(used, kernel, constants["M"] * constants["N"] // threads, constants["PRECISION"])
    assert "ld.global.nc" not in used.ptx, f"{kernel} loads as if nobody changed it during the launch"
    if kernel in ("unite_kernel", "roots_kernel"):
        assert used.ptx.count("ld.volatile.global") >= 4, kernel  # a parent and its parent, as they are now
    check_scans(used, kernel)
    if kernel == "inverse_norms_kernel":
        assert "max.NaN.f32" in used.ptx  # the interpreter's maximum keeps NaN whatever it is told
    return used


def check_scans(used, kernel):
    """Scans add whole numbers: a tree of additions rounds each prefix in its own way, so that prefixes can fall."""
    passed_on = set(re.findall(r"shfl\.sync\.up\.b32\s+(%r\d+)", used.ptx))
    added = {name for operands in re.findall(r"add(?:\.rn)?\.f32\s([^;]*)", used.ptx) for name in operands.split(", ")}
    assert not passed_on & {name.strip() for name in added}, kernel


def check_blocks(launch, used, least):
    from salcr.kernels.launch import SHARED_BYTES

    kernel, threads = launch.kernel.__name__, 32 * dict(launch.options).get("num_warps", 4)
    by_registers = REGISTERS // (-(-used.registers // 8) * 8 * threads)
    by_shared = (SHARED_BYTES[90] + SYSTEM_BYTES) // (used.shared + SYSTEM_BYTES)
    assert min(by_registers, by_shared, THREADS // threads) >= least.get(kernel, 1), f"{kernel}: {used[:4]}"


def check_sums_of_blocks(used, kernel, accumulators, precision):
    """Three products of what TF32 or float16 keeps and leaves of float32; accumulators take a block's sum apart."""
    products = len(re.findall(r"mma\.sync|wgmma\.mma_async|tcgen05\.mma", used.ptx))
    converted = "cvt.rna.tf32" if precision == "tf32x3" else "cvt.rn.f16x2.f32"
    assert products % 3 == 0 and converted in used.ptx, f"{kernel}: {products} products"
    added = sum(2 if pair else 1 for pair in re.findall(r"\badd(?:\.rn)?\.f32(x2)?", used.ptx))
    assert added >= accumulators, kernel
