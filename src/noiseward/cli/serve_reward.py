"""`noiseward serve-reward`: a reward as an HTTP server on this machine."""

from __future__ import annotations

from noiseward.cli.flags import expand
from noiseward.options.commands import ServeOptions

__all__ = ["serve_reward"]


@expand
def serve_reward(options: ServeOptions) -> None:
    """Serve a reward over HTTP, to this machine only; 'align --reward http://127.0.0.1:PORT' asks it."""
    from noiseward.rewards.parse import parse_rewards
    from noiseward.rewards.serve import make_server

    served = parse_rewards([options.reward])
    with make_server(served, options.port, host=options.host, token=options.token) as running:
        shown = f"[{options.host}]" if ":" in options.host else options.host
        print(f"serving '{served.name}' at http://{shown}:{running.server_port} until Ctrl-C", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print("ended")
