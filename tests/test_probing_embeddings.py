"""Features of a frozen encoder: what their cache is named by."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tiny_models import ENCODER, build

from modeling_merit import MeritEcgConfig, MeritEcgModel, MeritFeatureExtractor
from modeling_merit.processing import EcgRecord
from modeling_merit.processing.data.microvolts import NO_SAMPLE
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.probing.embeddings import cached_features, embed_tables


def test_cached_features_are_those_of_the_extractor(tmp_path):
    """Equal weights and signals, but another normalisation: the features of the first must not be taken."""
    columns = {"signal": datasets.Array2D((12, 1000), "int16"), "report": datasets.Value("string")}
    signals = np.random.default_rng(0).integers(-900, 900, (3, 12, 1000), dtype=np.int16)
    rows = {"signal": list(signals), "report": ["a", "b", "c"]}
    tables = {"test": datasets.Dataset.from_dict(rows, datasets.Features(columns))}
    encoder = build(MeritEcgModel, MeritEcgConfig(**ENCODER)).eval()
    plain, scaled = MeritFeatureExtractor(), MeritFeatureExtractor(normalization="record_zscore")
    first, again, other = (
        embed_tables(encoder, extractor, tables, tmp_path)[0]["test"] for extractor in (plain, plain, scaled)
    )
    assert np.array_equal(first, again) and len(list(tmp_path.iterdir())) == 2
    assert np.abs(first - other).max() > 1e-3


def test_features_of_a_killed_run_leave_no_half_a_file(tmp_path, monkeypatch):
    cache, features = tmp_path / "new" / "features.safetensors", {"test": np.ones((2, 3), np.float32)}

    def killed(arrays, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("modeling_merit.processing.probing.embeddings.save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            cached_features(cache, lambda: features)
    assert list(cache.parent.iterdir()) == []
    assert np.array_equal(cached_features(cache, lambda: features)["test"], features["test"])
    assert np.array_equal(cached_features(cache, None)["test"], features["test"])  # not computed again
    assert cached_features(None, lambda: features) is features


@pytest.mark.parametrize("normalization", ["none", "record_zscore"])
def test_samples_that_are_missing_are_masked(normalization):
    """A short record and absent leads give what the feature extractor makes of the same record, not -32.768 mV."""
    columns = {"signal": datasets.Array2D((12, 1000), "int16"), "report": datasets.Value("string")}
    signals = np.random.default_rng(0).integers(-900, 900, (2, 12, 1000), dtype=np.int16)
    signals[0, :, 700:] = signals[0, 3:5] = NO_SAMPLE
    rows = {"signal": list(signals), "report": ["a", "b"]}
    tables = {"test": datasets.Dataset.from_dict(rows, datasets.Features(columns))}
    encoder = build(MeritEcgModel, MeritEcgConfig(**ENCODER)).eval()
    extractor = MeritFeatureExtractor(normalization=normalization, high_pass=None, derive_leads=False)
    found = embed_tables(encoder, extractor, tables)[0]["test"]
    leads = [lead for row, lead in enumerate(STANDARD_LEADS) if row not in (3, 4)]
    kept = [row for row in range(12) if row not in (3, 4)]
    for record, expected in (((signals[0, kept, :700], leads), found[0]), ((signals[1], STANDARD_LEADS), found[1])):
        inputs = extractor(EcgRecord(record[0] / 1000, 100, record[1]), return_tensors="pt")
        with torch.inference_mode():
            own = encoder(inputs["input_values"], inputs["ecg_mask"]).pooler_output[0].numpy()
        np.testing.assert_allclose(own, expected, atol=1e-4)
