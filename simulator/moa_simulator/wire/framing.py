"""How a stream's bytes are framed on the wire: chunked, and compressed if a rule says so."""

import zlib
from typing import Final

LAST_CHUNK: Final = b"0\r\n\r\n"
_GZIP: Final = 31
"""zlib's window bits for the gzip format (RFC 1952)."""


def chunk(data: bytes) -> bytes:
    """Frames data for a chunked body (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def gzipped(body: bytes) -> bytes:
    """Compresses a whole body."""
    packer = zlib.compressobj(wbits=_GZIP)
    return packer.compress(body) + packer.flush()


class Framing:
    """Chunks."""

    def frame(self, data: bytes) -> bytes:
        """Frames one event so that the client can read it at once."""
        return chunk(data)

    def end(self) -> bytes:
        """Ends the body."""
        return LAST_CHUNK


class GzipFraming(Framing):
    """Compressed chunks."""

    def __init__(self) -> None:
        self._packer = zlib.compressobj(wbits=_GZIP)

    def frame(self, data: bytes) -> bytes:
        """Frames one event so that the client can read it at once."""
        return chunk(self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH))

    def end(self) -> bytes:
        """Ends the compressed stream, then the body."""
        return chunk(self._packer.flush()) + LAST_CHUNK
