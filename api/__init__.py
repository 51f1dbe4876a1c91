"""The application: settings, wiring, HTTP routes, pages and commands. The only package that knows everyone."""
