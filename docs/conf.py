"""How the guide is built: Sphinx with MyST Markdown; every reference must resolve."""

project = "Llamune"
author = "The Llamune developers"
copyright = "2026, the Llamune developers"  # noqa: A001  Sphinx's own name
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "Llamune"
exclude_patterns = ["_build"]
