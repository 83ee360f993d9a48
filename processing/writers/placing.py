"""Where written files go: beside their place first, moved there when whole, onto another file only if told."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def placed(targets: Sequence[Path], overwrite: bool = False) -> Iterator[list[Path]]:
    """Give a path to write to for each of `targets`; after the block the files are moved to them.

    If the block fails, nothing is left of what it wrote, and what was there before is as it was.

    Args:
        targets (sequence of `Path`): Files of one folder, in the order in which they are moved.
        overwrite (`bool`): Whether files of these names may be replaced.

    Raises:
        FileExistsError: If one of them is there and may not be replaced, before anything is written.
        FileNotFoundError: If there is no such folder.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with placed([Path(folder, "a.txt")]) as (path,):
    ...         _ = path.write_text("whole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    check_free(targets, overwrite)
    folder = targets[0].parent
    with TemporaryDirectory(prefix=".merit-ecg-", dir=folder) as temporary:
        paths = [Path(temporary, target.name) for target in targets]
        yield paths
        check_free(targets, overwrite)  # a long computation may lie between
        for path, target in zip(paths, targets):
            os.replace(path, target)


def check_free(targets: Sequence[Path], overwrite: bool = False) -> None:
    """Refuse a file in a folder that does not exist, and one that is there already.

    Raises:
        OSError, ValueError: As `placed`, or if no file can have such a name.
    """
    for target in targets:
        if not target.parent.is_dir():
            raise FileNotFoundError(f"There is no folder {str(target.parent)!r}. Make it first.")
        try:
            is_folder = stat.S_ISDIR(os.lstat(target).st_mode)
        except FileNotFoundError:
            continue
        if is_folder:
            raise FileExistsError(f"{str(target)!r} is a folder. Choose another name.")
        if not overwrite:
            raise FileExistsError(
                f"{str(target)!r} exists already. Choose another name, or replace it with overwrite=True."
            )


__all__ = ["check_free", "placed"]
