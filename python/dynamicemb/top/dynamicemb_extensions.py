"""The names of recsys-examples' extension module (v25.12), for programs that call them.

See ``dynamicemb.extensions``.
"""

from dynamicemb.extensions import *  # noqa: F403
from dynamicemb.extensions import __all__  # noqa: F401
