"""Give each page of the documentation its language while MkDocs builds it (a hook): interface, `lang`, sidebar, twin.

The Chinese page of `guides/rewards.md` is `zh/guides/rewards.md`. mkdocs-static-i18n would do the same, but only with
all English pages moved to `docs/en/`, away from the paths that the README and the repository link to.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

FOLDER = "zh/"
SECTION = "中文"


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Navigation) -> dict[str, Any]:
    """Set the language of a page's interface, show the pages of its language in the sidebar, and link to its twin."""
    (section,) = [item for item in nav.items if item.title == SECTION]
    chinese = page.file.src_uri.startswith(FOLDER)
    config.theme["language"] = "zh" if chinese else "en"
    pages = {found.file.src_uri: found for found in nav.pages}
    path = page.file.src_uri.removeprefix(FOLDER)
    homes = [pages["index.md"], pages[f"{FOLDER}index.md"]]
    twins = [pages.get(path, homes[0]), pages.get(FOLDER + path, homes[1])]
    config.extra["alternate"] = [
        {"name": name, "link": twin.url or "./", "lang": lang}
        for name, lang, twin in zip(("English", SECTION), ("en", "zh"), twins, strict=True)
    ]
    shown = copy.copy(nav)
    shown.items = list(section.children or []) if chinese else [item for item in nav.items if item is not section]
    shown.homepage = homes[chinese]
    return {**context, "nav": shown}


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Leave out the theme's `<link rel="alternate">`: its script asks for sitemaps beside them that are not there."""
    return re.sub(r'<link rel="alternate"[^>]* hreflang=[^>]*>', "", output)
