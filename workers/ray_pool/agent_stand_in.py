"""Stands in for the agents that Ray insists on beside a raylet: a program that imports nothing of Ray and only waits.

`python -IS agent_stand_in.py SCRIPT …`, with the options that `SCRIPT`, Ray's own agent, would get. A local fleet has
no dashboard and no runtime environments, and the two agents would take 130 MB. Ray ends a raylet without them.
"""

import os
import sys
import time

_PORTS = {
    "agent.py": ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port"),
    "main.py": ("runtime_env_agent_port",),
}
"""What the raylet waits for, by the agent's script: files of that name in the session's directory."""
_NOT_IN_USE = "-1"
_LOOK_EVERY_S = 2.0


def main(script: str, *options: str) -> None:
    """Returns once its parent has ended."""
    given = dict(option.removeprefix("--").split("=", 1) for option in options if "=" in option)
    parent = os.getppid()
    for name in _PORTS[os.path.basename(script)]:
        path = os.path.join(given["session-dir"], f"{name}_{given['node-id']}")
        with open(f"{path}.new", "w") as file:
            file.write(_NOT_IN_USE)
        os.rename(f"{path}.new", path)
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
