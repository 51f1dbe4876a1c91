"""Bench: what a device really does, measured on whatever stack this host has, and written so that others can check it."""
