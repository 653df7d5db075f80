"""Features as a network gives them, for measurements of everything that works on neighbours."""

import torch
import torch.nn.functional as F

LATENT = 128  # dimensions that features really vary in


def pedestrians(
    count: int, width: int = 2048, *, spread: float = 1.25, hubs: float = 0.0, seed: int = 0
) -> torch.Tensor:
    """Unit features ``[count, width]`` in random order: identities of about 56 images, each seen by four cameras.

    An image is what all have in common, its identity, what its camera does to every image and to this identity, and
    noise whose size varies from image to image.

    Args:
        spread: size of the noise. At 1.25 hundreds of identities make clusters and 5 to 10 % of 11,909 or 22,258 images
            are noise of DBSCAN (eps 0.6).
        hubs: share of images that show little but what all have in common, and so are near to very many.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    identities, cameras = max(2, count // 56), 4
    weights = (0.5 * normal(identities)).exp()
    identity = torch.multinomial(weights, count, replacement=True, generator=generator)
    camera = torch.randint(cameras, (count,), generator=generator)
    latent = normal(identities, LATENT)[identity] + 0.5 * normal(cameras, LATENT)[camera]
    latent += 0.4 * normal(identities * cameras, LATENT)[identity * cameras + camera]
    latent += spread * (0.4 * normal(count, 1)).exp() * normal(count, LATENT)
    latent *= torch.where(torch.rand(count, 1, generator=generator) < hubs, 0.3, 1.0)
    return F.normalize((latent + normal(LATENT)) @ normal(LATENT, width), dim=1)


def clustered(count: int, per_cluster: int, width: int, device: str, seed: int) -> torch.Tensor:
    """Unit features ``[count, width]``, neighbours in rows of one cluster: cosine 0.41 within it and about 0 outside.

    The centres are those of every other call with the same width.
    """
    centres = torch.randn(-(-count // per_cluster), width, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    centres, noise = F.normalize(centres, dim=-1), F.normalize(noise, dim=-1)
    return F.normalize(centres.repeat_interleave(per_cluster, 0)[:count] + 1.2 * noise, dim=-1).to(device)
