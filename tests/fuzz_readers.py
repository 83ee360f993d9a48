"""Fuzzer of the ECG readers: damages valid files and counts what a reader must never do.

    nice -n 15 python tests/fuzz_readers.py --inputs 200000 --seed 0

A reader may return a record or raise `EcgFormatError`, within a budget: for a file of n bytes, 2 s and 50 ns times n
of processor time, 300 MB and 40 n of memory. Counted as faults: another exception or the death of the process
("crashes"); more time or memory than that ("slow", "large"); and what is read without a word though it is not what
the whole file says ("silent"): a file cut short that gives other samples and no note more (a text table that ends with
a whole line states no length and is not counted), or a file that was only compressed, or written in another encoding
or with other line ends, and gives another signal, rate or lead.

Input `i` of a format depends on nothing but the seed, the format and `i`, so that `--format scp --only 1234` repeats
one. Every format runs in its own process; the peak of memory is that of one input.
"""

import argparse
import base64
import bz2
import gzip
import lzma
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
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
from fuzz_seeds import Seed, sample_seeds, scp_bodies, small_seeds
from scp_files import scp_file

from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.readers import FORMATS, EcgFormatError, EcgRecord, read_ecg

STATED = {"matlab": {"sampling_rate": 500.0, "leads": STANDARD_LEADS, "units": "mV"}}
SLOW_S, SLOW_S_PER_BYTE, HANG_S = 2.0, 50e-9, 60
LARGE_BYTES, LARGE_BYTES_PER_BYTE = 300e6, 40
ADDRESS_SPACE = 6 * 2**30  # of a process, so that the machine outlives what is found
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
    """Damage one array of an archive, or put a packed mass of zeros in its place, then repair the archive."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    if rng.random() < 0.004:
        members[name] = npy(np.zeros((2, rng.choice((10**6, 4 * 10**7))), np.int8))
    elif rng.random() < 0.3:
        members[name] = npy(np.array(rng.choice(VALUES)))
    else:
        members[name] = bytes_changed(members[name][:160], rng) + members[name][160:]
    return zipped(members, method)


VALUES = [np.nan, -1, 0, 1e300, "", "µV", "V\x85", "\x1b[2J", [], [[1.0]], True, 1j, b"x", ["I", "II"], 10**18]


def npy(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def matlab_changed(data: bytes, rng: random.Random) -> bytes:
    """Write the array again with other filters, pieces, type or shape; or damage what a compressed variable holds."""
    if data.startswith(b"\x89HDF"):
        with h5py.File(BytesIO(data)) as file:
            array = file["tracings"][:]
        dtype = rng.choice(("f4", "f8", "i2", "i1", "u4", "S4", "f2"))
        array = array.astype(dtype) if rng.random() < 0.5 else array
        array = (
            array if rng.random() < 0.7 else rng.choice((array[0], array[:, :0], array[..., :1], array.swapaxes(1, 2)))
        )
        facts = {"compression": rng.choice((None, "gzip", "lzf")), "shuffle": rng.random() < 0.5}
        facts["fletcher32"] = rng.random() < 0.3
        if array.size:
            facts["chunks"] = tuple(rng.choice((1, max(1, length // 2), length)) for length in array.shape)
        else:
            facts = {}
        if rng.random() < 0.03:
            array = np.zeros((1, rng.choice((10**5, 10**6)), 12), "i1")
            facts |= {"compression": "gzip", "chunks": (1, *array.shape[1:])}
        out = BytesIO()
        with h5py.File(out, "w") as file:
            file.create_dataset("tracings", data=array, **facts)
        return out.getvalue() if rng.random() < 0.3 else bytes_changed(out.getvalue(), rng)
    if int.from_bytes(data[128:132], "little") != 15:
        return bytes_changed(data, rng)
    inner = bytearray(bytes_changed(zlib.decompress(data[136:]), rng))
    if rng.random() < 0.1:
        at = 8 * rng.randrange(1, len(inner) // 8)
        inner[at:at] = inner[at : at + 8] * rng.choice((10, 1000, 10**5))
    packed = zlib.compress(bytes(inner))
    return data[:132] + len(packed).to_bytes(4, "little") + packed


def dicom_changed(data: bytes, rng: random.Random) -> bytes:
    """Change the value of an element, its length or its type; or repeat a piece that begins like an element."""
    tags = [found.start() for found in re.finditer(rb"[\x3a\x54\x08\x10\x40]\x00..[A-Z]{2}", data, re.DOTALL)]
    items = [found.start() for found in re.finditer(rb"\xfe\xff\x00\xe0", data)]
    at = rng.choice(tags or [132])
    kind = rng.randrange(4)
    if kind == 0:
        return data[: at + 4] + rng.choice((b"SQ", b"UN", b"OW", b"DS", b"IS", b"US", b"FD", b"LO")) + data[at + 6 :]
    if kind == 1:
        return data[: at + 6] + rng.choice(INTEGERS).to_bytes(4, "little") + data[at + 10 :]
    if kind == 2 and items:
        start = rng.choice(items)
        return (
            data[:start] + data[start : start + rng.choice((8, 8, 64, 300))] * rng.choice((2, 50, 5000)) + data[start:]
        )
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    value = rng.choice(NUMBERS + [b" ", b"\\", b"1\\2", b"\xff\xff", b"\x85"])[:length].ljust(length)
    return data[: at + 8] + value + data[at + 8 + length :]


def repeated(data: bytes, rng: random.Random) -> bytes:
    """Repeat a piece many times."""
    at, length = rng.randrange(len(data)), rng.choice((1, 8, 20, 64, 300))
    return data[:at] + data[at : at + length] * rng.choice((100, 1000, 10_000 // length * 10 + 1)) + data[at:]


COMPRESSIONS: list[Callable[[bytes], bytes]] = [
    lambda data: gzip.compress(data, 1),
    bz2.compress,
    lambda data: lzma.compress(data, preset=0),
    lambda data: zipped({"ecg": data}),
    lambda data: zipped({"__MACOSX/._ecg": b"x", "a/ecg": data}),
]
TEXT = {"aecg", "muse", "sierra", "mortara", "csv", "json"}


def rewritten(data: bytes, name: str, rng: random.Random) -> bytes:
    """Compress a file, or write a text in another encoding or with other line ends: what it says stays the same."""
    if name in TEXT and rng.random() < 0.5:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return rng.choice(COMPRESSIONS)(data)
        if not text.startswith("<?xml") and rng.random() < 0.5:
            return text.encode(rng.choice(("utf-16", "utf-8-sig")))
        return text.replace("\r\n", "\n").replace("\n", "\r\n").encode()
    return rng.choice(COMPRESSIONS)(data)


XML = {"aecg", "muse", "sierra", "mortara"}
STRUCTURE = dict.fromkeys(XML, xml_changed) | dict.fromkeys(("edf", "wfdb", "csv"), numbers_changed)
STRUCTURE |= {"scp": scp_changed, "ishne": ishne_changed, "numpy": npz_changed}
STRUCTURE |= {"matlab": matlab_changed, "dicom": dicom_changed}


def damaged(seed: Seed, other: Seed, name: str, rng: random.Random) -> tuple[Seed, str]:
    """Return a changed copy of `seed`, and whether it is nothing but `"cut"`, says the `"same"` or is `"other"`."""
    if isinstance(seed, dict):
        files = dict(seed)
        target = rng.choice(list(files))
        files[target], cut = damaged(files[target], files[target], name, rng)
        return files, cut
    kind = rng.choice(("cut", "bytes", "bytes", "structure", "structure", "structure", "splice", "repeat", "rewrite"))
    if kind == "cut":
        return seed[: rng.randrange(len(seed))], "cut"
    if kind == "rewrite" and name != "wfdb":
        file = rewritten(seed, name, rng)
        cut = rng.random()
        if cut < 0.2:
            return file[: rng.randrange(1, len(file))], "cut"
        return (bytes_changed(file, rng), "other") if cut < 0.4 else (file, "same")
    if kind == "structure" and name in STRUCTURE:
        try:
            return STRUCTURE[name](seed, rng), "other"
        except (zipfile.BadZipFile, ValueError, zlib.error, TypeError):  # a real sample that is damaged itself
            return bytes_changed(seed, rng), "other"
    if kind == "splice" and isinstance(other, bytes):
        return seed[: rng.randrange(len(seed))] + other[rng.randrange(len(other)) :], "other"
    return (repeated if kind == "repeat" else bytes_changed)(seed, rng), "other"


def peak_memory(reset: bool = False) -> int:
    """Largest memory of this process in bytes since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1])


