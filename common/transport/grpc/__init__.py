"""Message streams over gRPC, on grpclib: `open_channel` dials, `serve_grpc` serves.

Bytes go in and out; any gRPC client that speaks protobuf can be at the other end. Only this package knows
grpclib.
"""

from common import border as border  # before grpclib: trio-asyncio patches asyncio
from common.transport.grpc.client import GrpcChannel, open_channel
from common.transport.grpc.server import serve_grpc
from common.transport.grpc.tls import TlsFiles

__all__ = ["GrpcChannel", "TlsFiles", "open_channel", "serve_grpc"]
