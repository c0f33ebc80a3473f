"""The gallery: images, height maps and a sound by model, reward and method, each made by the command under it.

`entries.py` lists them, `run.py` runs their commands as a user would, `draw.py` makes the images, `page.py` the text of
docs/gallery.md. `digits.py`, `terrain.py` and `tones.py` are models and rewards that the commands name.

    python -m experiments.gallery                                  all but the faces
    python -m experiments.gallery --only rabbit terrain            some
    python -m experiments.gallery --faces FILE.py:FUNCTION         the faces, too
    python -m experiments.gallery --page                           the page alone, from the stored results
"""
