"""Kill a pre-training run at random moments, resume it, and compare what it ends with with an unbroken run.

    python examples/kill_and_resume.py --kills 48 --output results/kill_experiment.json

Every run is `examples/pretrain.py` on synthetic ECGs with a checkpoint after every step, in a process forked from
this one (nothing is imported anew). Half of the kills (SIGKILL) come at a random moment of the training, half at a
random moment after a save has begun. After each, `--resume_from_checkpoint latest` must end with the weights of the
unbroken run, bit by bit, the same optimiser and random states and the same log. Then the same after SIGTERM, Ctrl-C, a
full disk (files cannot grow beyond a limit), a flipped bit and a missing random state.
"""

import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from modeling_merit.configuration_merit import SIZES
from modeling_merit.processing.benchmark.options import option_parser
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.training.checkpoints import read_state, saved_checkpoints
from modeling_merit.processing.training.pairs import EcgReportPairs  # noqa: F401  imported before the forks
from modeling_merit.processing.training.run import train  # noqa: F401

PRETRAIN = Path(__file__).resolve().parent / "pretrain.py"
SMALL = {"ecg_config": (8, [8, 16], [1, 1]), "decoder": (32, 1), "text_config": (32, 1, 2)}
RUN = ["--dataset", "synthetic", "--num_records", "60", "--batch_size", "16", "--vocab_size", "200", "--seed", "0"]
RUN += ["--size", "tiny", "--crop_seconds", "2", "--checkpointing_steps", "1", "--mixed_precision", "no"]
STEPS = 6


def parse_args():
    parser = option_parser(__doc__, seed={"help": "Seed of the moments of the kills."}, output={"default": None})
    parser.add_argument("--kills", type=int, default=40, help="SIGKILLs, half of them during a save.")
    parser.add_argument("--steps", type=int, default=STEPS, help="Optimiser steps of a run.")
    return parser.parse_args()


def begin(folder, steps, *options, file_limit=None):
    """Return the process id of a new run in a folder; what it prints goes to `log.txt` beside it."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(folder.with_suffix(".txt"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["ACCELERATE_USE_CPU"] = "true"
        torch.set_num_threads(1)
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        SIZES["tiny"] = SMALL
        sys.argv = [str(PRETRAIN), *RUN, "--max_train_steps", str(steps), "--output_dir", str(folder), *options]
        runpy.run_path(str(PRETRAIN), run_name="pretrain")["main"]()
        status = 0
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
        status = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)


def end(child):
    """Return the exit status of a run when it is over, negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def printed(folder):
    return folder.with_suffix(".txt").read_text(errors="replace").replace(f"{folder.parent}/", "")


def partials(folder):
    return list((folder / "checkpoints").glob("*.partial"))


def last_step(folder):
    """Return the step of the last line of the log, 0 before the first."""
    log = folder / "train_log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else len(lines)


def differences(folder, whole):
    """Return in what a run ended otherwise than the unbroken one: best model, last checkpoint, log, curves."""
    a, b = newest(folder), newest(whole)
    found = []
    for ours, theirs in ((folder, whole), (a, b)):
        ours, theirs = (load_file(run / "model.safetensors") for run in (ours, theirs))
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
            found.append("weights")
    ours, theirs = (torch.load(checkpoint / "optimizer.bin", weights_only=True) for checkpoint in (a, b))
    for number, state in theirs["state"].items():
        if not all(torch.equal(ours["state"][number][key], state[key]) for key in state):
            found.append("moments of the optimiser")
    if (a / "random_states_0.pkl").read_bytes() != (b / "random_states_0.pkl").read_bytes():
        found.append("random states")
    if read_state(a) != read_state(b):
        found.append("state")
    if (folder / "train_log.jsonl").read_bytes() != (whole / "train_log.jsonl").read_bytes():
        found.append("train_log.jsonl")
    curves = [json.loads((run / "pretraining_results.json").read_text())["curves"] for run in (folder, whole)]
    return found + ([] if curves[0] == curves[1] else ["curves"])


def resume(folder, whole, steps):
    """Resume a run to its end; return how that went."""
    options = ["--resume_from_checkpoint", "latest"]
    if not saved_checkpoints(folder):
        options = ["--overwrite_output_dir"]  # killed before the first checkpoint stood: there is nothing to resume
    status = end(begin(folder, steps, *options))
    outcome = {"resumed": options[0] == "--resume_from_checkpoint", "exit": status}
    outcome["passed_over"] = printed(folder).count("Passed over")
    if status:
        return outcome | {"equal": False, "printed": printed(folder)[-1000:]}
    found = differences(folder, whole)
    return outcome | {"equal": not found} | ({"differences": found} if found else {})


def wait_until(child, folder, reached):
    """Wait for a moment of a running process."""
    while not reached():
        if os.waitpid(child, os.WNOHANG)[0]:
            raise SystemExit(f"The run ended before the moment to kill it: {printed(folder)[-500:]}")
        time.sleep(0.0005)


