"""All real samples against something independent, and one recording through every format to one embedding."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import modeling_merit  # noqa: F401  registers MERIT with the Auto classes
from modeling_merit.processing import read_ecg
from modeling_merit.processing.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.real_data
@pytest.mark.slow
def test_every_sample_is_read_like_something_independent_or_rightly_refused(data_dir, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    import benchmark_readers

    folders = ["--formats_dir", str(data_dir / "formats"), "--external_dir", str(data_dir / "external")]
    monkeypatch.setattr(sys, "argv", ["benchmark_readers.py", *folders, "--repeats", "1"])
    assert benchmark_readers.main() == 0, capsys.readouterr().out
    rows = [line.split("|")[1:7] for line in capsys.readouterr().out.splitlines()[2:-1]]
    counts = {name.strip(): [int(number) for number in numbers] for name, *numbers in rows}
    assert len(counts) == 14
    assert np.sum(list(counts.values()), axis=0).tolist() == [140, 111, 5, 24, 0]


@pytest.mark.real_data
def test_one_recording_through_every_format_gives_one_embedding(data_dir, tmp_path):
    checkpoint = REPOSITORY / "hub_cards" / "merit-ecg"
    formats = data_dir / "formats"
    files = {
        "wfdb": (formats / "wfdb/cinc2021_mat/HR06000.hea", {}),
        "edf": (formats / "edf/derived_ptbxl_12lead_edfplus.edf", {}),
        "csv": (formats / "csv/derived_12lead_header_time_mV.csv", {"units": "mV"}),
        "mortara": (formats / "mortara_xml/synthetic_ptbxl_12lead_500hz.xml", {}),
        "dicom": (formats / "dicom/derived_general_ecg_mdc_mV_2groups.dcm", {}),
    }
    for name in ("written.hea", "written.edf", "written.npz"):
        assert main(["convert", str(files["wfdb"][0]), str(tmp_path / name)]) == 0
        files[name] = (tmp_path / name, {})
    other_leads = read_ecg(files["wfdb"][0])
    other_leads = other_leads.select(other_leads.leads[::-1])
    np.savez(
        tmp_path / "reversed",
        signal=other_leads.signal * 1000,
        sampling_rate=500.0,
        leads=other_leads.leads,
        units="uV",
    )
    files["leads in reverse, uV"] = (tmp_path / "reversed.npz", {})

    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()

    def embed(record):
        with torch.inference_mode():
            inputs = processor(ecg=record, return_tensors="pt")
            return model.get_ecg_features(inputs["input_values"], inputs["ecg_mask"]).pooler_output[0]

    embeddings = {name: embed(read_ecg(path, **facts)) for name, (path, facts) in files.items()}
    cosines = {name: torch.cosine_similarity(x, embeddings["wfdb"], dim=0).item() for name, x in embeddings.items()}
    assert min(cosines.values()) >= 0.999, cosines
    other = embed(read_ecg(formats / "wfdb/cinc2021_mat/E07500.hea"))
    assert torch.cosine_similarity(other, embeddings["wfdb"], dim=0).item() < 0.99
