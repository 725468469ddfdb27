# The part of the lz4 package (which brings no types) that is used here.

from typing import Literal

from typing_extensions import Buffer

class LZ4BlockError(Exception): ...

def compress(
    source: Buffer,
    mode: Literal["default", "fast", "high_compression"] = "default",
    acceleration: int = 1,
    compression: int = 0,
    store_size: bool = True,
    *,
    dict: Buffer | None = None,  # noqa: A002
) -> bytes: ...
def decompress(source: Buffer, uncompressed_size: int = -1, *, dict: Buffer | None = None) -> bytes: ...  # noqa: A002
