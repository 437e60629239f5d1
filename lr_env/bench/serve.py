"""Runs as a peer's process: answers requests through the class `Side` of a script.

`python serve.py SCRIPT [CORE ...]`. Requests come as lines of JSON on standard input, and each is answered by one on
standard output. "start" makes a `Side` with the arguments that follow it, and answers with what its `describe` returns;
every other request calls the method of its name. This file knows nothing of lr_env, which the environments of peers do
not have. See `lr_env.bench.peer_process` for the other side.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from typing import Any


def load_script(path: str) -> Any:
    """Import a script by its path; its folder is not searched for modules, since names there mean something else."""
    spec = importlib.util.spec_from_file_location("side", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["side"] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever packages print must not come between the answers
    script, *cores = sys.argv[1:]
    if cores:  # before the script imports what counts the cores and starts threads
        os.sched_setaffinity(0, map(int, cores))
    make_side = load_script(script).Side
    side: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        kind = request.pop("do")
        try:
            if kind == "start":
                side = make_side(**request)
                answer = side.describe()
            elif side is None:
                raise RuntimeError("not started")
            else:
                answer = getattr(side, kind)(**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
