"""A gRPC server with nothing but grpc.health.v1, for `muster launch`: launched_grpc_service.py PORT. Serves, in the words of
its health, when the file $GO exists; leaves $GO.asked when it has been asked."""
import os
import pathlib
import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):
    def Check(self, request, context):
        go = pathlib.Path(os.environ["GO"])
        pathlib.Path(f"{go}.asked").touch()
        states = health_pb2.HealthCheckResponse
        return states(status=states.SERVING if go.exists() else states.NOT_SERVING)


server = grpc.server(futures.ThreadPoolExecutor(2))
health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
