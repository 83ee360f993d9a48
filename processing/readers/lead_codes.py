"""Lead numbers of SCP-ECG (EN 1064), which DICOM and others use too."""

LEAD_CODES = {
    **dict(enumerate(("I", "II", "V1", "V2", "V3", "V4", "V5", "V6", "V7"), 1)),
    **dict(enumerate(("V2R", "V3R", "V4R", "V5R", "V6R"), 10)),
    **{16: "X", 17: "Y", 18: "Z", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF", 66: "V8", 67: "V9", 92: "MCL1"},
    **{131: "ES", 132: "AS", 133: "AI"},
}
"""Lead by number: table of section 3 in clause 5.6; ISO/IEEE 11073-10102 (MDC, used by DICOM) has the same numbers."""
