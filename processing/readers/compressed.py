"""Compressed files: `.gz`, `.bz2`, `.xz` and `.zip` with one file in it, unpacked within bounds."""

import bz2
import lzma
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

from ..record import EcgFormatError
from .source import HEAD_BYTES, Source

_STREAMS: dict[bytes, tuple[str, Callable[[], Any]]] = {
    b"\x1f\x8b": (".gz", lambda: zlib.decompressobj(wbits=31)),
    b"BZh": (".bz2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": (".xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2**27)),
}
_ZIP = b"PK\x03\x04"
_PIECE = 2**16
MAX_STREAMS = 10_000
"""Most streams of one file, one after the other, as programs that compress in blocks write them."""

MAX_MEMBERS = 1000
"""Most entries in the directory of an archive that is looked at."""


def unpack(source: Source) -> Source:
    """Return the source of what is packed in a file, or the source itself if it is not compressed.

    NumPy archives (`.npz`) are a format of their own and stay as they are.

    Raises:
        EcgFormatError: If the file is damaged or cut short, unpacks to more than `Source.most_unpacked` bytes, to
            text of more than 8 MiB and its own size, whose numbers take long to read, or is an archive of several
            files.
    """
    head = source.head
    if head.startswith(_ZIP) and b".npy" not in head[30:128]:
        name, content = _only_member(source)
    else:
        stream = next((value for magic, value in _STREAMS.items() if head.startswith(magic)), None)
        if stream is None:
            return source
        suffix, decoder = stream
        name = source.name[: -len(suffix)] if source.name.lower().endswith(suffix) else source.name
        content = _unpack_streams(source, suffix, decoder)
    if content.startswith((*_STREAMS, _ZIP)) and b".npy" not in content[30:128]:
        raise EcgFormatError(f"{source.name} is compressed more than once. Unpack it first.")
    most_text = 2**23 + source.size
    if len(content) > most_text and b"\0" not in content[:HEAD_BYTES]:
        raise EcgFormatError(
            f"{source.name} unpacks to {len(content)} bytes of text, expected at most {most_text}. Unpack it first."
        )
    return replace(source, name=name or "ECG", path=None, content=content, packed=source.path)


def _unpack_streams(source: Source, suffix: str, decoder: Callable[[], Any]) -> bytes:
    data, limit = memoryview(source.data), source.most_unpacked
    pieces, unpacked, at = [], 0, 0
    for _ in range(MAX_STREAMS):
        stream = decoder()
        while not stream.eof:
            piece = data[at : at + _PIECE]
            if not piece:
                raise EcgFormatError(f"{source.name} is cut short: its {suffix} content does not end.")
            try:
                pieces.append(stream.decompress(piece, limit - unpacked + 1))
            except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError) as error:
                raise EcgFormatError(f"{source.name} is a damaged {suffix} file: {error}.") from None
            unpacked += len(pieces[-1])
            if unpacked > limit:
                raise EcgFormatError(
                    f"{source.name} has {source.size} bytes and unpacks to more than {limit}. Unpack it first."
                )
            at += len(piece) - len(stream.unused_data)
        if not any(data[at : at + _PIECE]):  # the end, or the zeros that some programs fill a block with
            return b"".join(pieces)
        if source.head[:2] != data[at : at + 2]:
            raise EcgFormatError(f"{source.name} is a damaged {suffix} file: something else follows its content.")
    raise EcgFormatError(f"{source.name} consists of more than {MAX_STREAMS} {suffix} streams. Unpack it first.")


def _only_member(source: Source) -> tuple[str, bytes]:
    data, limit = source.data, source.most_unpacked
    if data.count(b"PK\x01\x02") > MAX_MEMBERS:
        raise EcgFormatError(f"{source.name} holds more than {MAX_MEMBERS} files. Unpack it first.")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = [
                member
                for member in archive.infolist()
                if not member.is_dir() and not member.filename.startswith(("__MACOSX/", "."))
            ]
            if len(members) != 1:
                names = ", ".join(repr(member.filename[:40]) for member in members[:5])
                raise EcgFormatError(
                    f"{source.name} holds {len(members)} files ({names}); expected one. Unpack it and pass the file."
                )
            content = read_member(archive, members[0], limit, source.name)
    except EcgFormatError:
        raise
    except Exception as error:  # a damaged archive raises from zipfile, zlib and struct
        raise EcgFormatError(f"{source.name} is a damaged .zip file: {error}.") from None
    return PurePosixPath(members[0].filename).name, content


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int, name: str) -> bytes:
    """Unpack one file of an archive, at most `limit` bytes.

    Raises:
        EcgFormatError: If it is longer, or packed otherwise than stored or deflated: the other methods of the library
            unpack without bound.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise EcgFormatError(
            f"{name} is packed by method {member.compress_type}, expected deflation. Unpack it first."
        )
    with archive.open(member) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise EcgFormatError(f"{name} unpacks to more than {limit} bytes. Unpack it first.")
    if len(content) != member.file_size:
        raise EcgFormatError(f"{name} is cut short: {len(content)} bytes of {member.file_size}.")
    return content
