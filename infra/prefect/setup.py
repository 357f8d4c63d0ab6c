"""Makes what the stack needs, once or again: the bucket, the work pool, the deployments of prefect.yaml."""

import os
import subprocess
import sys

import boto3
from botocore.exceptions import ClientError

POOL = "capfilt"


def ensure_bucket(name: str) -> None:
    """Create the bucket unless it is there."""
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    try:
        client.head_bucket(Bucket=name)
    except ClientError:
        client.create_bucket(Bucket=name)


def prefect(*arguments: str) -> int:
    """Run one prefect command without questions."""
    return subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", *arguments], check=False).returncode


def main() -> int:
    """Set everything up; the exit code says whether all is there."""
    ensure_bucket(os.environ["CAPFILT_BUCKET"])
    prefect("work-pool", "create", "--type", "process", POOL, "--overwrite")
    return prefect("deploy", "--all")


if __name__ == "__main__":
    sys.exit(main())
