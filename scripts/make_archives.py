#!/usr/bin/env python3
"""Writes small archives of every kind that an upload may be, and a few that
it must not be: seeds for archive_unpacker_fuzzer.

    make_archives.py FOLDER
"""

import io
import pathlib
import sys
import tarfile
import zipfile

FILES = {
    "train/bee/1.jpg": b"bee",
    "train/ant/" + "long" * 30 + ".jpg": b"ant" * 100,
    "test/bee/\u00e9t\u00e9.jpg": b"",
}


def tar(mode, tar_format):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=tar_format) as archive:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tar_of_links():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
                     tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("../entry")
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
    return out.getvalue()


def sparse_tar():
    """GNU's sparse format 1.0: a map before the data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w",
                      format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("holes")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                            "GNU.sparse.realsize": "4096",
                            "GNU.sparse.name": "holes"}
        content = b"1\n1024\n3\n".ljust(512, b"\0") + b"abc"
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Pipe(io.BytesIO):
    """Makes zipfile write sizes after the data, as for a pipe."""

    def seekable(self):
        return False

    def tell(self):
        raise OSError

    def seek(self, *_):
        raise OSError


def make_zip(method, out):
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in FILES.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def main():
    folder = pathlib.Path(sys.argv[1])
    archives = {
        "gnu.tar": tar("w", tarfile.GNU_FORMAT),
        "pax.tar": tar("w", tarfile.PAX_FORMAT),
        "gnu.tar.gz": tar("w:gz", tarfile.GNU_FORMAT),
        "links.tar": tar_of_links(),
        "sparse.tar": sparse_tar(),
        "stored.zip": make_zip(zipfile.ZIP_STORED, io.BytesIO()),
        "deflated.zip": make_zip(zipfile.ZIP_DEFLATED, io.BytesIO()),
        "piped.zip": make_zip(zipfile.ZIP_DEFLATED, Pipe()),
        "bzip2.zip": make_zip(zipfile.ZIP_BZIP2, io.BytesIO()),
        "lzma.zip": make_zip(zipfile.ZIP_LZMA, io.BytesIO()),
    }
    for name, content in archives.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
