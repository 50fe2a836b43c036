"""Configures Sphinx for the site: `make docs-build`. The pages come from `stage.py`.

Nothing on a page is loaded from another host: fonts are the system's, and the search runs in the
browser on an index that is part of the site.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

project = "django-realtime-notifier"
[release] = re.findall(
    r'^__version__ = "(.*)"$', (ROOT / "realtime/_version.py").read_text(encoding="utf-8"), re.M
)
version = release
copyright = ""  # noqa: A001 - Sphinx's name
language = "en"

extensions = ["myst_parser"]
# Links name anchors as GitHub makes them of all headings.
myst_heading_anchors = 6
# Not `smartquotes`: the pages contain the typographic characters that they mean.
smartquotes = False
highlight_language = "none"
# Parts of a language, such as `{ … }`, are shown without colors.
suppress_warnings = ["misc.highlighting_failure"]
nitpicky = True

html_theme = "furo"
html_title = f"{project} {release}"
html_favicon = str(ROOT / "static/notifier/icons/favicon.svg")
html_static_path = ["static"]
templates_path = ["templates"]
html_css_files = ["site.css"]
html_js_files = [("versions.js", {"type": "module"})]
html_copy_source = False
html_use_index = False
html_show_sphinx = False
html_show_copyright = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "versions.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
        "sidebar/variant-selector.html",
    ]
}
# The accents of the service's own pages (static/notifier/css/base.css).
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#2a4fd0",
        "color-brand-content": "#2a4fd0",
        "color-brand-visited": "#2a4fd0",
    },
    "dark_css_variables": {
        "color-brand-primary": "#9db4ff",
        "color-brand-content": "#9db4ff",
        "color-brand-visited": "#9db4ff",
    },
}
