from tests.engine.conftest import one_thread, tree  # noqa: F401
