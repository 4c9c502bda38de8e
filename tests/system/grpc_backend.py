"""A Python gRPC server that muster did not write, for the tests of the proxy: run as `grpc_backend.py PORT NAME [health]`.

Messages are plain bytes. /echo.Echo/Unary answers NAME + ":" + message; Meta: what metadata it got, and sends some; Slow: after the seconds
in the message; Wait: when Go has been called, or NAME's own error for the message NONE; Many: as many lines of metadata, before and behind; Fail: with the status in the message; Count: a stream of as many answers; Chat: each message as it comes; Sum: how many bytes, once the client has said all; Size: an answer of so many
bytes; Open: how many calls of Slow and Wait are running. Standard output says the port when it listens."""
import json
import sys
import threading
import time
from concurrent import futures

import grpc


def backend(name: bytes):
    running = {"slow": 0}

    def unary(request, context):
        return name + b":" + request

    def meta(request, context):
        context.send_initial_metadata((("x-initial", "1"), ("x-blob-bin", b"\0\1\2")))
        context.set_trailing_metadata((("x-trailing", "2"),))
        return json.dumps({key: repr(value) for key, value in context.invocation_metadata()} | {"timeout": context.time_remaining()}).encode()

    def many(request, context):
        lines = tuple((f"x-{i}", str(i)) for i in range(int(request)))
        context.send_initial_metadata(lines)
        context.set_trailing_metadata(lines)
        return name

    def slow(request, context):
        running["slow"] += 1
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(float(request))
        running["slow"] -= 1
        return name

    gate = threading.Event()

    def wait(request, context):
        if request == b"NONE":
            context.abort(grpc.StatusCode.UNKNOWN, "nothing to wait for")
        running["slow"] += 1
        gate.wait()
        running["slow"] -= 1
        return name

    def go(request, context):
        gate.set()
        return name

    def fail(request, context):
        context.abort(grpc.StatusCode[request.decode()], "so it was said: ä%")

    def count(request, context):
        for i in range(int(request)):
            yield name + b":%d" % i

    def chat(requests, context):
        for request in requests:
            yield name + b":" + request

    def total(requests, context):
        return name + b":%d" % sum(map(len, requests))

    def drip(request, context):
        yield name
        time.sleep(float(request))
        yield name

    unaries = {"Unary": unary, "Wait": wait, "Go": go, "Meta": meta, "Slow": slow, "Fail": fail, "Many": many,
               "Size": lambda request, context: b"x" * int(request), "Open": lambda request, context: b"%d" % running["slow"]}
    handlers = {method: grpc.unary_unary_rpc_method_handler(function) for method, function in unaries.items()}
    handlers["Count"] = grpc.unary_stream_rpc_method_handler(count)
    handlers["Drip"] = grpc.unary_stream_rpc_method_handler(drip)
    handlers["Sum"] = grpc.stream_unary_rpc_method_handler(total)
    handlers["Chat"] = grpc.stream_stream_rpc_method_handler(chat)
    return grpc.method_handlers_generic_handler("echo.Echo", handlers)


def main():
    port, name, *more = sys.argv[1:]
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(32), handlers=[backend(name.encode())], options=options)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    if more:
        from grpc_health.v1 import health, health_pb2_grpc
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    server.start()
    print(bound, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
