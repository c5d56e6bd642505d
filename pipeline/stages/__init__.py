"""Orchestration: the only package that knows Ray. Stages, their session, the passes over the work list."""
