"""`noiseward serve-reward`: a reward as an HTTP server on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["serve_reward"]


def serve_reward(
    reward: Annotated[str, typer.Argument(help="NAME, or path/to/file.py:function (this runs that file).")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")] = 8000,
) -> None:
    """Serve a reward over HTTP, to this machine only; 'align --reward http://127.0.0.1:PORT' asks it."""
    from noiseward.rewards import parse
    from noiseward.rewards.serve import server

    served = parse([reward])
    with server(served, port) as running:
        print(f"serving '{served.name}' at http://127.0.0.1:{running.server_port} until Ctrl-C", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print("ended")
