import pytest
import torch
import torch.nn.functional as F

from salcr import reference
from salcr.reference.published.cluster_memory import update_cluster_memory_


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("parts", [None, 3])
def test_published_update_equals_the_reference(generator, parts, shared):
    lead = () if parts is None else (parts,)
    features = torch.randn(*lead, 25, 8, generator=generator, dtype=torch.float64)
    memory = F.normalize(torch.randn(*lead, 4, 8, generator=generator, dtype=torch.float64), dim=-1)
    targets = torch.randint(-1, 4, (25,) if shared else (*lead, 25), generator=generator)
    for order in (None, torch.randperm(25, generator=generator)):
        expected, found = memory.clone(), memory.clone()
        reference.update_cluster_memory_(expected, features, targets, momentum=0.2, order=order)
        assert update_cluster_memory_(found, features, targets, momentum=0.2, order=order) is found
        torch.testing.assert_close(found, expected)
        assert not torch.equal(found, memory)