class FormatFuzzer:
    """Builds and runs the inputs of one format."""

    def __init__(self, name: str, seed: int, folder: Path, samples: bool = True):
        self.name, self.seed, self.folder = name, seed, folder
        self.small = small_seeds()[name]
        self.samples = sample_seeds().get(name, []) if samples else []
        self.whole: dict[int, EcgRecord | None] = {}
        self.size, self.memory, self.began = 0, 0, 0.0  # of the input that is read: bytes, memory before, time before

    def input(self, i: int) -> tuple[Seed, Seed, str]:
        """The `i`-th changed file, the file it was made from, and the kind of change, as `damaged` gives it."""
        rng = random.Random(f"{self.seed}/{self.name}/{i}")
        seeds = self.samples if self.samples and rng.random() < SAMPLE_SHARE else self.small
        original = rng.choice(seeds)
        file, kind = damaged(original, rng.choice(self.small), self.name, rng)
        return file, original, kind

    def read(self, file: Seed, i: int) -> EcgRecord:
        """Read a file, every second one with the format found by content."""
        if isinstance(file, bytes):
            return read_ecg(file, format=self.name if i % 2 else None, **STATED.get(self.name, {}))
        for name, content in file.items():
            (self.folder / name).write_bytes(content)
        return read_ecg(self.folder / next(iter(file)))

    def run(self, i: int) -> str:
        """Run one input and return "refused", "read", "silent" with the kind, or "crash" with its exception."""
        file, original, kind = self.input(i)
        self.size = len(file) if isinstance(file, bytes) else sum(map(len, file.values()))
        self.memory, self.began = peak_memory(reset=True), time.process_time()
        try:
            record = self.read(file, i)
        except EcgFormatError as error:
            text = str(error)
            is_bad = len(text) > 700 or not text.isprintable()
            return f"crash: a message of {len(text)} characters: {text[:60]!r}" if is_bad else "refused"
        except Exception as error:
            return f"crash: {type(error).__name__}: {error}"[:200]
        detectable = self.name != "csv" or not file.endswith(b"\n")
        is_silent = kind == "same" or (kind == "cut" and detectable)
        return f"silent: {kind}" if is_silent and not self.same(record, original, kind) else "read"

    def same(self, record: EcgRecord, original: Seed, kind: str) -> bool:
        """Whether a file gave the samples of the original, or, if it is cut, said in a note that it may be cut."""
        key = id(original)
        if key not in self.whole:
            try:
                self.whole[key] = self.read(original, 1)
            except EcgFormatError:  # a sample that is refused whole
                self.whole[key] = None
        whole = self.whole[key]
        if whole is None:
            return False
        is_equal = np.array_equal(record.signal, whole.signal, equal_nan=True)
        if kind == "same":
            return is_equal and (record.leads, record.sampling_rate) == (whole.leads, whole.sampling_rate)
        return is_equal or len(record.notes) > len(whole.notes)


