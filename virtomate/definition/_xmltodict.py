"""xmltodict without urllib.

The XML writer of the standard library imports urllib, with HTTP, TLS and e-mail, to open documents by URL. That takes a
fifth of the processor time of a linked clone. Empty modules stand in for urllib during the import of xmltodict; later
imports get the real modules.
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
