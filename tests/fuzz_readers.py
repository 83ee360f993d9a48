"""Fuzzer of the ECG readers: damages valid files and counts what a reader must never do.

    python tests/fuzz_readers.py --inputs 100000 --seed 0

A reader may return a record or raise `EcgFormatError`. Counted as faults: another exception or the death of the
process ("crashes"), more than 2 s of processor time ("slow"), and a file cut short that is read without a word: other
samples than the whole file gives, and no note more ("silent cuts"; a text table that ends with a whole line states no
length and is not counted). Input `i` of a format depends on nothing but the seed, the format and `i`, so that
`--format scp --only 1234` repeats one. Every format runs in its own process for the peak of its memory.
"""

import argparse
import base64
import multiprocessing
import random
import re
import resource
import signal
import sys
import time
import warnings
import zipfile
import zlib
from binascii import crc_hqx
from collections import Counter
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from fuzz_seeds import Seed, sample_seeds, scp_bodies, small_seeds
from scp_files import scp_file

from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import FORMATS, EcgFormatError, EcgRecord, read_ecg

STATED = {"matlab": {"sampling_rate": 500.0, "leads": STANDARD_LEADS, "units": "mV"}}
SLOW_S, HANG_S = 2.0, 60
SAMPLE_SHARE = 0.02  # real samples are some fifty times longer than the small files
NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"65535",
    b"2147483647",
    b"4294967296",
    b"1000000000",
    b"1e308",
    b"nan",
    b"inf",
    b"0.0001",
    b"",
]
INTEGERS = [0, 1, 2, 255, 256, 32767, 32768, 65535, 10**9, 2**31 - 1, 2**31, 2**32 - 1]


