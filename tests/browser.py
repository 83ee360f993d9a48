"""A headless Chromium for the tests, driven over a pipe with the Chrome DevTools Protocol; no driver is needed."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("MERIT_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
"""Program to run: $MERIT_CHROMIUM, else the first of the usual names on the path; `None` if there is none."""

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--remote-debugging-pipe"),
)


class Browser:
    """One page in a window of a given size; close it by leaving the `with` block."""

    def __init__(self, url: str, width: int = 1280, height: int = 900, mobile: bool = False):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (child_in, parent_out), (parent_in, child_out) = os.pipe(), os.pipe()
        inherited = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (child_in, child_out)]

        def give_pipes():
            os.dup2(inherited[0], 3)
            os.dup2(inherited[1], 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={self.profile.name}", "about:blank"],
            preexec_fn=give_pipes,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        for fd in (child_in, child_out, *inherited):
            os.close(fd)
        self.commands, self.answers = os.fdopen(parent_out, "wb", buffering=0), os.fdopen(parent_in, "rb")
        self.count, self.session = 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: Any) -> None:
        self.process.kill()
        self.process.wait()
        self.commands.close()
        self.answers.close()
        self.profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are dropped."""
        self.count += 1
        command: dict[str, Any] = {"id": self.count, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        self.commands.write(json.dumps(command).encode() + b"\0")
        while True:
            content = json.loads(self.message())
            if content.get("id") == self.count:
                assert "error" not in content, content
                return content["result"]

    def message(self) -> bytes:
        """Return the next message, up to the zero byte that ends it."""
        found = bytearray()
        while not found.endswith(b"\0"):
            waiting = self.answers.peek()
            assert waiting, "the browser stopped"
            found += self.answers.read(waiting.find(b"\0") + 1 or len(waiting))
        return bytes(found[:-1])

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = 180) -> Any:
        """Return the value of an expression once it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.evaluate(expression):
                return value
            time.sleep(0.2)
        raise TimeoutError(f"{expression} in {self.evaluate('document.body.innerText')[:2000]}")

    def upload(self, *files: str, selector: str = "input[type=file]") -> None:
        """Choose files in the first file field of the page."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=field, files=list(files))

    def click(self, text: str) -> None:
        """Click the last button or tab with this text; before it may stand a copy with which Gradio measures tabs."""
        found = f"[...document.querySelectorAll('button')].findLast(b => b.innerText.trim() === {json.dumps(text)})"
        self.wait(f"!!{found}")
        self.evaluate(f"{found}.click()")

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Save what the window shows, or the whole page, as PNG."""
        part: dict[str, Any] = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            part = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True}
        shot = self.call("Page.captureScreenshot", format="png", **part)
        path.write_bytes(base64.b64decode(shot["data"]))
