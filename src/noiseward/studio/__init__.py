"""The studio: noise optimization in the browser.

The page (`page.py` and the tabs) asks for work and shows what is on disk. The work is done by one process of its own
(`worker.py`), a job after the other, which keeps the model between jobs; `jobs.py` hands them to it. What connects them
is the run directory: nothing that matters is kept in the page or the server, so either can end at any time.
"""
