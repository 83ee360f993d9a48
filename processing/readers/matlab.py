"""MATLAB and HDF5 files of public ECG collections, whose layout says part of what an ECG file should say.

- CPSC2018 (Liu et al., J Med Imaging Health Inform 8:1368, 2018): a struct `ECG` with `sex`, `age` and `data` (12,
  samples); the data set is documented as millivolts at 500 Hz in the order of the standard leads.
- CODE-15% (Ribeiro et al., doi:10.5281/zenodo.4916206): HDF5, `tracings` (exams, samples, leads). Rate, leads and
  unit stand nowhere in the file and the collections around CODE differ in the order of aVR, aVL, aVF: the caller
  states all three.
- `feats` (leads, samples) with `curr_sample_rate`, as ECG-text data sets repackage CODE-15%: leads and unit are
  stated too.
"""

import zlib
from io import BytesIO
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..leads import STANDARD_LEADS
from ..record import EcgFormatError, EcgRecord, check_size
from .arrays import to_millivolts
from .fields import age_of, sex_of
from .matlab5 import read_variables
from .source import Source, millivolts_per

if TYPE_CHECKING:
    import h5py

_HDF5 = b"\x89HDF\r\n\x1a\n"
_DEFLATE, _SHUFFLE, _FLETCHER, _LZF = 1, 2, 3, 32000  # numbers of the HDF5 filters
_FILTERS = {_DEFLATE, _SHUFFLE, _FLETCHER, _LZF}


