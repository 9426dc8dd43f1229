"""The routes: each a few lines, the work is in the services."""
