"""xmltodict, without what it drags in and never uses.

Its XML writer is the standard library's, and that imports urllib, with HTTP, TLS and e-mail behind it, in order to open
documents by URL. That takes a fifth of the processor time of a whole linked clone, so empty modules stand in for it
while xmltodict is being imported. Whoever imports urllib's modules later gets the real ones.
"""

import sys
from types import ModuleType

_UNUSED = ("urllib.parse", "urllib.request")

_stand_ins = [name for name in _UNUSED if name not in sys.modules]
sys.modules.update({name: ModuleType(name) for name in _stand_ins})
try:
    import xmltodict
finally:
    for name in _stand_ins:
        del sys.modules[name]

__all__ = ["xmltodict"]
