"""`noiseward serve-reward`: a reward as an HTTP server on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["serve_reward"]


def serve_reward(
    reward: Annotated[str, typer.Argument(help="NAME, or path/to/file.py:function (this runs that file).")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on; one that others can reach needs a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str,
        typer.Option(
            envvar="NOISEWARD_TOKEN",
            show_envvar=False,
            help="Answer only clients that show this token; better set in NOISEWARD_TOKEN, for both ends, than given "
            "here, where other users of the machine can read it.",
        ),
    ] = "",
) -> None:
    """Serve a reward over HTTP, to this machine only; 'align --reward http://127.0.0.1:PORT' asks it."""
    from noiseward.rewards.parse import parse
    from noiseward.rewards.serve import server

    served = parse([reward])
    with server(served, port, host=host, token=token) as running:
        shown = f"[{host}]" if ":" in host else host
        print(f"serving '{served.name}' at http://{shown}:{running.server_port} until Ctrl-C", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print("ended")
