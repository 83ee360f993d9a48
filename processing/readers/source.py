"""What a reader is given: `Source`, a file with the facts that the caller states."""

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .. import units
from ..leads import canonical_lead
from ..record import EcgFormatError
from ..units import MILLIVOLTS_PER_UNIT

MAX_FILE_BYTES = 2**28
"""Largest file read whole (256 MiB); longer recordings go through `windows`."""

MAX_TEXT_BYTES = 2**26
"""Largest file of numbers as text; its numbers take less memory than its characters."""

HEAD_BYTES = 8192
"""How much of a file `matches` of a reader is given."""

# Other signals of monitors and polysomnographs; some headers leave out their unit, which then reads as millivolts.
_NO_ECG = re.compile(
    r"resp|pleth|spo2|sao2|art|abp|pap|cvp|icp|bp|co2|o2|eeg|emg|eog|scg|gsr|temp|flow|imp|annot", re.IGNORECASE
)


def millivolts_per(unit: str, of: str = "the signal") -> float:
    """Return the millivolts in one unit of voltage, as `units.millivolts_per` does.

    Args:
        unit (`str`): `"mV"`, `"uV"`, `"nV"` or `"V"`, in any case.
        of (`str`): What has that unit, for the error message.

    Raises:
        EcgFormatError: If the unit is not a unit of voltage.
    """
    try:
        return units.millivolts_per(unit)
    except KeyError:
        raise EcgFormatError(
            f"Expected the unit of {of} to be mV, uV, nV or V, got {unit!r}. State the unit in the file; it is "
            "not guessed."
        ) from None


@dataclass(frozen=True)
class Source:
    """An ECG file handed to a reader, with the facts that the caller states because the file does not.

    Args:
        name (`str`): File name (without folders), for its extension and for messages.
        path (`Path`, *optional*): Where the file lies, for formats whose record is several files; `None` for bytes.
        content (`bytes`, *optional*): The whole file when it does not lie on disk.
        sampling_rate (`float`, *optional*): Hz, for formats that do not state it.
        leads (sequence or mapping, *optional*): Lead names of the channels in order, or a mapping from names found
            in the file to lead names (`None`: leave that channel out).
        units (`str`, *optional*): Unit of voltage, for formats that do not state it.
        index (`int`, *optional*): Which recording, for formats that hold several.
    """

    name: str
    path: Path | None = None
    content: bytes | None = field(default=None, repr=False)
    sampling_rate: float | None = None
    leads: Sequence[str | None] | Mapping[str, str | None] | None = None
    units: str | None = None
    index: int | None = None

    @property
    def record_id(self) -> str | None:
        """Name of the file without its extension; `None` for bytes, whose name says nothing."""
        return self.path.stem if self.path else None

    @cached_property
    def size(self) -> int:
        """Length of the file in bytes."""
        return len(self.content) if self.content is not None else regular_file(self.path).stat().st_size

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` bytes."""
        if self.content is not None:
            return self.content[:HEAD_BYTES]
        with open(regular_file(self.path), "rb") as file:
            return file.read(HEAD_BYTES)

    @cached_property
    def data(self) -> bytes:
        """The whole file.

        Raises:
            EcgFormatError: If it is longer than `MAX_FILE_BYTES`.
        """
        if self.size > MAX_FILE_BYTES:
            raise EcgFormatError(
                f"{self.name} has {self.size} bytes; expected at most {MAX_FILE_BYTES}. Split the file."
            )
        return self.content if self.content is not None else self.path.read_bytes()

    def choose_leads(self, names: Sequence[str], skip: Iterable[int] = ()) -> dict[int, str]:
        """Name the channels of the file.

        Args:
            names (sequence of `str`): Names of the channels as the file spells them.
            skip (iterable of `int`): Channels that are no ECG (their unit or name says so) and are left out.

        Returns:
            `dict[int, str]`: Canonical lead name by channel index, in the order of the file.

        Raises:
            EcgFormatError: If a name is no lead name, two channels are the same lead, or none is left.
        """
        chosen = {i: name for i, name in enumerate(names) if i not in set(skip)}
        if isinstance(self.leads, Mapping):
            unused = [name for name in self.leads if name not in names]
            if unused:
                raise EcgFormatError(f"`leads` renames {unused}, but {self.name} has the channels {list(names)}.")
            chosen = {i: name for i, name in enumerate(names) if i in chosen or self.leads.get(name) is not None}
            chosen = {i: self.leads.get(name, name) for i, name in chosen.items()}
        elif self.leads is not None:
            if len(self.leads) != len(names):
                raise EcgFormatError(
                    f"`leads` names {len(self.leads)} channels, but {self.name} has {len(names)}: {names}."
                )
            chosen = dict(enumerate(self.leads))
        chosen = {i: name for i, name in chosen.items() if name is not None}
        if not chosen:
            raise EcgFormatError(
                f"{self.name} holds no ECG lead; it holds {', '.join(map(repr, names)) or 'no channel'}."
            )
        unknown = [name for name in chosen.values() if not is_lead(name)]
        if unknown:
            raise EcgFormatError(
                f"{self.name} holds the channels {', '.join(map(repr, names))}; no lead is called "
                f"{', '.join(map(repr, unknown))}. "
                "Say what they are with `leads={'name in the file': 'lead name', 'channel to leave out': None}`."
            )
        leads = [canonical_lead(name) for name in chosen.values()]
        repeated = sorted({lead for lead in leads if leads.count(lead) > 1})
        if repeated:
            raise EcgFormatError(
                f"{self.name} holds {', '.join(repeated)} more than once; its channels are {list(names)}."
            )
        return dict(zip(chosen, leads))


def is_lead(name: str) -> bool:
    """Say whether a name is the name of an ECG lead."""
    try:
        return bool(canonical_lead(name))
    except ValueError:
        return False


def is_no_ecg(name: str, unit: str) -> bool:
    """Say whether a channel is something else: no lead's name, and no voltage or the name of another signal.

    A channel of unknown name in millivolts is neither an ECG lead nor known to be none: the caller has to say.

    Example:

    >>> is_no_ecg("PLETH", "NU"), is_no_ecg("II", "mV"), is_no_ecg("col 0", "mV")
    (True, False, False)
    """
    return not is_lead(name) and (bool(_NO_ECG.search(name)) or unit.strip().lower() not in MILLIVOLTS_PER_UNIT)


def regular_file(path: str | Path) -> Path:
    """Return `path` if it is a regular file, not a symbolic link, folder, pipe or device.

    Raises:
        EcgFormatError: If it is anything else or does not exist.
    """
    path = Path(path)
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        raise EcgFormatError(f"There is no file {str(path)!r}. Expected the path of an ECG file.") from None
    if stat.S_ISLNK(mode):
        raise EcgFormatError(f"{str(path)!r} is a symbolic link; expected a regular file. Pass the file it points to.")
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise EcgFormatError(f"{str(path)!r} is {kind}; expected a regular file.")
    return path


def sibling_file(path: Path, name: str) -> Path:
    """Return the regular file `name` in the folder of `path`; a header may name nothing outside its own folder.

    Raises:
        EcgFormatError: If the name has a folder in it, or is no regular file there.
    """
    if not name or name in (".", "..") or any(character in name for character in "/\\:\0"):
        raise EcgFormatError(
            f"{path.name} names the file {name!r}; expected a file of the same folder, without a path."
        )
    if not (path.parent / name).exists():
        raise EcgFormatError(
            f"{path.name} names the file {name}, which is not in its folder. Put it there, or leave out what "
            "it holds: `leads`."
        )
    return regular_file(path.parent / name)
