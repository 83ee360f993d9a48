"""What a reader is given: `Source`, a file with the facts that the caller states."""

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import units
from ..leads import canonical_lead, undecided_sites
from ..record import EcgFormatError, EcgRecord
from ..units import MILLIVOLTS_PER_UNIT

MAX_FILE_BYTES = 2**28
"""Largest file read whole (256 MiB); longer recordings go through `windows`."""

MAX_TEXT_BYTES = 2**26
"""Largest file of numbers as text; its numbers take less memory than its characters."""

HEAD_BYTES = 8192
"""How much of a file `matches` of a reader is given."""

# Other signals of monitors and polysomnographs; some headers leave out their unit, which then reads as millivolts.
_NO_ECG = re.compile(
    r"resp|pleth|spo2|sao2|art|abp|pap|cvp|icp|bp|co2|o2|eeg|emg|eog|scg|gsr|temp|flow|imp|annot|chin|snor|thor|abdo|nasal|ppg|acc|gyr|eda",
    re.IGNORECASE,
)
# Sites of EEG electrodes in the 10-20 system, mastoids and eyes, alone or against a reference ("C4-M1").
_EEG_SITE = re.compile(
    r"\s*(Fp|AF|FC|FT|CP|TP|PO|F|C|T|P|O|A|M|E)(\d{1,2}|z)(\s*[-:/]\s*\w+)?\s*|\s*[LR]OC\b.*", re.IGNORECASE
)
_CHEST_OR_SITE = re.compile(r"\s*C[1-6]\s*", re.IGNORECASE)  # V1 to V6 in Europe, and sites of the 10-20 system


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
            f"Expected the unit of {of} to be mV, uV, nV or V, got {str(unit)[:40]!r}. State the unit in the file; it "
            "is not guessed."
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
        packed (`Path`, *optional*): The compressed file that `content` was unpacked from.
    """

    name: str
    path: Path | None = None
    content: bytes | None = field(default=None, repr=False)
    sampling_rate: float | None = None
    leads: Sequence[str | None] | Mapping[str, str | None] | None = None
    units: str | None = None
    index: int | None = None
    packed: Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.leads, str):  # "II" or "I, II" are names, not letters
            object.__setattr__(self, "leads", tuple(name.strip() for name in self.leads.split(",")))

    @property
    def record_id(self) -> str | None:
        """Name of the file without its extension; `None` for bytes, whose name says nothing."""
        return self.path.stem if self.path else None

    def record(self, signal: np.ndarray, sampling_rate: float, leads: Iterable[str], **facts: Any) -> EcgRecord:
        """Return the `EcgRecord` of what was read; its name and source are those of the file unless stated.

        Args:
            signal (`np.ndarray` of shape `(leads, samples)`): In mV.
            sampling_rate (`float`): Hz.
            leads (iterable of `str`): Names of the rows.
            facts: Further fields of `EcgRecord`.
        """
        file = {"record_id": self.record_id, "source": str(self.path) if self.path else None}
        return EcgRecord(signal, sampling_rate, tuple(leads), **file | facts)

    @cached_property
    def size(self) -> int:
        """Length of the file in bytes."""
        return len(self.content) if self.content is not None else self._file().stat().st_size

    @cached_property
    def head(self) -> bytes:
        """The first `HEAD_BYTES` bytes."""
        return self.part(0, min(HEAD_BYTES, self.size))

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
        return self.content if self.content is not None else self.part(0, self.size)

    def part(self, start: int, stop: int) -> bytes:
        """Read the bytes from `start` to `stop`. Never by a memory map: a file cut meanwhile would end the process.

        Raises:
            EcgFormatError: If the file cannot be opened, or has become shorter since its length was looked up.
        """
        if self.content is not None:
            part = self.content[start:stop]
        else:
            try:
                with open(self._file(), "rb") as file:
                    file.seek(start)
                    part = file.read(stop - start)
            except OSError as error:
                raise EcgFormatError(f"{self.name} cannot be read: {error.strerror}.") from None
        if len(part) != stop - start:
            raise EcgFormatError(
                f"{self.name} has become shorter while it was read: expected {stop - start} bytes at {start}, got "
                f"{len(part)}. Read it again when it is written."
            )
        return part

    @property
    def most_unpacked(self) -> int:
        """Most bytes that what is packed in this file may unpack to, so that a small file stays a small file."""
        return most_unpacked(self.size)

    def _file(self) -> Path:
        if self.path is None:
            raise EcgFormatError(f"{self.name} has neither a path nor content. Pass one of them.")
        return regular_file(self.path)

    def choose_leads(self, names: Sequence[str], skip: Iterable[int] = ()) -> dict[int, str]:
        """Name the channels of the file.

        A sequence `leads` names channels that have no lead's name; where the file names a lead, both have to agree.

        Args:
            names (sequence of `str`): Names of the channels as the file spells them.
            skip (iterable of `int`): Channels that are not ECG (their unit or name says so) and are left out.

        Returns:
            `dict[int, str]`: Canonical lead name by channel index, in the order of the file.

        Raises:
            EcgFormatError: If a name is not a lead name, or not the one that the caller states, two channels are the
                same lead, or none is left.
        """
        left_out = {*skip, *eeg_sites(names)}
        stated: dict[int, str | None] = {i: name for i, name in enumerate(names) if i not in left_out}
        if isinstance(self.leads, Mapping):
            renamed = self.leads
            unused = [name for name in renamed if name not in names]
            if unused:
                raise EcgFormatError(f"`leads` renames {unused}, but {self.name} has the channels {_listed(names)}.")
            kept = [i for i, name in enumerate(names) if i in stated or renamed.get(name) is not None]
            stated = {i: renamed.get(names[i], names[i]) for i in kept}
        elif self.leads is not None:
            if len(self.leads) != len(names):
                raise EcgFormatError(
                    f"`leads` names {len(self.leads)} channels, but {self.name} has {len(names)}: {_listed(names)}."
                )
            stated = dict(enumerate(self.leads))
            for i, name in stated.items():
                if name is not None and i not in left_out and is_lead(names[i]) and not _same_lead(name, names[i]):
                    raise EcgFormatError(
                        f"{self.name} names its channel {i + 1} {names[i][:40]!r}, `leads` {str(name)[:40]!r}. Leave "
                        "`leads` out, or rename with `leads={'name in the file': 'lead name'}` if the file is wrong."
                    )
        undecided = undecided_sites([names[i] for i in range(len(names)) if i not in left_out])
        sites = [names[i] for i, name in stated.items() if name == names[i] and name in undecided]
        if sites and not isinstance(self.leads, Sequence):
            raise EcgFormatError(
                f"{self.name} holds the channels {_listed(names)}. {_listed(sites)} can be EEG sites or chest leads: "
                "say which with `leads={'C3': 'V3'}`, or `None` in its place to leave one out."
            )
        chosen = {i: name for i, name in stated.items() if name is not None}
        if not chosen:
            raise EcgFormatError(f"{self.name} holds no ECG lead; it holds {_listed(names) or 'no channel'}.")
        unknown = [name for name in chosen.values() if not is_lead(name)]
        if unknown:
            raise EcgFormatError(
                f"{self.name} holds the channels {_listed(names)}; no lead is called {_listed(unknown)}. "
                "Say what they are with `leads={'name in the file': 'lead name', 'channel to leave out': None}`."
            )
        leads = [canonical_lead(name) for name in chosen.values()]
        repeated = sorted({lead for lead in leads if leads.count(lead) > 1})
        if repeated:
            raise EcgFormatError(
                f"{self.name} holds {', '.join(repeated)} more than once; its channels are {_listed(names)}."
            )
        return dict(zip(chosen, leads))


def most_unpacked(size: int) -> int:
    """Return how many bytes the content of a packed file of `size` bytes may have: 8 MiB and four times its size.

    Recordings are packed to a half or a tenth; what unpacks to a thousandfold is made to exhaust the memory.
    """
    return min(MAX_FILE_BYTES, 2**23 + 4 * size)


def _listed(names: Sequence[str]) -> str:
    """Names for a message: at most 20, of at most 40 characters, control characters escaped."""
    return ", ".join(repr(str(name)[:40]) for name in names[:20]) + (", ..." if len(names) > 20 else "")


def eeg_sites(names: Sequence[str]) -> list[int]:
    """Return which channels called C1 to C6 are EEG electrodes, as in a polysomnogram, not the chest leads V1 to V6.

    Example:

    >>> eeg_sites(["EOG L", "C3", "C4", "ECG II"]), eeg_sites(["I", "II", "C1", "C2"])
    ([1, 2], [])
    """
    both = [i for i, name in enumerate(names) if _CHEST_OR_SITE.fullmatch(name)]
    others = [name for i, name in enumerate(names) if i not in both]
    is_eeg = any(re.search("eeg|eog|emg", name, re.IGNORECASE) or _EEG_SITE.fullmatch(name) for name in others)
    return both if is_eeg else []


def _same_lead(name: str, other: str) -> bool:
    return is_lead(name) and canonical_lead(name) == canonical_lead(other)


def is_lead(name: str) -> bool:
    """Say whether a name is the name of an ECG lead."""
    try:
        return bool(canonical_lead(name))
    except ValueError:
        return False


def is_no_ecg(name: str, unit: str) -> bool:
    """Say whether a channel is something else: not a lead's name, and not a voltage or the name of another signal.

    A channel of unknown name in millivolts is neither an ECG lead nor known to be another signal: the caller has to
    say.

    Example:

    >>> is_no_ecg("PLETH", "NU"), is_no_ecg("II", "mV"), is_no_ecg("col 0", "mV")
    (True, False, False)
    """
    other = _NO_ECG.search(name) or _EEG_SITE.fullmatch(name) or unit.strip().lower() not in MILLIVOLTS_PER_UNIT
    return not is_lead(name) and bool(other)


def regular_file(path: str | Path) -> Path:
    """Return `path` if it is a regular file or a symbolic link to one, not a folder, pipe or device.

    Files in the cache of the Hugging Face Hub and of DataLad are links.

    Raises:
        EcgFormatError: If it is anything else, does not exist or may not be looked at.
    """
    path = Path(path)
    name = path.name[:100] or str(path)
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        raise EcgFormatError(f"{name!r} may not be read: permission denied.") from None
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        what = "points to a file that is not there" if _is_link(path) else "does not exist"
        raise EcgFormatError(f"There is no file {name!r}: it {what}. Expected the path of an ECG file.") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise EcgFormatError(f"{name!r} is {kind}; expected a regular file.")
    return path


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def sibling_file(path: Path, name: str) -> Path:
    """Return the file `name` in the folder of `path`; a header may name nothing outside its own folder.

    The file itself may be a link, as in the cache of the Hugging Face Hub: only who may write to the folder makes one.

    Raises:
        EcgFormatError: If the name has a folder in it, or is not a regular file there.
    """
    if not name or name in (".", "..") or any(character in name for character in "/\\:\0"):
        raise EcgFormatError(
            f"{path.name} names the file {name[:100]!r}; expected a file of the same folder, without a path."
        )
    if not os.path.lexists(path.parent / name):
        raise EcgFormatError(
            f"{path.name} names the file {name[:100]}, which is not in its folder. Put it there, or leave out what "
            "it holds: `leads`."
        )
    return regular_file(path.parent / name)
