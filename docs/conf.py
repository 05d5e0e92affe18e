"""Sphinx's configuration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

extensions = ["package_map"]

project = "realtime_chat"
html_theme = "alabaster"
html_title = "realtime_chat"
html_theme_options = {"description": "Chat rooms on one durable log", "page_width": "64rem"}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
exclude_patterns = ["_build"]
highlight_language = "none"
