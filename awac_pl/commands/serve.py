"""Answer observations with actions over HTTP, without torch and MLflow. Body size and time are limited.

awac serve exported/pen --action_limits contract
awac serve exported/pen --action_limits=-0.5,0.5 --host 0.0.0.0 --port 8080
curl localhost:5001/invocations -H 'Content-Type: application/json' -d '{"inputs": [[0.1, 0.2, …]]}'
"""

from __future__ import annotations

import argparse

from awac_pl.commands.arguments import number
from awac_pl.commands.deploy import add_policy_arguments, load_runner
from awac_pl.errors import AwacError
from awac_pl.settings import Port, Positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac serve``."""
    add_policy_arguments(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s: this computer only)"
    )
    parser.add_argument("--port", type=number(Port), default=5001, help="0: a free one (default: %(default)s)")
    parser.add_argument("--max_body_mib", type=number(Positive), default=1, help="else 413 (default: %(default)s)")
    parser.add_argument("--body_seconds", type=number(Positive), default=10, help="else 408 (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    """Run ``awac serve``."""
    try:
        from awac_pl.deploy.http_server import listen, make_server
    except ModuleNotFoundError as error:  # a robot's computer may lack them
        raise AwacError(f"{error.name} is not installed: pip install starlette uvicorn") from error

    runner = load_runner(options)
    listener = listen(options.host, options.port)
    server = make_server(
        runner.act_batch,
        len(runner.contract.observation_names),
        max_body_bytes=int(options.max_body_mib * 2**20),
        body_seconds=options.body_seconds,
    )
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(f"serving {options.folder} at http://{address}/invocations, until Ctrl-C", flush=True)
    server.run(sockets=[listener])