def kill(folder, steps, during_save, step_seconds, rng):
    """Start a run and kill it at a random moment; return where it was, `None` if it had ended."""
    child, number = begin(folder, steps), rng.randrange(steps - 1)
    if during_save:
        partial = folder / "checkpoints" / f"checkpoint_{number}.partial"
        wait_until(child, folder, partial.exists)
        time.sleep(rng.uniform(0, step_seconds / 4))
    else:
        wait_until(child, folder, lambda: last_step(folder) >= number)
        time.sleep(rng.uniform(0, step_seconds))
    os.kill(child, signal.SIGKILL)
    if end(child) != -signal.SIGKILL:
        return None
    return {"within_save": bool(partials(folder)), "last_logged_step": last_step(folder)}


def interrupt(folder, steps, number):
    """Send a signal after the second step; return how the run ended."""
    child = begin(folder, steps)
    wait_until(child, folder, lambda: last_step(folder) >= 2)
    os.kill(child, number)
    return {
        "exit": end(child),
        "last_logged_step": last_step(folder),
        "saved_step": read_state(newest(folder))["step"],
    }


def newest(folder):
    return saved_checkpoints(folder)[-1]


def fill_disk(folder, steps):
    """Resume a stopped run in which no file may grow beyond half of the optimiser's; return how that ended."""
    interrupt(folder, steps, signal.SIGTERM)
    limit = (newest(folder) / "optimizer.bin").stat().st_size // 2
    status = end(begin(folder, steps, "--resume_from_checkpoint", "latest", file_limit=limit))
    return {
        "exit": status,
        "printed": re.findall("The checkpoint of.*", printed(folder)),
        "partial_left": bool(partials(folder)),
    }


def flip_bit(folder, steps):
    interrupt(folder, steps, signal.SIGTERM)
    path = newest(folder) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    return {"damaged": path.parent.name}


def lose_random_state(folder, steps):
    interrupt(folder, steps, signal.SIGTERM)
    path = newest(folder) / "random_states_0.pkl"
    path.unlink()
    return {"damaged": path.parent.name}


FAULTS = {
    "SIGTERM": lambda folder, steps: interrupt(folder, steps, signal.SIGTERM),
    "Ctrl-C": lambda folder, steps: interrupt(folder, steps, signal.SIGINT),
    "full disk": fill_disk,
    "flipped bit": flip_bit,
    "missing random state": lose_random_state,
}


def main():
    args = parse_args()
    origin, rng, started = provenance(args.seed), random.Random(args.seed), time.perf_counter()
    kills, faults = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.environ.setdefault("HF_DATASETS_CACHE", str(root / "cache"))
        whole = root / "whole"
        for _ in range(2):  # the first run makes the data set
            shutil.rmtree(whole, ignore_errors=True)
            began = time.perf_counter()
            if status := end(begin(whole, args.steps)):
                raise SystemExit(f"The unbroken run ended with {status}: {printed(whole)[-1000:]}")
            duration = time.perf_counter() - began
        results = json.loads((whole / "pretraining_results.json").read_text())
        if results["best_validation_loss"] != results["curves"][-1]["validation"]["loss"]:
            raise SystemExit("Expected the last step to be the best: its weights are compared. Use more --steps.")
        step_seconds = results["seconds"] / args.steps
        print(f"An unbroken run: {duration:.1f} s, {step_seconds:.2f} s per step.", flush=True)
        while len(kills) < args.kills:
            folder = root / "run"
            outcome = kill(folder, args.steps, len(kills) % 2 == 1, step_seconds, rng)
            if outcome:
                kills.append(outcome | resume(folder, whole, args.steps))
                print(f"kill {len(kills)}: {kills[-1]}", flush=True)
            shutil.rmtree(folder)
        for name, fault in FAULTS.items():
            folder = root / "fault"
            outcome = fault(folder, args.steps)
            faults[name] = outcome | {"resume": resume(folder, whole, args.steps)}
            print(f"{name}: {faults[name]}", flush=True)
            shutil.rmtree(folder)
    summary = {
        "kills": len(kills),
        "kills_within_a_save": sum(outcome["within_save"] for outcome in kills),
        "resumed_from_a_checkpoint": sum(outcome["resumed"] for outcome in kills),
        "ended_equal_to_the_unbroken_run": sum(outcome["equal"] for outcome in kills),
        "seconds": round(time.perf_counter() - started),
    }
    print(summary)
    if args.output:
        about = origin | {"steps": args.steps, "step_seconds": step_seconds, **summary}
        write_json(args.output, about | {"faults": faults, "log": kills})
    if not all(outcome["equal"] for outcome in (*kills, *(fault["resume"] for fault in faults.values()))):
        raise SystemExit("A resumed run did not end as the unbroken one.")


if __name__ == "__main__":
    main()
