"""Writing of small DICOM ECG files with pydicom for the tests."""

from io import BytesIO

import numpy as np
import pydicom

TWELVE_LEAD = "1.2.840.10008.5.1.4.1.1.9.1.1"
EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"


def channel(lead, unit="uV", sensitivity=2.5, correction=1, baseline=0):
    definition, source, units = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = "x", "LOCAL", f"Lead {lead}"
    units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = unit, "UCUM", unit
    definition.ChannelSourceSequence, definition.ChannelSensitivityUnitsSequence = [source], [units]
    definition.ChannelSensitivity, definition.ChannelSensitivityCorrectionFactor = sensitivity, correction
    definition.ChannelBaseline = baseline
    return definition


def group(samples, channels, rate=500, label="RHYTHM", offset_ms=0, padding=None):
    samples = np.asarray(samples, dtype="<i2")
    item = pydicom.Dataset()
    item.MultiplexGroupTimeOffset, item.MultiplexGroupLabel, item.SamplingFrequency = offset_ms, label, rate
    item.WaveformOriginality = "ORIGINAL"
    item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = len(channels), samples.shape[1]
    item.ChannelDefinitionSequence = channels
    item.WaveformBitsAllocated, item.WaveformSampleInterpretation = 16, "SS"
    item.WaveformData = samples.T.tobytes()
    if padding is not None:
        item.add_new("WaveformPaddingValue", "OW", np.int16(padding).tobytes())
    return item


def dicom(groups, syntax=EXPLICIT, **fields):
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = TWELVE_LEAD, "1.2.3", "ECG"
    dataset.WaveformSequence = groups
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    file = BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()
