"""What the package has to know of a data set. Each one's own file ends in its :class:`DatasetSpec`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from salcr.data.plan import Layout
from salcr.data.records import Dataset


@dataclass(frozen=True, eq=False)
class DatasetSpec:
    """A data set by name: how it is read, checked, ranked, rendered and trained on.

    Attributes:
        name: what ``data.name`` and the commands call it.
        description: one line for help texts.
        load: ``load(root)`` gives the :class:`salcr.data.Dataset`; with several splits ``load(root, split)``.
        rule: how a gallery is ranked, the ``protocol`` of :func:`salcr.ops.evaluate_ranking`; the loader gives it to
            its protocols.
        preset: name of its file in ``salcr/engine/presets``, which holds the settings that depend on the data set
            (``clustering.eps``, ``evaluation.cmfp_k`` and so on), if it has one.
        splits: number of published splits; ``data.trial`` chooses, from 1.
        list_files: files a split needs, relative to the root; ``{trial}`` in a name stands for the split's number.
        identity_files: further such files that hold one line of comma-separated identities, and for each whether they
            are of the ``"train"`` or the ``"test"`` part.
        identities_are_paired: every identity must have images of both modalities.
        identities_are_joint: train and test images number identities together, so none may be in both parts.
        counts: the published numbers that :func:`salcr.data.check_dataset` compares with, by what they count:
            ``"train identities"``, ``"visible train images"``, ``"infrared train images"``, the same three of
            ``test``, and ``"gallery images of PROTOCOL"`` (of its first trial).
        layout: for rendering a synthetic copy; without one ``salcr synth`` cannot.
    """

    name: str
    description: str
    load: Callable[..., Dataset]
    rule: str
    preset: str | None = None
    splits: int = 1
    list_files: tuple[str, ...] = ()
    identity_files: Mapping[str, str] = field(default_factory=dict)
    identities_are_paired: bool = True
    identities_are_joint: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    layout: Layout | None = None

    def split_files(self, trial: int) -> list[str]:
        """All files that split ``trial`` needs, relative to the root."""
        return [file.format(trial=trial) for file in (*self.list_files, *self.identity_files)]
