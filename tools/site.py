"""The pages of the site: the hook that mkdocs.yml names; `make site` builds.

The site has the folders of the repository, so that one relative link works in both. It consists
of the pages of `tools.links` and the files that they link to.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from tools import links

METHODS = "docs/methods"
# a file of another host that a page loads; links of its text are none
LOADED = re.compile(
    r'<(?:script|img|iframe|link(?! rel="canonical"))\b[^>]*?"((?:https?:)?//[^"]+)'
)


def on_config(config: MkDocsConfig) -> None:
    """Add a page for each method to the navigation, and anchors as in the repository."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = links.slug
    folder = links.ROOT / METHODS
    names = sorted(page.name for page in folder.glob("*.md") if page.name != "README.md")
    assert config.nav is not None
    config.nav.append({"Method pages": [f"{METHODS}/{name}" for name in names]})


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's pages and linked files in the place of MkDocs' own choice.

    Raises PluginError for dead links.
    """
    pages = links.pages()
    if dead := [line for page in pages for line in links.dead(page)]:
        raise PluginError("\n".join(dead))
    for file in list(files):
        if str(file.src_dir) == config.docs_dir:
            files.remove(file)
    linked = {file for page in pages for file in links.targets(page)}
    styles = {links.ROOT / str(name) for name in config.extra_css}
    for path in sorted({*pages, *linked, *styles}):
        name = path.relative_to(links.ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Raise PluginError if a page loads anything from another host."""
    for page in Path(config.site_dir).rglob("*.html"):
        if loaded := LOADED.findall(page.read_text()):
            raise PluginError(f"{page}: loads {loaded[0]}; the site must work offline")
