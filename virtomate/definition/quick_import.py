"""xmltodict, without what it drags in and never uses.

Its XML writer is the standard library's, and that imports urllib.request, with HTTP, TLS and e-mail behind it, in order
to open documents by URL. That takes a seventh of the processor time of a whole linked clone, so an empty module stands
in for it while xmltodict is being imported. Whoever imports urllib.request later gets the real one.
"""

import sys
from types import ModuleType

_UNUSED = "urllib.request"

_stands_in = _UNUSED not in sys.modules
if _stands_in:
    sys.modules[_UNUSED] = ModuleType(_UNUSED)
try:
    import xmltodict
finally:
    if _stands_in:
        del sys.modules[_UNUSED]

__all__ = ["xmltodict"]
