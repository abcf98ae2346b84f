# SPDX-License-Identifier: Apache-2.0
"""Programs that run to their end: what they said, and how they ended."""
import subprocess


def outcome(*argv, **more):
    """Its exit status, and what it said on both ways out."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )
    return {"status": done.returncode, "output": done.stdout}


def output(*argv, **more):
    """What it said; RuntimeError with that when it failed."""
    done = outcome(*argv, **more)
    if done["status"]:
        raise RuntimeError(f"{argv[0]}: status {done['status']}:\n{done['output']}")
    return done["output"]
