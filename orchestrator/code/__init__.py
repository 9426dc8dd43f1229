"""Which code a run was submitted with: what git says of its workdir, and a copy of the code to run it with again.

``git`` asks, ``provenance`` reads what it says, ``recorder`` keeps that with a run. ``listing`` says what the code is,
``tree`` digests and copies it, ``snapshot`` keeps the copies. A workdir may hold anything: nothing of it is run.
"""
