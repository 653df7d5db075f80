"""What the compiler made of the kernels, executed: in bfloat16 and TF32 too, which the interpreter does not have.

And the machine itself, by PTX that does what PTX forbids or leaves open. See tests/kernels/executed.py.
"""

import pytest
import torch

from salcr import ops, reference
from tests.kernels.executed import Fault, executed, library, run
from tests.kernels.ptx import Program
from tests.ops import batch_norm_problems, pooling_problems
from tests.ops.memories import (
    assert_search_within_budget,
    check_contrasts,
    check_one_class_and_ignored_rows,
    check_precision,
    check_precision_of_search,
    random_memory,
)

pytest.importorskip("triton")
HEADER = """
.visible .entry kernel(
.param .u64 .ptr .global .align 1 kernel_param_0
)
{
ld.param.b64 %rd1, [kernel_param_0];
mov.u32 %r1, %tid.x;
mov.b32 %r2, global_smem;
shl.b32 %r3, %r1, 2;
add.s32 %r4, %r2, %r3;
cvt.u64.u32 %rd2, %r3;
add.s64 %rd3, %rd1, %rd2;
xor.b32 %r5, %r3, 128;
add.s32 %r6, %r2, %r5;
"""
FAULTS = {  # two warps; %rd3 is a thread's place of memory, %r4 of shared memory, %r6 that of the other warp's thread
    "outside of every tensor": "st.global.b32 [ %rd3 + 4 ], { %r1 };",
    "of memory at an address that they do not divide": "st.global.b32 [ %rd1 + 2 ], { %r2 };",
    "bytes of shared memory at 256 of 256": "ld.shared.b32 %r7, [%r4+4];",
    "(wrote|touched) since the last barrier": "st.shared.b32 [%r4], %r1; ld.shared.b32 %r7, [%r6];",
    "another warp touched since the last barrier": "and.b32 %r7, %r4, 1148; st.shared.b32 [%r7], %r1;",
    "updated since the last barrier": "atom.shared.add.u32 %r7, [%r2], %r1; ld.shared.b32 %r7, [%r2];",
    "store different numbers at one place": "st.global.b32 [ %rd1 + 0 ], { %r1 };",
    "a barrier that 1 warps never reach": "setp.lt.u32 %p1, %r1, 32; @%p1 bra $L__A; bar.sync 0; $L__A:",
    "a barrier of lanes ffff": "setp.gt.u32 %p1, %r1, 15; @%p1 bra $L__A; bar.sync 0; $L__A:",
    "an exchange of lanes ffffffff by lanes 7": "setp.lt.u32 %p1, %r1, 3; @%p1 shfl.sync.bfly.b32 %r7, %r1, 1, 31, -1;",
    "more than 10000 steps": "$L__A: bra.uni $L__A;",
}


def kernel(body: str) -> str:
    return HEADER + body.replace("; ", ";\n").replace(": ", ":\n") + "\nret;\n}\n"


@pytest.mark.parametrize("fault", FAULTS)
def test_what_ptx_forbids_or_leaves_open_is_found(monkeypatch, fault):
    monkeypatch.setattr("tests.kernels.executed.MOST_STEPS", 10_000)
    out = torch.zeros(64, dtype=torch.int32)
    with pytest.raises(Fault, match=rf"^line \d+, block \(0, 0, 0\), warp [01]: .*{fault}"):
        for seed in range(20):
            run(kernel(FAULTS[fault]), [out.data_ptr()], [out], (1,), 2, 256, seed)


def test_a_copy_that_nobody_waits_for_is_late_by_chance():
    body = "cp.async.ca.shared.global [ %r4 + 0 ], [ %rd3 + 0 ], 0x4; cp.async.commit_group; cp.async.wait_group {};"
    body += " ld.shared.b32 %r7, [%r4]; add.s32 %r8, %r7, 1; st.global.b32 [ %rd3 + 0 ], {{ %r8 }};"
    right = []
    for groups in (0, 1):
        for seed in range(20):
            values = torch.arange(64, dtype=torch.int32)
            run(kernel(body.format(groups)), [values.data_ptr()], [values], (1,), 2, 256, seed)
            right.append(torch.equal(values, torch.arange(64) + 1))
    assert all(right[:20]) and not all(right[20:])


