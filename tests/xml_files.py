"""Writing of small XML files of the four ECG dialects (HL7 aECG, GE MUSE, Philips Sierra, Mortara) for the tests."""

import base64
import struct
import zlib

import numpy as np

SAMPLES = np.arange(-500, 500).reshape(2, 500)


def base64_of(samples) -> str:
    return base64.b64encode(np.asarray(samples, "<i2").tobytes()).decode()


def aecg(
    leads=("MDC_ECG_LEAD_I", "MDC_ECG_LEAD_II"), unit="uV", scale="2.5", origin="0", digits=SAMPLES, increment="0.002"
):
    sequences = "".join(
        f'<component><sequence><code code="{lead}"/><value xsi:type="SLIST_PQ"><origin value="{origin}" '
        f'unit="{unit}"/><scale value="{scale}" unit="{unit}"/><digits>{" ".join(map(str, row))}</digits>'
        "</value></sequence></component>"
        for lead, row in zip(leads, digits)
    )
    return (
        '<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><component><series>'
        '<code code="RHYTHM"/><component><sequenceSet><component><sequence><code code="TIME_ABSOLUTE"/>'
        f'<value xsi:type="GLIST_TS"><head value="20200229235958.5"/><increment value="{increment}" unit="s"/></value>'
        f"</sequence></component>{sequences}</sequenceSet></component></series></component></AnnotatedECG>"
    ).encode()


def muse(samples=SAMPLES, leads=("I", "II"), doctype='<!DOCTYPE RestingECG SYSTEM "restecg.dtd">', **change):
    data = [np.asarray(row, "<i2").tobytes() for row in samples]
    fields = [
        {"LeadSampleCountTotal": len(row), "LeadDataCRC32": zlib.crc32(raw)} | change
        for row, raw in zip(samples, data)
    ]
    elements = "".join(
        f"<LeadData><LeadID>{lead}</LeadID><LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>"
        "<LeadAmplitudeUnitsPerBit>4.88</LeadAmplitudeUnitsPerBit>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in field.items())
        + f"<WaveFormData>\n{base64_of(row)}\n</WaveFormData></LeadData>"
        for lead, row, field in zip(leads, samples, fields)
    )
    return (
        f'<?xml version="1.0" encoding="ISO-8859-1"?>{doctype}<RestingECG><Waveform>'
        f"<WaveformType>Rhythm</WaveformType><NumberofLeads>{len(leads)}</NumberofLeads><SampleBase>500</SampleBase>"
        f"<SampleExponent>0</SampleExponent>{elements}</Waveform></RestingECG>"
    ).encode("latin-1")


def sierra(chunks: bytes, n_samples: int, n_leads: int = 6, compression: str = "XLI") -> bytes:
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"][:n_leads]
    return (
        '<restingecgdata xmlns="http://www3.medical.philips.com"><documentinfo><documenttype>PhilipsECG</documenttype>'
        '<documentversion>1.04</documentversion></documentinfo><dataacquisition date="2020-02-29" time="12:00:00">'
        "<signalcharacteristics><samplingrate>500</samplingrate><resolution>5</resolution></signalcharacteristics>"
        f'</dataacquisition><waveforms><parsedwaveforms dataencoding="Base64" compression="{compression}" '
        f'numberofleads="{n_leads}" leadlabels="{" ".join(leads)}" durationperchannel="{n_samples * 2}">'
        f"{base64.b64encode(chunks).decode()}</parsedwaveforms></waveforms></restingecgdata>"
    ).encode()


def mortara(samples=SAMPLES, **change):
    layout = {"OFFSET": "0", "BITS": "16", "FORMAT": "SIGNED", "UNITS_PER_MV": "400", "DURATION": "500"}
    layout |= {"SAMPLE_FREQ": "500", "ENCODING": "BASE64"} | change
    fields = " ".join(f'{name}="{value}"' for name, value in layout.items())
    channels = "".join(
        f'<CHANNEL {fields} NAME="{n}" DATA="{base64_of(row)}"/>' for n, row in zip(("I", "II"), samples)
    )
    return f'<ECG ACQUISITION_TIME="20200229120000" AGE="59">{channels}</ECG>'.encode()


def lzw_literals(data: bytes) -> bytes:
    """Code bytes as 10-bit literals, without using the dictionary."""
    bits = "".join(f"{byte:010b}" for byte in data) + f"{1023:010b}"
    return b"".join(int(bits[i : i + 8].ljust(8, "0"), 2).to_bytes(1, "big") for i in range(0, len(bits), 8))


def xli_chunk(samples) -> bytes:
    """Compress one stored lead: d[i] = 64 + 2 x[i] - x[i-1] - x[i+1], high bytes before low bytes."""
    x = np.asarray(samples, np.int64)
    step = 2 * x[1:-1] - x[:-2] - x[2:]
    deltas = np.concatenate([x[:2], step[1:] + 64, [64]]).astype(np.int16).view(np.uint16)
    codes = lzw_literals(bytes((deltas >> 8).astype(np.uint8)) + bytes((deltas & 0xFF).astype(np.uint8)))
    return struct.pack("<ihh", len(codes), 1, step[0]) + codes
