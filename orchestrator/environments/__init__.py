"""The software environment of a run: modules, a virtualenv or conda environment, a setup script.

Detecting looks and runs nothing; it is shown, and applied only where a run asks for it ("auto", or by name).
"""
