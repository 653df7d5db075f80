from tests.engine.conftest import tree  # noqa: F401