class Hang(BaseException):
    """Raised by the alarm clock; no `Exception`, so that no reader can take it for a damaged file."""


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Change a few bytes anywhere: flip, overwrite with a notable integer, insert, delete, repeat."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, length = rng.randrange(len(result) + 1), rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(5)
        if kind == 0 and at < len(result):
            result[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(INTEGERS) % 256**size
            result[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
        elif kind == 2:
            result[at:at] = rng.randbytes(length)
        elif kind == 3:
            del result[at : at + length]
        else:
            result[at:at] = result[at : at + length]
    return bytes(result)


def numbers_changed(data: bytes, rng: random.Random) -> bytes:
    """Replace a few of the first numbers in text by notable ones."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:20_000]))
    for match in sorted(rng.sample(found, min(len(found), rng.choice((1, 1, 2, 3)))), key=lambda x: -x.start()):
        data = data[: match.start()] + rng.choice(NUMBERS) + data[match.end() :]
    return data


def xml_changed(data: bytes, rng: random.Random) -> bytes:
    """Remove, repeat or rename an element, change a value or the bytes behind base64."""
    kind = rng.randrange(4)
    if kind == 0:
        return numbers_changed(data, rng)
    if kind == 1:
        blobs = list(re.finditer(rb"[A-Za-z0-9+/]{60,}={0,2}", data))
        if blobs:
            blob = rng.choice(blobs)
            inner = bytes_changed(base64.b64decode(blob[0][: len(blob[0]) // 4 * 4], validate=False), rng)
            crc = str(zlib.crc32(inner)).encode()
            data = data[: blob.start()] + base64.b64encode(inner) + data[blob.end() :]
            return re.sub(rb"(<LeadDataCRC32>)\d+", rb"\g<1>" + crc, data) if rng.random() < 0.5 else data
    elements = list(re.finditer(rb"<(\w+)[^<>]*(/>|>[^<>]*</\1>)", data))
    if not elements:
        return bytes_changed(data, rng)
    element = rng.choice(elements)
    replacement = {1: b"", 2: element[0] * rng.choice((2, 3, 100)), 3: element[0].replace(element[1], b"x")}[kind]
    return data[: element.start()] + replacement + data[element.end() :]


def scp_changed(data: bytes, rng: random.Random) -> bytes:
    """Damage the body of a section, then repair all lengths and checksums."""
    bodies = dict(rng.choice(scp_bodies()))
    number = rng.choice(list(bodies))
    bodies[number] = bytes_changed(bodies[number], rng)
    return scp_file(bodies)


def ishne_changed(data: bytes, rng: random.Random) -> bytes:
    """Damage the header, then repair its checksum."""
    header = bytes_changed(data[10:522], rng)
    return data[:8] + crc_hqx(header, 0xFFFF).to_bytes(2, "little") + header + data[522:]


def npz_changed(data: bytes, rng: random.Random) -> bytes:
    """Damage one array of an archive, then repair the archive."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    members[name] = bytes_changed(members[name][:160], rng) + members[name][160:]
    file = BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


XML = {"aecg", "muse", "sierra", "mortara"}
STRUCTURE = dict.fromkeys(XML, xml_changed) | dict.fromkeys(("edf", "wfdb", "csv"), numbers_changed)
STRUCTURE |= {"scp": scp_changed, "ishne": ishne_changed, "numpy": npz_changed}


def damaged(seed: Seed, other: Seed, name: str, rng: random.Random) -> tuple[Seed, bool]:
    """Return a damaged copy of `seed`, and whether it is nothing but cut short."""
    if isinstance(seed, dict):
        files = dict(seed)
        target = rng.choice(list(files))
        files[target], cut = damaged(files[target], files[target], name, rng)
        return files, cut
    kind = rng.choice(("cut", "bytes", "bytes", "structure", "structure", "splice"))
    if kind == "cut":
        return seed[: rng.randrange(len(seed))], True
    if kind == "structure" and name in STRUCTURE:
        try:
            return STRUCTURE[name](seed, rng), False
        except (zipfile.BadZipFile, ValueError):  # a real sample that is damaged itself
            return bytes_changed(seed, rng), False
    if kind == "splice" and isinstance(other, bytes):
        return seed[: rng.randrange(len(seed))] + other[rng.randrange(len(other)) :], False
    return bytes_changed(seed, rng), False


class FormatFuzzer:
    """Builds and runs the inputs of one format."""

    def __init__(self, name: str, seed: int, folder: Path, samples: bool = True):
        self.name, self.seed, self.folder = name, seed, folder
        self.small = small_seeds()[name]
        self.samples = sample_seeds().get(name, []) if samples else []
        self.whole: dict[int, EcgRecord | None] = {}

    def input(self, i: int) -> tuple[Seed, Seed, bool]:
        """The `i`-th damaged file, the file it was made from, and whether it is nothing but cut short."""
        rng = random.Random(f"{self.seed}/{self.name}/{i}")
        seeds = self.samples if self.samples and rng.random() < SAMPLE_SHARE else self.small
        original = rng.choice(seeds)
        file, cut = damaged(original, rng.choice(self.small), self.name, rng)
        return file, original, cut

    def read(self, file: Seed, i: int) -> EcgRecord:
        """Read a file, every second one with the format found by content."""
        if isinstance(file, bytes):
            return read_ecg(file, format=self.name if i % 2 else None, **STATED.get(self.name, {}))
        for name, content in file.items():
            (self.folder / name).write_bytes(content)
        return read_ecg(self.folder / next(iter(file)))

    def run(self, i: int) -> str:
        """Run one input and return "refused", "read", "silent cut", or "crash" with its exception."""
        file, original, cut = self.input(i)
        try:
            record = self.read(file, i)
        except EcgFormatError:
            return "refused"
        except Exception as error:
            return f"crash: {type(error).__name__}: {error}"[:200]
        detectable = self.name != "csv" or not file.endswith(b"\n")
        return "silent cut" if cut and detectable and not self.same(record, original) else "read"

    def same(self, record: EcgRecord, original: Seed) -> bool:
        """Whether a cut file gave the samples of the whole one, or said in a note that it may be cut."""
        key = id(original)
        if key not in self.whole:
            try:
                self.whole[key] = self.read(original, 1)
            except EcgFormatError:  # a sample that is refused whole
                self.whole[key] = None
        whole = self.whole[key]
        if whole is None:
            return False
        return len(record.notes) > len(whole.notes) or np.array_equal(record.signal, whole.signal, equal_nan=True)


def work(name: str, seed: int, first: int, last: int, samples: bool, position, pipe) -> None:
    """Run inputs in this process and send the counts."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Hang()))
    counts, faults, slowest = Counter(), [], (0.0, -1)
    with TemporaryDirectory() as folder:
        fuzzer = FormatFuzzer(name, seed, Path(folder), samples)
        for original in fuzzer.small:  # import and warm up what the format needs, before the memory is measured
            try:
                fuzzer.read(original, 1)
            except EcgFormatError as error:
                raise AssertionError(f"The undamaged {name} file is refused: {error}") from error
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for i in range(first, last):
            position.value = i
            began = time.process_time()
            signal.alarm(HANG_S)
            try:
                outcome = fuzzer.run(i)
            except Hang:
                outcome = "crash: hang"
            signal.alarm(0)
            seconds = time.process_time() - began
            slowest = max(slowest, (seconds, i))
            kind = outcome.split(":")[0]
            counts[kind] += 1
            counts["slow"] += seconds > SLOW_S
            if kind in ("crash", "silent cut") or seconds > SLOW_S:
                faults.append((i, outcome if seconds <= SLOW_S else f"slow ({seconds:.1f} s): {outcome}"))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    pipe.send((counts, faults, slowest, peak))


def fuzz_format(name: str, seed: int, n_inputs: int, samples: bool = True) -> dict:
    """Run inputs of a format in a process of their own; one that kills the process is counted and left out."""
    context = multiprocessing.get_context("spawn")
    result = {"counts": Counter(), "faults": [], "slowest": (0.0, -1), "peak": 0.0}
    ranges = [(0, n_inputs)]
    while ranges:
        first, last = ranges.pop()
        receiver, sender = context.Pipe(duplex=False)
        position = context.Value("q", -1, lock=False)
        process = context.Process(target=work, args=(name, seed, first, last, samples, position, sender))
        process.start()
        sender.close()
        try:
            counts, faults, slowest, peak = receiver.recv()
        except EOFError:
            process.join()
            died = position.value
            if died < 0:
                raise RuntimeError(f"The process for {name} died before its first input.") from None
            counts, faults = Counter(crash=1), [(died, f"crash: the process died ({process.exitcode})")]
            slowest, peak = (0.0, -1), 0.0
            ranges += [(first, died), (died + 1, last)]
        process.join()
        result["counts"] += counts
        result["faults"] += faults
        result["slowest"] = max(result["slowest"], slowest)
        result["peak"] = max(result["peak"], peak)
    return result


def main() -> int:
    """Run the fuzzer and print a table; the exit code says whether a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="damaged files in all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=list(FORMATS), help="only this format")
    parser.add_argument("--only", type=int, help="run one input of --format in this process and write it to --out")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the input of --only")
    arguments = parser.parse_args()
    if arguments.only is not None:
        with TemporaryDirectory() as folder:
            fuzzer = FormatFuzzer(arguments.format, arguments.seed, Path(folder))
            file = fuzzer.input(arguments.only)[0]
            for name, content in ({"input": file} if isinstance(file, bytes) else file).items():
                (arguments.out / f"{arguments.format}-{arguments.only}-{name}").write_bytes(content)
            print(outcome := fuzzer.run(arguments.only))
            if outcome.startswith("crash"):
                fuzzer.read(file, arguments.only)  # for the traceback
        return 0
    names = [arguments.format] if arguments.format else list(FORMATS)
    header = ("format", "inputs", "refused", "read", "crashes", "slow", "silent cuts", "slowest", "peak memory")
    print("{:10}{:>8}{:>9}{:>8}{:>9}{:>6}{:>13}{:>10}{:>13}".format(*header), flush=True)
    total, faults = Counter(), []
    for k, name in enumerate(names):
        n_inputs = (k + 1) * arguments.inputs // len(names) - k * arguments.inputs // len(names)
        result = fuzz_format(name, arguments.seed, n_inputs)
        counts = result["counts"]
        total += counts
        faults += [(name, *fault) for fault in result["faults"]]
        numbers = [counts[kind] for kind in ("refused", "read", "crash", "slow", "silent cut")]
        line = "{:10}{:8}{:9}{:8}{:9}{:6}{:13}".format(name, n_inputs, *numbers)
        print(f"{line}{result['slowest'][0]:8.2f} s{result['peak']:9.0f} MiB", flush=True)
    numbers = [total[kind] for kind in ("refused", "read", "crash", "slow", "silent cut")]
    print("{:10}{:8}{:9}{:8}{:9}{:6}{:13}".format("all", arguments.inputs, *numbers))
    for name, i, what in faults[:200]:
        print(f"--seed {arguments.seed} --format {name} --only {i}: {what}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
