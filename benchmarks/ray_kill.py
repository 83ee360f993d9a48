"""Kill the actors of a Ray embedding job, then the job itself, start it again, and count the records.

    python benchmarks/ray_kill.py SOURCE --model hub_cards/merit-ecg --output results/benchmarks/ray_kill.json

`examples/embed_with_ray.py` embeds SOURCE. Whenever another part is written, a process of Ray that runs an actor is
ended with SIGKILL, `--kills` times; then the job itself, with all its processes. The job is started again and runs to
its end, once more after that to show that nothing is left to do. Records in must be the ids of the rows out, none
twice. The log says when what was killed. Linux only (/proc).
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from modeling_merit.processing.batch_embedding import PartFolder
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.record_sources import list_sources

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "embed_with_ray.py"


def processes():
    """Return parent and command line of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(path.name)] = (
                parent,
                (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"),
            )
        except OSError:  # ended meanwhile
            continue
    return found


def below(root):
    """Return the command lines of the processes that descend from one, by number."""
    table, found, queue = processes(), {}, [root]
    while queue:
        parent = queue.pop()
        children = [number for number, (its_parent, _) in table.items() if its_parent == parent]
        found |= {number: table[number][1] for number in children}
        queue += children
    return found


def actors(root):
    return [
        number for number, command in below(root).items() if re.match(r"ray::.*(MapWorker|_UnitEmbedder)", command)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="As of embed_with_ray.py.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", default="runs/ray_kill", help="Folder for the parts; must be new.")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/ray_kill.json"))
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows_per_part", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="Of the choice among the actors.")
    args = parser.parse_args()
    origin, chance = provenance(seed=args.seed), random.Random(args.seed)
    wanted = [source.record_id for source in list_sources([args.source])]
    folder = PartFolder(args.out)
    Path(args.out).mkdir(parents=True)
    command = [sys.executable, str(SCRIPT), args.source, "--model", args.model, "--out", args.out]
    command += ["--workers", str(args.workers), "--rows_per_part", str(args.rows_per_part)]
    begun, log = time.monotonic(), []

    def note(event, **more):
        log.append(
            {"seconds": round(time.monotonic() - begun, 1), "event": event, "parts": len(folder.parts()), **more}
        )
        print(log[-1], flush=True)

    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    note("job started", pid=job.pid)
    seen = 0
    for _ in range(args.kills):
        while len(folder.parts()) <= seen or not actors(job.pid):
            if job.poll() is not None:
                raise SystemExit(f"The job ended before the kills did. Use more records.\n{job.stderr.read()[-2000:]}")
            time.sleep(0.02)
        seen = len(folder.parts())
        victim = chance.choice(actors(job.pid))
        os.kill(victim, signal.SIGKILL)
        note("actor killed", pid=victim)
    while len(folder.parts()) <= seen:
        if job.poll() is not None:
            raise SystemExit(f"The job ended before it was killed. Use more records.\n{job.stderr.read()[-2000:]}")
        time.sleep(0.02)
    rest = below(job.pid)
    job.kill()
    job.wait()
    for number in rest:  # Ray ends them, but later
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    kept = folder.ids()
    note("job killed", pid=job.pid, records=len(kept))
    outputs = []
    for event in ("job started again", "job started once more"):
        note(event)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        outputs.append(done.stdout.splitlines()[0].rpartition(": ")[2])
        note("job ended", said=outputs[-1])
    rows = Counter(record_id for table in folder.tables(["record_id"]) for record_id in table.column(0).to_pylist())
    failed = sum(table["error"].length() - table["error"].null_count for table in folder.tables(["error"]))
    found = {
        "records_in": len(wanted),
        "rows_out": rows.total(),
        "distinct_ids_out": len(rows),
        "lost": len(set(wanted) - rows.keys()),
        "duplicated": sum(count - 1 for count in rows.values()),
        "failed": failed,
        "actors_killed": args.kills,
        "records_kept_at_the_kill_of_the_job": len(kept),
        "restarted": outputs[0],
        "once_more": outputs[1],
    }
    write_json(args.output, {**found, "log": log, "disclaimer": DISCLAIMER, **origin})
    print(found)
    if found["lost"] or found["duplicated"] or rows.total() != len(wanted):
        raise SystemExit("Records in are not records out.")


if __name__ == "__main__":
    main()
