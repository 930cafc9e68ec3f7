"""The verified chain of a TLS connection: public from Python 3.13 on, before that a private method of the inner object.

Touched: `SSLObject._sslobj`, `_ssl._SSLSocket.get_verified_chain`. Guard tests: tests/security/test_trust.py,
tests/component/private/test_surface.py.
"""

from __future__ import annotations

import _ssl
import ssl
from typing import Any

from common.private.surface import require, require_used

if hasattr(ssl.SSLObject, "get_verified_chain"):

    def verified_chain(tls: Any) -> list[bytes]:  # noqa: ANN401  an SSLObject of either age
        """Certificates in DER: the peer's own first, the authority that it was verified by last."""
        return list(tls.get_verified_chain())

else:
    require("ssl", _ssl, "_SSLSocket")
    require("ssl", getattr(_ssl, "_SSLSocket", None), "get_verified_chain")
    require_used("ssl", ssl.SSLObject.getpeercert, "_sslobj")

    def verified_chain(tls: Any) -> list[bytes]:  # noqa: ANN401  an SSLObject of either age
        """Certificates in DER: the peer's own first, the authority that it was verified by last."""
        encoding = _ssl.ENCODING_DER
        return [one.public_bytes(encoding) for one in tls._sslobj.get_verified_chain() or ()]
