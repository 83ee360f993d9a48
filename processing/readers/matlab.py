"""MATLAB and HDF5 files of public ECG collections, whose layout says part of what an ECG file should say.

- CPSC2018 (Liu et al., J Med Imaging Health Inform 8:1368, 2018): a struct `ECG` with `sex`, `age` and `data` (12,
  samples); the data set is documented as millivolts at 500 Hz in the order of the standard leads.
- CODE-15% (Ribeiro et al., doi:10.5281/zenodo.4916206): HDF5, `tracings` (exams, samples, leads). Rate, leads and
  unit stand nowhere in the file and the collections around CODE differ in the order of aVR, aVL, aVF: the caller
  states all
  three.
- `feats` (leads, samples) with `curr_sample_rate`, as ECG-text data sets repackage CODE-15%: leads and unit are
stated too.
"""

from io import BytesIO
from pathlib import Path

import numpy as np

from ..leads import STANDARD_LEADS
from .fields import age_of, sex_of
from .matlab5 import read_variables
from .record import EcgRecord
from .source import MAX_FILE_BYTES, EcgFormatError, Source, check_size, millivolts_per

_HDF5 = b"\x89HDF\r\n\x1a\n"


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
        f"{source.name} is no MATLAB 5 or HDF5 file. If it is the signal file of a WFDB record, put its .hea "
        "file beside it."
    )


def _read_mat(source: Source) -> EcgRecord:
    content = read_variables(source.data, ("ECG", "feats", "curr_sample_rate"))
    if "feats" in content:
        rate = content.get("curr_sample_rate")
        known = isinstance(rate, np.ndarray) and rate.size == 1
        return _record(source, content["feats"], float(rate.flat[0]) if known else None, None, None)
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
            tracings = file.get("tracings")
            if not isinstance(tracings, h5py.Dataset) or tracings.ndim != 3 or tracings.dtype.kind not in "iuf":
                raise EcgFormatError(
                    f"{source.name} holds {list(file)}; expected an array tracings (exams, samples, leads)."
                )
            n_exams, n_samples, n_leads = tracings.shape
            check_size(n_leads, n_samples, source.name)
            if tracings.chunks and np.prod(tracings.chunks, dtype=object) * tracings.dtype.itemsize > MAX_FILE_BYTES:
                raise EcgFormatError(
                    f"{source.name} is packed in pieces of {tracings.chunks}, which are too large to read."
                )
            index = 0 if source.index is None and n_exams == 1 else source.index
            if index is None or not 0 <= index < n_exams:
                raise EcgFormatError(f"{source.name} holds {n_exams} exams, got index {index}. State `index=` from 0.")
            signal = tracings[index].T
            exams = file.get("exam_id")
            exam = str(exams[index]) if isinstance(exams, h5py.Dataset) and exams.shape == (n_exams,) else None
    except EcgFormatError:
        raise
    except Exception as error:  # the library raises whatever its C code reports
        raise EcgFormatError(f"{source.name} is a damaged HDF5 file: {error}.") from error
    return _record(source, signal, None, None, None, record_id=exam)


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
    return EcgRecord(
        signal[list(chosen)].astype(np.float64) * millivolts_per(unit),
        rate,
        tuple(chosen.values()),
        record_id=record_id or Path(source.name).stem,
        age=age,
        sex=sex,
        unit=unit,
        source=str(source.path) if source.path else None,
        notes=notes,
    )
