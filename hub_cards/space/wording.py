"""What the page says, English first, German beside."""

TITLE = "merit-ecg: read a 12-lead ECG"
PURPOSE = (
    "Upload an ECG file, or choose an example, and see it drawn, measured, compared with statements in your own "
    "words, and which parts of it the model reacts to.\n\n*EKG-Datei hochladen oder Beispiel wählen: gezeichnet, "
    "vermessen, mit eigenen Worten verglichen, und worauf das Modell reagiert.*"
)
NO_DEVICE = "Kein Medizinprodukt. Nur für die Forschung: weder zur Diagnose noch zur Überwachung oder Behandlung."
PROBABILITY_MEANING = (
    "A probability is that of a reader of PTB-XL giving this statement to such an ECG, as far as the model is "
    "calibrated (see its card); where the people are others, it is another. Marked are those from their threshold "
    "on. / Wahrscheinlichkeit der Aussage in PTB-XL, soweit das Modell kalibriert ist; markiert ab dem Schwellenwert."
)

EXAMPLES = {
    "sinus_rhythm": "Sinus rhythm / Sinusrhythmus",
    "atrial_fibrillation": "Atrial fibrillation / Vorhofflimmern",
    "first_degree_av_block": "First degree AV block / AV-Block I",
    "left_bundle_branch_block": "Left bundle branch block / Linksschenkelblock",
    "right_bundle_branch_block": "Right bundle branch block / Rechtsschenkelblock",
    "inferior_infarction": "Inferior infarction / Inferiorer Infarkt",
    "wolff_parkinson_white": "WPW pattern / WPW-Muster",
    "premature_ventricular_complexes": "Premature ventricular complexes / Ventrikuläre Extrasystolen",
    "ventricular_pacing": "Ventricular pacing / Ventrikuläre Stimulation",
    "00009_hr": "PTB-XL: normal ECG / Normales EKG",
    "00018_hr": "PTB-XL: atrial flutter / Vorhofflattern",
    "00030_hr": "PTB-XL: left ventricular hypertrophy / Linkshypertrophie",
}
"""Examples of the page: a condition of the simulator, or a record in the folder `examples`; and what it is called."""

MEASUREMENTS = {
    "heart_rate": "Heart rate / Herzfrequenz",
    "pr": "PR / PQ-Zeit",
    "qrs": "QRS / QRS-Dauer",
    "qt": "QT / QT-Zeit",
    "qtc_bazett": "QTc (Bazett)",
    "qtc_fridericia": "QTc (Fridericia)",
    "p_axis": "P axis / P-Achse",
    "qrs_axis": "QRS axis / QRS-Achse",
    "t_axis": "T axis / T-Achse",
}

FACTS = {
    "format": "Format",
    "leads": "Leads / Ableitungen",
    "sampling_rate": "Sampling rate, Hz / Abtastrate",
    "n_samples": "Samples / Abtastwerte",
    "duration_s": "Duration, s / Dauer",
    "unit": "Unit / Einheit",
    "gain": "Gain, units per mV / Verstärkung",
    "peak_to_peak_mv": "Peak to peak, mV / Spitze zu Spitze",
    "notes": "Notes / Hinweise",
    "age": "Age / Alter",
    "sex": "Sex / Geschlecht",
    "device": "Device / Gerät",
    "filters": "Filters / Filter",
    "beats": "QRS complexes / QRS-Komplexe",
    "flat_leads": "Flat leads / Ableitungen ohne Signal",
    "clipped_leads": "Clipped leads / Übersteuerte Ableitungen",
    "derived_leads": "Derived leads / Abgeleitete Ableitungen",
    "absent_leads": "Absent leads / Fehlende Ableitungen",
    "limb_lead_reversal": "Limb leads exchanged / Extremitäten vertauscht",
    "einthoven_residual_mv": "I + III - II, mV",
    "nan_fraction": "Missing part / Fehlender Anteil",
}

PICTURE = """<figure class="ecg">
<input type="radio" name="{name}" id="{name}-whole"><label for="{name}-whole">whole / ganz</label>
<input type="radio" name="{name}" id="{name}-readable" checked><label for="{name}-readable">readable / lesbar</label>
<input type="radio" name="{name}" id="{name}-large"><label for="{name}-large">large / groß</label>
<div class="paper" tabindex="0"><img alt="{alt}" src="data:image/svg+xml;base64,{svg}"></div>
<figcaption>{caption}</figcaption>
</figure>"""
"""A drawing in three sizes; it scrolls within its frame, and two fingers zoom it. Its sizes are in `CSS`."""

CARD = """<figure class="card"><svg viewBox="0 0 250 60" role="img" aria-label="{alt}"><path d="{path}"/></svg>
<figcaption>{alt}</figcaption></figure>"""

CSS = """
.ecg {margin: 0}
.ecg > input {margin: 0 .3em 0 0}
.ecg > label {margin-right: 1em; font-size: .9em; white-space: nowrap}
.ecg .paper {overflow: auto; max-height: 85vh; margin-top: .4em; touch-action: pan-x pan-y pinch-zoom}
.ecg .paper img {display: block; max-width: none; margin: 0; width: max(100%, 880px)}
.ecg [id$=whole]:checked ~ .paper img {width: 100%}
.ecg [id$=large]:checked ~ .paper img {width: max(200%, 1900px)}
.card {margin: 0; width: 7.4em; text-align: left; white-space: normal}
.card svg {width: 100%; background: #fff8f6}
.card path {fill: none; stroke: #1a1a1a; stroke-width: 1.2}
.card figcaption {font-size: .8em; line-height: 1.25}
"""

CLOSE_ERRORS = "() => {document.querySelectorAll('.toast-close').forEach((button) => button.click()); return []}"
"""An error stays until it is closed, or the next ECG comes."""

DOWNLOAD = """(content) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content)], {type: "application/json"}));
    link.download = "embedding.json";
    link.click();
    URL.revokeObjectURL(link.href);
}"""
