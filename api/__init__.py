"""The HTTP service. ``create_app`` is the only place where things are wired."""