def matches(head: bytes, name: str) -> bool:
    """Say whether a file is a MATLAB 5 or 7.3 file or HDF5."""
    return head.startswith((b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file", _HDF5))


def read(source: Source) -> EcgRecord:
    """Read one of the layouts above.

    Raises:
        EcgFormatError: If the layout is another one, or a fact is neither in the file nor stated.
    """
    if source.head.startswith(b"MATLAB 5.0"):
        return _read_mat(source)
    if _HDF5 in source.head[:1024]:
        return _read_hdf5(source)
    raise EcgFormatError(
        f"{source.name} is not a MATLAB 5 or HDF5 file. If it is the signal file of a WFDB record, put its .hea "
        "file beside it."
    )


def _read_mat(source: Source) -> EcgRecord:
    if source.index not in (None, 0):
        raise EcgFormatError(f"{source.name} holds one recording, not one of index {source.index}. Leave `index` out.")
    content = read_variables(source.data, ("ECG", "feats", "curr_sample_rate"), source.most_unpacked)
    if "feats" in content:
        rate = content.get("curr_sample_rate")
        known = float(rate.flat[0]) if isinstance(rate, np.ndarray) and rate.size == 1 else None
        return _record(source, content["feats"], known, None, None)
    ecg = content.get("ECG")
    if not isinstance(ecg, dict) or set(ecg) != {"sex", "age", "data"}:
        raise EcgFormatError(
            f"{source.name} is a MATLAB file of unknown layout; expected a struct ECG with sex, age, data (CPSC2018) "
            "or an array feats. Save the signal as .npz with the arrays signal, sampling_rate, leads, units."
        )
    age = age_of(str(ecg["age"].flat[0])) if isinstance(ecg["age"], np.ndarray) and ecg["age"].size else None
    sex = sex_of(ecg["sex"]) if isinstance(ecg["sex"], str) else None
    note = "500 Hz, mV and the order of the leads are those of CPSC2018; the file does not state them"
    return _record(source, ecg["data"], 500.0, STANDARD_LEADS, "mV", age, sex, (note,))


def _read_hdf5(source: Source) -> EcgRecord:
    import h5py

    try:
        with h5py.File(source.path or BytesIO(source.data), "r") as file:
            tracings = _own_dataset(file, "tracings")
            if tracings is None or tracings.ndim != 3 or tracings.dtype.kind not in "iuf":
                raise EcgFormatError(
                    f"{source.name} holds {[name[:40] for name in islice(file, 20)]}; expected an array tracings "
                    "(exams, samples, leads) in the file itself, not behind a link."
                )
            n_exams, n_samples, n_leads = tracings.shape
            check_size(n_leads, n_samples, source.name)
            index = 0 if source.index is None and n_exams == 1 else source.index
            if not isinstance(index, int) or not 0 <= index < n_exams:
                raise EcgFormatError(f"{source.name} holds {n_exams} exams, got index {index}. State `index=` from 0.")
            _check_stored(tracings, index, source)
            signal = tracings[index].T
            exams = _own_dataset(file, "exam_id")
            exam = None
            if exams is not None and exams.shape == (n_exams,) and exams.dtype.kind in "iu":
                _check_stored(exams, index, source)
                exam = str(exams[index])
    except EcgFormatError:
        raise
    except Exception as error:  # the library raises whatever its C code reports
        raise EcgFormatError(f"{source.name} is a damaged HDF5 file: {error}.") from error
    return _record(source, signal, None, None, None, record_id=exam)


def _own_dataset(file: "h5py.File", name: str) -> "h5py.Dataset | None":
    """Return an array that lies in this very file: a link may lead to another one."""
    import h5py

    link = file.get(name, getlink=True)
    found = file.get(name) if isinstance(link, h5py.HardLink) else None
    return found if isinstance(found, h5py.Dataset) else None


def _check_stored(array: "h5py.Dataset", index: int, source: Source) -> None:
    """Refuse an array whose samples lie in other files, are not all there, or unpack to too much for one exam.

    The library gives the fill value for what was never written, and unpacks whole chunks: a kilobyte would become
    gigabytes of zeros.
    """
    name, limit = source.name, source.most_unpacked
    if array.is_virtual or array.external:
        raise EcgFormatError(
            f"The samples of {name} lie in other files, which are not opened. Copy them into one file."
        )
    if array.chunks is None:
        declared, held = array.nbytes, array.id.get_storage_size()
        unpacked = prod(array.shape[1:]) * array.dtype.itemsize
    else:
        pieces = [-(-length // step) for length, step in zip(array.shape, array.chunks)]
        declared, held = prod(pieces), array.id.get_num_chunks()
        unpacked = prod(pieces[1:]) * prod(array.chunks) * array.dtype.itemsize
    if held < declared:
        raise EcgFormatError(
            f"{name} declares {array.name} of shape {array.shape} but holds {held / declared:.1%} of it. The file was "
            "not written to its end."
        )
    if unpacked > limit:
        raise EcgFormatError(
            f"{name} is packed in pieces of {array.chunks}, which are too large to read: one exam unpacks to "
            f"{unpacked} bytes, expected at most {limit}."
        )
    filters = [_filter(array, i) for i in range(array.id.get_create_plist().get_nfilters())]
    if len(set(filters)) != len(filters) or not set(filters) <= _FILTERS:
        raise EcgFormatError(
            f"{name} is packed by the HDF5 filters {filters[:10]}; expected each of gzip, lzf, shuffle and fletcher32 "
            "at most once. Repack it: h5repack -f GZIP=4."
        )
    if array.chunks and _DEFLATE in filters:
        _check_chunks(array, index, name)


def _filter(array: "h5py.Dataset", i: int) -> int:
    return int(array.id.get_create_plist().get_filter(i)[0])


def _check_chunks(array: "h5py.Dataset", index: int, name: str) -> None:
    """Refuse a deflated chunk that unpacks to more than a chunk: the library unpacks it whole before it looks."""
    room = prod(array.chunks) * array.dtype.itemsize + 4  # a Fletcher checksum may follow
    first = index - index % array.chunks[0]
    corners = (range(0, length, step) for length, step in zip(array.shape[1:], array.chunks[1:]))
    for corner in product(*corners):
        skipped, content = array.id.read_direct_chunk((first, *corner))
        unpacked = b"" if skipped else zlib.decompressobj().decompress(content, room + 1)
        if len(unpacked) > room:
            raise EcgFormatError(f"{name} holds a packed piece of more than {room} bytes. The file is damaged.")


def _record(
    source: Source,
    signal: np.ndarray,
    rate: float | None,
    leads: tuple[str, ...] | None,
    unit: str | None,
    age: float | None = None,
    sex: str | None = None,
    notes: tuple[str, ...] = (),
    record_id: str | None = None,
) -> EcgRecord:
    rate, unit = rate or source.sampling_rate, unit or source.units
    facts = {"sampling_rate": rate, "leads": leads or source.leads, "units": unit}
    if rate is None or unit is None or facts["leads"] is None:
        missing = ", ".join(f"`{name}=`" for name, value in facts.items() if value is None)
        raise EcgFormatError(f"The layout of {source.name} leaves open what is not guessed. State {missing}.")
    if not isinstance(signal, np.ndarray) or signal.ndim != 2 or signal.dtype.kind not in "iuf":
        found = f"shape {signal.shape}" if isinstance(signal, np.ndarray) else type(signal).__name__
        raise EcgFormatError(f"{source.name}: expected a signal of numbers (leads, samples), got {found}.")
    n_leads, n_samples = signal.shape
    if leads and len(leads) != n_leads:
        raise EcgFormatError(f"{source.name}: expected {len(leads)} leads, got a signal of shape {signal.shape}.")
    check_size(n_leads, n_samples, source.name)
    chosen = source.choose_leads(list(leads) if leads else [f"row {i}" for i in range(n_leads)])
    return source.record(
        to_millivolts(signal, list(chosen), millivolts_per(unit)),
        rate,
        tuple(chosen.values()),
        record_id=record_id or Path(source.name).stem,
        age=age,
        sex=sex,
        unit=unit,
        notes=notes,
    )