def test_lanes_part_and_meet_again():
    """Odd lanes add 1, even ones 2; then each adds its neighbour's."""
    body = "and.b32 %r7, %r1, 1; setp.eq.b32 %p1, %r7, 1; @%p1 bra $L__A; add.s32 %r8, %r1, 2; bra.uni $L__B;"
    body += " $L__A: add.s32 %r8, %r1, 1; $L__B: shfl.sync.bfly.b32 %r9, %r8, 1, 31, -1; add.s32 %r10, %r8, %r9;"
    body += " st.global.b32 [ %rd3 + 0 ], { %r10 };"
    out, lane = torch.zeros(64, dtype=torch.int32), torch.arange(64)
    for seed in range(5):
        run(kernel(body), [out.data_ptr()], [out], (1,), 2, 256, seed)
        assert torch.equal(out, 2 * lane + 3 + (lane + 1) % 2 - lane % 2)


def test_a_pair_is_added_into_itself():
    body = "cvt.rn.f32.s32 %r7, %r1; mov.b64 %rd4, {%r7, %r7}; add.rn.f32x2 %rd4, %rd4, %rd4; mov.b64 {_, %r8}, %rd4;"
    out = torch.zeros(64)
    run(kernel(body + " st.global.b32 [ %rd3 + 0 ], { %r8 };"), [out.data_ptr()], [out], (1,), 2, 256, 0)
    assert torch.equal(out, 2.0 * torch.arange(64))


def test_blocks_that_are_resident_together_can_wait_for_each_other():
    body = "atom.global.add.u32 %r7, [%rd1], 1; membar.gl; $L__A: ld.volatile.global.u32 %r7, [%rd1];"
    body += " setp.lt.u32 %p1, %r7, 192; @%p1 bra $L__A;"
    count = torch.zeros(1, dtype=torch.int32)
    run(kernel(body), [count.data_ptr()], [count], (3,), 2, 256, 0, together=True)
    assert count == 3 * 64


def test_words_of_a_warp():
    """Those of threads below 40 as bits, from the other end, and how many are 0 before the first 1."""
    body = "setp.lt.u32 %p1, %r1, 40; vote.sync.ballot.b32 %r7, %p1, -1; brev.b32 %r8, %r7;"
    body += " bfind.shiftamt.u32 %r9, %r7; add.s32 %r10, %r8, %r9; st.global.b32 [ %rd3 + 0 ], { %r10 };"
    out = torch.zeros(64, dtype=torch.int32)
    run(kernel(body), [out.data_ptr()], [out], (1,), 2, 256, 0)
    assert out.tolist() == [-1] * 32 + [(0xFF << 24) + 24 - 2**32] * 32


def test_an_instruction_that_the_machine_does_not_know_is_an_error():
    with pytest.raises(NotImplementedError, match="lg2"):
        Program(kernel("lg2.approx.f32 %r7, %r1;"), library())


@pytest.mark.parametrize("arch", [80, 90])
class TestCompiledKernels:
    @pytest.fixture(autouse=True)
    def launches(self, arch):
        with executed(arch) as launches:
            yield
        assert launches

    def test_contrasts(self, generator):
        check_contrasts("triton", generator, (2,), 17, 150, 72, torch.bfloat16, reductions=("none",))

    def test_a_loss_that_is_none_is_exactly_0(self, generator):
        check_one_class_and_ignored_rows("triton", generator)

    @pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
    def test_precisions(self, generator, precision):
        check_precision("triton", precision, generator)

    def test_no_precision_decides_a_set(self, generator):
        check_precision_of_search("triton", generator, same_lse=False)

    def test_searches(self, generator):
        features, memory = random_memory(generator, (2,), 9, 300, 72, torch.bfloat16)
        got = ops.instance_search(features, memory, 7, impl="triton")
        expected = reference.instance_search(features.double(), memory.double(), 7)
        eager = reference.instance_search(features, memory, 7)
        assert torch.equal(got[0], expected[0])
        assert_search_within_budget(got[1:], expected[1:], [x.float() for x in eager[1:]], memory)

    def test_pooling(self, generator):
        small = pooling_problems.problem(generator, batch=3, width=24, size=(4, 3), parts=2, dtype=torch.bfloat16)
        pooling_problems.check_budget("triton", *small, calls=pooling_problems.training_step)

    def test_batch_norm(self, generator):
        for kind in (dict(shortcut=False), dict(shortcut=True), dict(shortcut=True, normed=True)):
            small = batch_norm_problems.problem(generator, dtype=torch.bfloat16, **kind)
            batch_norm_problems.check_budget("triton", *small)

    def test_knn(self, generator):
        features = torch.randn(150, 40, generator=generator)
        values, indices = ops.knn(features, 9, impl="triton")
        exact = reference.knn(features.double(), 9)
        assert torch.equal(indices, exact[1])
        torch.testing.assert_close(values, exact[0].float())
