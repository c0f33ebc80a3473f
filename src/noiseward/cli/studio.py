"""`noiseward studio`: the page in the browser."""

from __future__ import annotations

from noiseward.cli.flags import expand
from noiseward.options.commands import StudioOptions

__all__ = ["studio"]


@expand
def studio(options: StudioOptions) -> None:
    """Open a page in the browser to align, choose and compare images; its runs are those of 'align'."""
    import webbrowser
    from pathlib import Path

    from noiseward.rewards.extras import import_extra

    print("starting the studio ...", flush=True)
    import_extra("gradio", extra="studio", name="the studio")
    from noiseward.studio.app import serve

    def opened(address: str) -> None:
        print(f"Noiseward Studio: {address}  (Ctrl-C ends it; a run that is running can be resumed)", flush=True)
        if options.browser:
            webbrowser.open(address)

    serve(
        Path(options.runs),
        host=options.host,
        port=options.port,
        token=options.token,
        allow_code=options.allow_code,
        opened=opened,
    )
    print("ended")
