"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write ``content`` to a temporary file in the same folder, flush it to disk, rename it over ``path``.

    Raises:
        OSError: it cannot be written (a full disk); what stood at ``path`` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot write the file: {error.strerror}", str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
