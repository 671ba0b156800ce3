"""How the documentation is built: ``make docs``."""

import os
from importlib.metadata import version as version_of

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

# The core in plain Python is the typed reference; what is compiled shows less of its signatures.
os.environ["AIOWEBSOCKETCLIENT_NO_EXTENSIONS"] = "1"

project = "aiowebsocketclient"
author = "The aiowebsocketclient developers"
version = release = version_of(project)

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]

# -- what is referred to -------------------------------------------------------------------------

# A reference without a target is an error.
nitpicky = True
# In signatures: what stands for the class of a response, and a signal with its parameters.
nitpick_ignore = [
    ("py:class", "_Signal"),
    ("py:class", "aiowebsocketclient.typedefs.WS"),
    ("py:class", "aiowebsocketclient.typedefs.WS_co"),
]

# Names of other projects are listed by hand: nothing is fetched when this is built, and a name that
# is wrong is found by whoever writes it, not by all who build it later.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.inv"),
    "aiohttp": ("https://docs.aiohttp.org/en/stable/", "inventories/aiohttp.inv"),
    "multidict": ("https://multidict.aio-libs.org/en/stable/", "inventories/multidict.inv"),
    "yarl": ("https://yarl.aio-libs.org/en/stable/", "inventories/yarl.inv"),
}

# Where classes of theirs live is not where they are documented.
PUBLIC_NAMES = {
    "aiohttp.client.": "aiohttp.",
    "aiohttp.client_exceptions.": "aiohttp.",
    "aiohttp.client_ws.": "aiohttp.",
    "asyncio.events.": "asyncio.",
    "multidict._multidict.": "multidict.",
    "yarl._url.": "yarl.",
}


def refer_to_public_names(app: Sphinx, doctree: nodes.document) -> None:
    """Let what stands in signatures and docstrings refer to what is documented."""
    for node in doctree.findall(pending_xref):
        # The module that a name is in need not be given, whichever it is.
        node["refspecific"] = True
        for private, public in PUBLIC_NAMES.items():
            if node["reftarget"].startswith(private):
                node["reftarget"] = public + node["reftarget"].removeprefix(private)


def setup(app: Sphinx) -> None:
    """Tell Sphinx of what is above."""
    app.connect("doctree-read", refer_to_public_names)


# -- the reference -------------------------------------------------------------------------------

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
# The values of defaults as they are written.
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# A signature that is longer has a line for each parameter.
maximum_signature_line_length = 80

# -- how it looks --------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "
