"""Search: an index of ECGs, exact and approximate, with conditions and additions; its two commands."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from tiny_models import build, merit_config

from modeling_merit import MeritModel
from modeling_merit.processing import EcgRecord, MeritFeatureExtractor, MeritProcessor, read_ecg
from modeling_merit.processing.cli import main
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import embed_ecgs, embed_prompts, load_checkpoint
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.writers import write_ecg, write_wfdb

pytest.importorskip("lancedb")

from modeling_merit.processing.commands import index as index_command  # noqa: E402
from modeling_merit.processing.search import EcgIndex, embed_text  # noqa: E402


@pytest.fixture(scope="module")
def ecgs(tmp_path_factory):
    """Twelve WFDB records with ages from 50 to 61."""
    folder = tmp_path_factory.mktemp("ecgs")
    for i in range(12):
        condition = ("sinus_rhythm", "atrial_fibrillation", "left_bundle_branch_block")[i % 3]
        record = simulate_ecg(condition, seed=i, noise=0.2)
        sex = "female" if i % 2 else "male"
        write_wfdb(EcgRecord(record.signal, 100, record.leads, record_id=f"r{i:02d}", age=50 + i, sex=sex), folder)
    return folder


def vectors(count, size=16, seed=0):
    found = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def table(start, stop, all_vectors):
    ids = range(start, stop)
    columns = {"record_id": [str(i) for i in ids], "embedding": list(all_vectors[start:stop])}
    return columns | {"age": [float(i % 100) for i in ids], "sex": ["female" if i % 2 else "male" for i in ids]}


class TestIndex:
    def test_exact_search_is_the_order_of_the_cosines(self, tmp_path):
        all_vectors = vectors(500)
        index = EcgIndex.create(tmp_path / "i", {"weights": "w"})
        assert index.add(table(0, 500, 3 * all_vectors)) == 500  # stored with length 1
        query = vectors(1, seed=1)[0]
        found = index.search(5 * query, k=20)
        cosines = all_vectors @ query
        assert found["record_id"].tolist() == [str(i) for i in np.argsort(-cosines)[:20]]
        np.testing.assert_allclose(found["similarity"], np.sort(cosines)[::-1][:20], atol=1e-5)
        assert "embedding" not in found

    def test_conditions_hold_for_all_results_before_ranking(self, tmp_path):
        all_vectors = vectors(500)
        index = EcgIndex.create(tmp_path / "i", {"weights": "w"})
        index.add(table(0, 500, all_vectors))
        query = vectors(1, seed=2)[0]
        found = index.search(query, k=8, where="age > 90 AND sex = 'female'")
        wanted = [i for i in np.argsort(-(all_vectors @ query)) if i % 100 > 90 and i % 2][:8]
        assert found["record_id"].tolist() == [str(i) for i in wanted]
        assert index.search(query, where="age > 1000").empty
        for wrong in ("weight > 3", "age >", "DROP TABLE ecgs"):
            with pytest.raises(ValueError, match="SQL condition on the columns record_id, age, sex"):
                index.search(query, where=wrong)
        assert len(index) == 500

    def test_additions_are_idempotent_and_found_at_once(self, tmp_path):
        all_vectors = vectors(600)
        index = EcgIndex.create(tmp_path / "i", {"weights": "w", "model": "m"})
        assert index.add(table(0, 400, all_vectors)) == 400
        index.build_ann(num_partitions=4)
        assert index.add(table(300, 600, all_vectors)) == 200
        assert index.add(table(0, 600, all_vectors)) == 0
        assert len(index) == 600 and index.ids() == {str(i) for i in range(600)}
        assert index.search(all_vectors[599], k=1)["record_id"].tolist() == ["599"]  # not in the codebook yet
        index.optimize()
        again = EcgIndex(tmp_path / "i")
        assert again.search(all_vectors[599], k=1)["record_id"].tolist() == ["599"] and again.has_ann
        assert again.about == {"weights": "w", "model": "m", "disclaimer": DISCLAIMER}

    @pytest.mark.parametrize("quantizer", ["sq", "pq"])
    def test_recall_of_the_approximate_index(self, tmp_path, quantizer):
        """Of all partitions and with all candidates ranked again nothing is lost; of one partition of many, much."""
        all_vectors = vectors(3000)
        index = EcgIndex.create(tmp_path / "i", {"weights": "w"})
        index.add(table(0, 3000, all_vectors))
        with pytest.raises(ValueError, match="256"):
            EcgIndex.create(tmp_path / "small", {}).build_ann()
        index.build_ann(quantizer, num_partitions=30)
        queries = vectors(30, seed=5)
        full = index.measure_recall(queries=queries, nprobes=30, refine_factor=100)
        few = index.measure_recall(queries=queries, nprobes=1)
        assert (full.value, full.k, full.queries) == (1.0, 10, 30)
        assert 0.05 < few.value < 0.7
        assert index.measure_recall(queries=20).queries == 20
        exact = index.search(queries[0], exact=True)["record_id"].tolist()
        assert exact == [str(i) for i in np.argsort(-(all_vectors @ queries[0]))[:10]]

    def test_what_does_not_fit_is_refused(self, tmp_path):
        index = EcgIndex.create(tmp_path / "i", {"weights": "w", "model": "m"})
        with pytest.raises(ValueError, match="is empty"):
            index.search(np.ones(16))
        index.add(table(0, 5, vectors(5)))
        for columns, message in (
            ({"embedding": vectors(1)}, "record_id"),
            (table(0, 2, vectors(2)) | {"record_id": ["a", "a"]}, "differ"),
            (table(0, 2, np.zeros((2, 16), np.float32)), "not zero"),
            (table(0, 1, np.full((1, 16), np.nan, np.float32)), "finite"),
            (table(5, 7, vectors(7, size=8)), "types of the index"),
            ({"record_id": ["x"], "embedding": [vectors(1)[0]]}, "columns of the index"),
            (table(0, 2, vectors(2)) | {"embedding": [np.ones(3), np.ones(4)]}, "same length"),
            (table(0, 2, vectors(2)) | {"embedding": [np.ones(16), None]}, "same length"),
        ):
            with pytest.raises(ValueError, match=message):
                index.add(columns)
        with pytest.raises(ValueError, match="16 numbers"):
            index.search(np.ones(8))
        with pytest.raises(ValueError, match="vectors of the weights 'w'"):
            EcgIndex.create(tmp_path / "i", {"weights": "other"})
        with pytest.raises(FileNotFoundError, match="no index"):
            EcgIndex(tmp_path / "absent")
        assert not (tmp_path / "absent").exists() and len(index) == 5


def test_the_vector_of_a_text_is_that_of_a_prompt(checkpoint):
    model, processor = load_checkpoint(checkpoint)
    expected = embed_prompts(model, processor, ["left bundle", "atrial"]).embeddings[0]
    np.testing.assert_allclose(embed_text(model, processor, " Left  BUNDLE"), expected, atol=1e-6)
    with pytest.raises(ValueError, match="knows none"):
        embed_text(model, processor, "心电图")
    with pytest.warns(UserWarning, match="words that the model does not know.*'心电图, atrial'"):
        embed_text(model, processor, "心电图, atrial")


def test_a_text_without_a_word_that_is_predicted_is_noted(tiny_tokenizer, ecgs, tmp_path, capsys):
    model = build(MeritModel, merit_config(num_words=1))
    model.word_keys[:] = tiny_tokenizer.convert_tokens_to_ids("atrial") + 1
    model.save_pretrained(tmp_path / "model")
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(tmp_path / "model")
    place = str(tmp_path / "i")
    assert main(["index", str(ecgs / "r00.hea"), "--out", place, "--model", str(tmp_path / "model")]) == 0
    capsys.readouterr()
    for text, noted in (("atrial", False), ("xyzzy", True)):
        assert main(["search", place, text, "--json"]) == 0
        streams = capsys.readouterr()
        assert ("no word that the model has learnt to predict" in streams.err) == noted
        assert bool(json.loads(streams.out)["notes"]) == noted


class TestCommands:
    def test_index_and_search(self, checkpoint, ecgs, tmp_path, capsys):
        out = str(tmp_path / "index")
        command = ["index", str(ecgs), "--out", out, "--model", checkpoint]
        assert main([*command, "--pattern", "r0[0-4].hea"]) == 0
        assert "5 ECGs added, 5 in all" in capsys.readouterr().out
        assert main(command) == 0
        assert "7 ECGs added, 12 in all" in capsys.readouterr().out
        assert main(command) == 0
        assert "0 ECGs added, 12 in all" in capsys.readouterr().out

        model, processor = load_checkpoint(checkpoint)
        files = sorted(ecgs.glob("*.hea"))
        own = embed_ecgs(model, processor, [read_ecg(file) for file in files]).numpy()
        text = embed_text(model, processor, "left bundle branch block")
        assert main(["search", out, "left bundle branch block", "-k", "3", "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        order = np.argsort(-(own @ text))
        assert [row["record_id"] for row in result["results"]] == [files[i].name for i in order[:3]]
        assert result["results"][0]["similarity"] == pytest.approx(float((own @ text)[order[0]]), abs=1e-5)
        assert result["disclaimer"] == DISCLAIMER

        assert main(["search", out, "--ecg", str(files[4]), "--where", "age > 53", "-k", "4"]) == 0
        printed = capsys.readouterr().out.splitlines()
        wanted = [i for i in np.argsort(-(own @ own[4])) if i > 3][:4]
        assert [line.split()[2] for line in printed[:4]] == [files[i].name for i in wanted]
        assert printed[0].split()[1:3] == ["+1.000", "r04.hea"] and printed[-1] == DISCLAIMER

    def test_embeddings_and_metadata(self, checkpoint, ecgs, tmp_path, capsys):
        parts, one, out = (str(tmp_path / name) for name in ("parts", "one.parquet", "index"))
        assert main(["embed", str(ecgs), "--model", checkpoint, "--out", parts, "--rows-per-part", "5"]) == 0
        assert main(["embed", str(ecgs), "--model", checkpoint, "--out", one]) == 0
        rows = {
            "name": [f"r{i:02d}" for i in range(12)],
            "report": [f"text {i}" for i in range(12)],
            "rate": range(12),
        }
        pd.DataFrame(rows | {"secret": [f"x{i}" for i in range(12)]}).to_csv(tmp_path / "t.csv", index=False)
        extra = ["--metadata", str(tmp_path / "t.csv"), "--key", "name", "--columns", "report", "rate"]
        assert main(["index", parts, "--out", out, *extra]) == 0
        assert main(["index", one, "--out", out, *extra]) == 0
        assert "0 ECGs added, 12 in all" in capsys.readouterr().out
        index = EcgIndex(out)
        assert {"report", "rate", "age"} <= set(index.columns) and "secret" not in index.columns
        assert main(["search", out, "atrial", "--where", "rate = 7", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["results"]
        assert (row["record_id"], row["report"], row["age"]) == ("r07.hea", "text 7", 57)
        assert main(["index", parts, "--out", str(tmp_path / "other"), *extra[:3], "secret"]) == 2
        assert "none for 'r00.hea'" in capsys.readouterr().err

    def test_keys_of_metadata(self, checkpoint, ecgs, tmp_path, capsys):
        """Keys with leading zeros and blank ones, two rows of a key, two ECGs of a row, columns of the index."""
        folder = tmp_path / "ecgs"
        for place in ("a", "b"):
            (folder / place).mkdir(parents=True)
            for end in (".hea", ".dat"):
                shutil.copy(ecgs / f"r00{end}", folder / place)
        (folder / "b" / "r00.hea").rename(folder / "b" / "00001.hea")
        table = tmp_path / "t.csv"

        def index(text, *options):
            table.write_text(text)
            command = ["index", str(folder), "--out", str(tmp_path / "i"), "--model", checkpoint]
            code = main([*command, "--metadata", str(table), "--key", "key", *options])
            return code, capsys.readouterr()

        twice = index("key,age\nr00,50\n00001,60\n00001,70\n")
        assert twice[0] == 2 and "Expected every key once in t.csv, got '00001' more than once" in twice[1].err
        reserved = index("key,file\nr00,x\n00001,y\n", "--columns", "file")
        assert reserved[0] == 2 and "other than record_id, file, embedding, got file" in reserved[1].err
        code, streams = index("key,age,file\n 00001 ,60,x\nr00,50,y\n,70,z\n")
        assert code == 0 and "2 ECGs added" in streams.out, streams.err
        query = embed_text(*load_checkpoint(checkpoint), "atrial")
        rows = EcgIndex(tmp_path / "i").search(query, k=2, columns=["record_id", "age", "file"])
        assert dict(zip(rows["record_id"], rows["age"])) == {"a/r00.hea": 50, "b/00001.hea": 60}
        assert not set(rows["file"]) & {"x", "y", "z"}
        assert index("key,age\nother,1\n")[0] == 0  # rows of what is there already are not needed again
        (folder / "b" / "00001.hea").rename(folder / "b" / "r00.hea")
        (folder / "a" / "r00.hea").rename(folder / "a" / "r01.hea")
        (folder / "c").mkdir()
        for end in (".hea", ".dat"):
            shutil.copy(ecgs / f"r00{end}", folder / "c")
        both = index("key,age,file\nr00,50,x\nr01,50,x\n")
        assert both[0] == 2 and "got one, 'r00', for both 'b/r00.hea' and 'c/r00.hea'" in both[1].err

    def test_other_ecgs_of_the_same_ids_are_refused(self, checkpoint, ecgs, tmp_path, monkeypatch, capsys):
        for day, name in (("day1", "r00"), ("day2", "r01")):
            (tmp_path / day).mkdir()
            write_ecg(read_ecg(ecgs / f"{name}.hea"), tmp_path / day / "a.npz")
        monkeypatch.chdir(tmp_path)
        for place, sources in (("i", ("day1", "day2")), ("j", ("p1", "p2"))):
            for day, source in zip(("day1", "day2"), sources):
                if place == "j":
                    assert main(["embed", day, "--model", checkpoint, "--out", source]) == 0
            command = ["index", "--out", place, "--model", checkpoint]
            assert main([*command, sources[0]]) == 0
            assert "1 ECG added, 1 in all" in capsys.readouterr().out
            assert main([*command, sources[1]]) == 2
            message = capsys.readouterr().err
            assert f"got 'a.npz' for '{tmp_path}/day1/a.npz', which '{place}' holds" in message
            assert main([*command, sources[0]]) == 0 and "0 ECGs added, 1 in all" in capsys.readouterr().out
        monkeypatch.chdir(tmp_path / "day1")
        assert main(["index", ".", "--out", "../i", "--model", checkpoint]) == 0

    def test_columns_are_compared_before_anything_is_embedded(self, checkpoint, ecgs, tmp_path, monkeypatch, capsys):
        command = ["index", "--model", checkpoint, "--out", str(tmp_path / "i")]
        table, files = tmp_path / "t.csv", [str(ecgs / f"r0{i}.hea") for i in range(3)]
        extra = ["--metadata", str(table), "--key", "key"]
        table.write_text("key,ward\nr00,4\n")
        assert main([*command, files[0], *extra]) == 0
        monkeypatch.setattr(index_command, "embed_sources", lambda *args, **kwargs: pytest.fail("embedded"))
        assert main([*command, files[1]]) == 2
        assert "Expected the columns of the index" in (message := capsys.readouterr().err) and "ward" in message
        table.write_text("key,ward,bed\nr01,4,1\n")
        assert main([*command, files[1], *extra]) == 2
        assert "bed" in capsys.readouterr().err
        table.write_text("key,ward\nr01,north\n")
        assert main([*command, files[1], *extra]) == 2
        assert "types of the index" in capsys.readouterr().err

    def test_embeddings_of_what_is_there_need_no_metadata(self, checkpoint, ecgs, tmp_path, capsys):
        files, table, parts = [str(ecgs / f"r0{i}.hea") for i in range(2)], tmp_path / "t.csv", str(tmp_path / "p")
        command = ["index", "--model", checkpoint, "--out", str(tmp_path / "i"), "--metadata", str(table)]
        table.write_text("key,ward\nr00,4\n")
        assert main([*command, "--key", "key", files[0]]) == 0
        assert main(["embed", *files, "--model", checkpoint, "--out", parts]) == 0
        table.write_text("key,ward\nr01,5\n")
        assert main([*command, "--key", "key", parts]) == 0
        assert "1 ECG added, 2 in all" in capsys.readouterr().out

    def test_windows(self, checkpoint, ecgs, tmp_path, capsys):
        out, file = str(tmp_path / "w.parquet"), str(ecgs / "r00.hea")
        assert main(["embed", file, "--window", "5", "--model", checkpoint, "--out", out]) == 0
        assert main(["index", out, "--out", str(tmp_path / "i")]) == 0
        assert "2 ECGs added, 2 in all" in capsys.readouterr().out
        assert EcgIndex(tmp_path / "i").ids() == {f"{file}@0", f"{file}@5"}

    def test_failures_are_listed(self, checkpoint, ecgs, tmp_path, capsys):
        files = [str(ecgs / "r00.hea"), str(tmp_path / "absent.edf")]
        assert main(["index", *files, "--out", str(tmp_path / "i"), "--model", checkpoint]) == 1
        streams = capsys.readouterr()
        assert "1 ECG added, 1 in all" in streams.out and "absent.edf: There is no file" in streams.err

    def test_refusals(self, checkpoint, ecgs, tmp_path, capsys, report_checkpoint):
        def refusal(*command):
            assert main([str(part) for part in command]) == 2
            return capsys.readouterr().err

        out = tmp_path / "i"
        assert "Expected `--model`" in refusal("index", ecgs, "--out", out)
        assert "no index" in refusal("search", tmp_path / "absent", "atrial")
        assert main(["index", str(ecgs), "--out", str(out), "--model", checkpoint]) == 0
        EcgIndex.create(tmp_path / "python", {"weights": "w"}).add(table(0, 3, vectors(3)))
        assert "Expected --model" in refusal("search", tmp_path / "python", "atrial")
        assert "one of them" in refusal("search", out)
        assert "one of them" in refusal("search", out, "atrial", "--ecg", ecgs / "r00.hea")
        assert "columns record_id, file" in (unknown := refusal("search", out, "atrial", "--where", "weight > 3"))
        assert "sampling_rate" in unknown and "--sampling-rate" not in unknown  # a column, not an option
        assert main(["search", str(out), "atrial", "--where", "age > 900"]) == 0
        assert "No ECG of the index meets the condition" in capsys.readouterr().out
        assert "got weight" in refusal("search", out, "atrial", "--columns", "weight")
        build(MeritModel, merit_config(), seed=1).save_pretrained(tmp_path / "other")
        assert "vectors of the weights" in refusal("search", out, "atrial", "--model", tmp_path / "other")
        assert (
            main(["embed", str(ecgs), "--model", checkpoint, "--out", str(tmp_path / "p"), "--features", "pooled"])
            == 0
        )
        assert "aligned features" in refusal("index", tmp_path / "p", "--out", tmp_path / "j")
        assert (
            main(["embed", str(ecgs), "--model", checkpoint, "--out", str(tmp_path / "a"), "--features", "aligned"])
            == 0
        )
        other = refusal("index", tmp_path / "a", "--out", tmp_path / "j", "--model", tmp_path / "other")
        assert "other weights" in other and not (tmp_path / "j").exists()
