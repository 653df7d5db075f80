"""Search and clustering of one's own images with a trained network; docs/search.md shows how."""

from salcr.retrieval.build import Summary, build_index
from salcr.retrieval.index import Hit, Index, Ranking, write_rankings

__all__ = ["Hit", "Index", "Ranking", "Summary", "build_index", "write_rankings"]
