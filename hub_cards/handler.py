"""Handler of Hugging Face Inference Endpoints: ECGs as JSON in, scores, features or reports as JSON out.

`make hub` copies this file into the folder that is published, and Inference Endpoints import it from there. A request:

    {"inputs": {"signal": [[...], ...], "sampling_rate": 500, "leads": ["I", "II"], "units": "mV"},
     "parameters": {"candidate_labels": ["vorhofflimmern", "sinusrhythmus"], "top_k": 2}}

`inputs` may be a list. A file stands as `{"files": {"ecg.hea": BASE64, "ecg.dat": BASE64}}`, with the facts that it
does not state beside it. `parameters` are the arguments of the pipeline; `"task"` chooses one that is not the first of
the checkpoint. Not a medical device.
"""

import base64
import binascii
import re
import tempfile
from pathlib import Path
from typing import Any

from transformers import pipeline

DISCLAIMER = "Research software, not a medical device: not for diagnosis or treatment."
MAX_FILE_BYTES = 64 * 2**20
FACTS = ("sampling_rate", "leads", "units")
PLAIN_NAME = re.compile(r"\w[\w .-]{0,99}")


class EndpointHandler:
    """Answers requests with the pipelines of the checkpoint beside this file.

    Args:
        path (`str`): Folder of the checkpoint.
    """

    def __init__(self, path: str = ""):
        self.path = path or str(Path(__file__).resolve().parent)
        self.pipelines = {None: pipeline(model=self.path, trust_remote_code=True)}

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            data (`dict`): `inputs`, an ECG or a list of them, and `parameters`, arguments of the pipeline.

        Returns:
            `dict`: `task`, `results` (one per ECG, as from the pipeline), `meaning` of a score where one is stated,
            and `disclaimer`.

        Raises:
            ValueError: If an input is no ECG, or a parameter is wrong.
        """
        parameters = dict(data.get("parameters") or {})
        pipe = self.pipeline(parameters.pop("task", None))
        inputs = data.get("inputs")
        ecgs = inputs if isinstance(inputs, list) else [inputs]
        if not ecgs:
            raise ValueError("Expected at least one ECG in `inputs`, got an empty list.")
        with tempfile.TemporaryDirectory() as folder:
            prepared = [prepare(ecg, Path(folder) / str(index)) for index, ecg in enumerate(ecgs)]
            results = [pipe(ecg, **(parameters | facts)) for ecg, facts in prepared]
        answer = {"task": pipe.task, "results": results, "disclaimer": DISCLAIMER}
        meaning = getattr(pipe, "score_meaning", None)
        return answer | ({"meaning": meaning} if meaning else {})

    def pipeline(self, task: str | None) -> Any:
        """Return the pipeline of a task of the checkpoint; the model is loaded once for each task asked for."""
        first = self.pipelines[None]
        known = first.model.config.to_dict().get("custom_pipelines", {})
        if task is None or task == first.task:
            return first
        if task not in known:
            raise ValueError(f"Expected `task` to be one of {', '.join(known)}, got {task!r}.")
        if task not in self.pipelines:
            self.pipelines[task] = pipeline(task, model=self.path, trust_remote_code=True)
        return self.pipelines[task]


def prepare(ecg: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return an ECG of a request as the pipeline takes it, and the facts stated beside a file, written to `folder`."""
    if not isinstance(ecg, dict) or not ({"signal", "files"} & ecg.keys()):
        raise ValueError(
            'Expected an ECG as {"signal": [[...], ...], "sampling_rate": 500, "leads": ["I", ...], "units": "mV"} or '
            f'{{"files": {{"ecg.hea": BASE64, "ecg.dat": BASE64}}}}, got {type(ecg).__name__}.'
        )
    if "signal" in ecg:
        if not isinstance(ecg["signal"], list):
            raise ValueError(f"Expected `signal` as a list of leads, got {type(ecg['signal']).__name__}.")
        return {"signal": ecg["signal"]} | {name: ecg.get(name) for name in FACTS}, {}
    files = ecg["files"]
    if not isinstance(files, dict) or not files:
        raise ValueError("Expected `files` to be a mapping of file name to content in base64.")
    folder.mkdir()
    for name, content in files.items():
        if not PLAIN_NAME.fullmatch(name):
            raise ValueError(f"Expected a plain file name such as 'ecg.hea', got {name[:100]!r}.")
        if not isinstance(content, str) or len(content) > MAX_FILE_BYTES * 4 / 3 + 4:
            raise ValueError(f"Expected the content of {name} in base64, of at most {MAX_FILE_BYTES} bytes.")
        try:
            (folder / name).write_bytes(base64.b64decode(content, validate=True))
        except binascii.Error as error:
            raise ValueError(f"Expected the content of {name} in base64: {error}.") from None
    headers = [name for name in files if name.lower().endswith(".hea")]
    if len(headers or files) != 1:
        raise ValueError(f"Expected one ECG in `files`, got {', '.join(files)}. Send a list of `inputs` for several.")
    facts = {name: ecg[name] for name in FACTS if ecg.get(name) is not None}
    return str(folder / (headers or list(files))[0]), facts
