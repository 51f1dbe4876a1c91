"""Tests of the Ray backend: pure parts on recorded answers, the rest on a real head and a second raylet."""