def work(name: str, seed: int, first: int, last: int, samples: bool, position, pipe) -> None:
    """Run inputs in this process and send the counts."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Hang()))
    counts, faults, slowest, peak = Counter(), [], (0.0, -1), 0.0
    with TemporaryDirectory() as folder:
        fuzzer = FormatFuzzer(name, seed, Path(folder), samples)
        for original in fuzzer.small:  # import and warm up what the format needs, before the memory is measured
            try:
                fuzzer.read(original, 1)
            except EcgFormatError as error:
                raise AssertionError(f"The undamaged {name} file is refused: {error}") from error
        for i in range(first, last):
            position.value = i
            signal.alarm(HANG_S)
            try:
                outcome = fuzzer.run(i)
            except Hang:
                outcome = "crash: hang"
            signal.alarm(0)
            seconds, used = time.process_time() - fuzzer.began, peak_memory() - fuzzer.memory
            slowest, peak = max(slowest, (seconds, i)), max(peak, used)
            kind = outcome.split(":")[0]
            counts[kind] += 1
            is_slow = seconds > SLOW_S + SLOW_S_PER_BYTE * fuzzer.size
            is_large = used > LARGE_BYTES + LARGE_BYTES_PER_BYTE * fuzzer.size
            counts["slow"] += is_slow
            counts["large"] += is_large
            if kind in ("crash", "silent") or is_slow or is_large:
                faults.append((i, f"{outcome} ({seconds:.1f} s, {used / 1e6:.0f} MB for {fuzzer.size} bytes)"))
    pipe.send((counts, faults, slowest, peak / 1e6))


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
    columns = ("refused", "read", "crash", "slow", "large", "silent")
    print(
        f"{'format':10}{'inputs':>8}" + "".join(f"{name:>9}" for name in columns) + "  slowest  peak memory",
        flush=True,
    )
    total, faults = Counter(), []
    for k, name in enumerate(names):
        n_inputs = (k + 1) * arguments.inputs // len(names) - k * arguments.inputs // len(names)
        result = fuzz_format(name, arguments.seed, n_inputs)
        counts = result["counts"]
        total += counts
        faults += [(name, *fault) for fault in result["faults"]]
        print(f"{name:10}{n_inputs:8}" + "".join(f"{counts[column]:9}" for column in columns), end="")
        print(f"{result['slowest'][0]:7.2f} s{result['peak']:10.0f} MB", flush=True)
        for i, what in result["faults"][:20]:
            print(f"  --seed {arguments.seed} --format {name} --only {i}: {what}", flush=True)
    print(f"{'all':10}{arguments.inputs:8}" + "".join(f"{total[column]:9}" for column in columns))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
