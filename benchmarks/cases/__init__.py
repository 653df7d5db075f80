"""The cases of the registry, one file a family, each with its tuple ``CASES``."""
