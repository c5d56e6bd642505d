"""Bytes into pixels. The only package that knows Pillow and PyAV, and one that never meets torch."""
