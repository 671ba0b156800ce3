"""How the documentation is built: ``make docs``."""

import os
from importlib.metadata import version as version_of

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

# The core in plain Python has full signatures; the compiled core shows fewer of them.
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

# -- references ----------------------------------------------------------------------------------

# A reference without a target is an error.
nitpicky = True
# Names in signatures: the type variable of the response class, the type of signals, and classes of
# gremlinpython.
nitpick_ignore = [
    ("py:class", "_Signal"),
    # aiohttp documents it in another module.
    ("py:class", "aiohttp._websocket.models.WSMessage"),
    ("py:class", "gremlin_python.driver.protocol.GremlinServerWSProtocol"),
    ("py:class", "gremlin_python.driver.transport.AbstractBaseTransport"),
    ("py:class", "aiowebsocketclient.typedefs.WS"),
    ("py:class", "aiowebsocketclient.typedefs.WS_co"),
]

# The inventories of other projects are kept here: the build fetches nothing, and a wrong name fails
# for its author, not for everybody who builds the documentation later.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.inv"),
    "aiohttp": ("https://docs.aiohttp.org/en/stable/", "inventories/aiohttp.inv"),
    "multidict": ("https://multidict.aio-libs.org/en/stable/", "inventories/multidict.inv"),
    "yarl": ("https://yarl.aio-libs.org/en/stable/", "inventories/yarl.inv"),
}

# Modules in which classes are defined, and those under which they are documented.
PUBLIC_NAMES = {
    "aiohttp.client.": "aiohttp.",
    "aiohttp.client_exceptions.": "aiohttp.",
    "aiohttp.client_ws.": "aiohttp.",
    "asyncio.events.": "asyncio.",
    "multidict._multidict.": "multidict.",
    "yarl._url.": "yarl.",
}


def refer_to_public_names(app: Sphinx, doctree: nodes.document) -> None:
    """Resolve names in signatures and docstrings to the documented names."""
    for node in doctree.findall(pending_xref):
        # Names may be written without their module.
        node["refspecific"] = True
        for private, public in PUBLIC_NAMES.items():
            if node["reftarget"].startswith(private):
                node["reftarget"] = public + node["reftarget"].removeprefix(private)


def setup(app: Sphinx) -> None:
    """Connect the function above to Sphinx."""
    app.connect("doctree-read", refer_to_public_names)


# -- the reference -------------------------------------------------------------------------------

# gremlinpython has no release for CPython 3.14.
autodoc_mock_imports = ["gremlin_python"]
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
# Show the defaults as they are written.
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
# A longer signature has a line for each parameter.
maximum_signature_line_length = 80

# -- HTML ----------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "
