"""Commands: one module a group, each importing what it needs inside the function that needs it."""
