import os
from pathlib import Path

from noiseward.studio.app import serve

serve(Path("runs"), host="0.0.0.0", port=7860, token=os.environ["NOISEWARD_TOKEN"])
