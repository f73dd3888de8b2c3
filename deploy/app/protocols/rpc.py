"""The Open Inference Protocol over gRPC, beside the app's HTTP: the same batches, limits, keys and TLS."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from starlette.datastructures import Headers

from deploy.app.batcher import LOADING
from deploy.app.keys import DENIED, Keys
from deploy.app.models import Served
from deploy.app.protocols import kserve
from deploy.app.protocols.dialect import Find, Question, Translated, sentence
from deploy.app.request_bodies import MOST_BYTES
from deploy.app.timing import Timing, Watcher, begin, end
from deploy.app.tls import Pair
from handler.errors import Rejection, UserError
from handler.replies import Arrival, Reply, failure, report
from handler.service import Service

DESCRIPTION = Path(__file__).with_name("open_inference.binpb")
SERVICE = "inference.GRPCInferenceService"
MOST_CALLS = 256  # at once, each of MOST_BYTES at most
OPTIONS = (
    ("grpc.max_receive_message_length", MOST_BYTES),
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.max_concurrent_streams", MOST_CALLS),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)
OPEN = ("ServerLive", "ServerReady")  # without a key
STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
MALFORMED = Rejection(
    400, "body", "this is no message of the protocol", "Send what open_inference.proto says"
)
BAD_RAW = Rejection(
    422, "inputs", "raw_input_contents do not match the inputs", "Send one for each, or contents alone"
)

# A pool of their own: another module with the protocol's names may be loaded in the same process.
_pool = DescriptorPool()
_file = _pool.AddSerializedFile(DESCRIPTION.read_bytes())


def message(name: str) -> Any:
    """The class of a message."""
    return GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))


class Inference(Translated):
    """ModelInfer: `read` takes a message, and the reply's body is one, or of an error its words."""

    def __init__(self, find: Find) -> None:
        self._find = find

    def read(self, arrival: Arrival, headers: Mapping[str, str], service: Service) -> Question | Rejection:
        try:
            request = message("ModelInferRequest").FromString(arrival.parameters["body"])
        except DecodeError:
            return MALFORMED
        named = self._find(request.model_name, request.model_version or None)
        document = named if isinstance(named, Rejection) else _document(request)
        if isinstance(document, Rejection):
            return document
        wanted = kserve.wanted_outputs(document)
        if isinstance(wanted, Rejection):
            return wanted
        assert isinstance(named, Served)
        own = Arrival({"body": document}, "application/json", parsed_bytes=arrival.size)
        answer = partial(_answer, list(wanted), bool(request.raw_input_contents))
        return Question(own, answer, named)

    def refuse(self, rejection: Rejection) -> Reply:
        return Reply(rejection.code, sentence(rejection).encode())


def _document(request: Any) -> dict[str, Any] | Rejection:
    """The request as the protocol has it over REST."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        return BAD_RAW
    inputs = []
    for place, tensor in enumerate(request.inputs):
        data: list[bytes] | None = list(tensor.contents.bytes_contents)
        if raw and tensor.datatype == "BYTES":
            data = kserve.elements_of(raw[place])
        if data is None:
            return BAD_RAW
        inputs.append(
            {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "data": data}
        )
    return {
        "inputs": inputs,
        "parameters": _values(request.parameters),
        "outputs": [
            {"name": output.name, "parameters": _values(output.parameters)} for output in request.outputs
        ],
        **({"id": request.id} if request.id else {}),
    }


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, kind)
        for name, value in parameters.items()
        if (kind := value.WhichOneof("parameter_choice"))
    }


def _answer(names: Sequence[str], raw: bool, reply: Reply) -> Reply:
    """With raw contents where the request had them."""
    body = json.loads(reply.body)
    by_name = {output["name"]: output for output in body["outputs"]}
    response = message("ModelInferResponse")(
        model_name=body["model_name"], model_version=body["model_version"], id=body.get("id", "")
    )
    for output in (by_name[name] for name in names):
        tensor = response.outputs.add(name=output["name"], datatype=output["datatype"], shape=output["shape"])
        for name, value in output.get("parameters", {}).items():
            tensor.parameters[name].string_param = value
        if raw:
            response.raw_output_contents.append(kserve.raw_bytes(output))
        elif output["datatype"] == "FP64":
            tensor.contents.fp64_contents.extend(output["data"])
        else:
            encoded = (element.encode("utf-8", "backslashreplace") for element in output["data"])
            tensor.contents.bytes_contents.extend(encoded)
    return Reply(200, response.SerializeToString())


class Methods:
    """One function for each method: bytes in, a message, bytes or a `Rejection` out."""

    def __init__(self, find: Find, is_ready: Callable[[], bool], version: str) -> None:
        self._find = find
        self._is_ready = is_ready
        self._version = version

    async def ServerLive(self, _: bytes) -> Any:  # noqa: N802 - the protocol's name
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, _: bytes) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self._is_ready())

    async def ModelReady(self, body: bytes) -> Any:  # noqa: N802
        found = self._named(message("ModelReadyRequest"), body)
        if isinstance(found, Rejection):
            return found
        return message("ModelReadyResponse")(ready=self._is_ready() and found.batcher.is_ready)

    async def ServerMetadata(self, _: bytes) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(name=kserve.SERVER, version=self._version)

    async def ModelMetadata(self, body: bytes) -> Any:  # noqa: N802
        found = self._named(message("ModelMetadataRequest"), body)
        if isinstance(found, Rejection):
            return found
        if found.batcher.service is None:
            return LOADING
        return message("ModelMetadataResponse")(**kserve.model_metadata(found.batcher.service))

    async def ModelInfer(self, body: bytes) -> bytes | Rejection | Reply:  # noqa: N802
        found = self._find(None, None)
        if isinstance(found, Rejection):
            return found
        with found.hold() as batcher:
            arrival = batcher.refusal() or Arrival({"body": body}, "")
            return await Inference(self._find).ask(arrival, {}, found)

    def _named(self, kind: Any, body: bytes) -> Served | Rejection:
        try:
            request = kind.FromString(body)
        except DecodeError:
            return MALFORMED
        return self._find(request.name, request.version or None)


METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
Method = Callable[[bytes], Awaitable[Any]]


@dataclass(frozen=True)
class Access:
    """Who may ask: `keys`, and a certificate with its key; `denied` counts who may not."""

    keys: Keys | None
    tls: Pair | None
    denied: Callable[[], None]


class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc] # grpc has no types
    def __init__(self, methods: Methods, access: Access, watchers: Sequence[Watcher]) -> None:
        self._methods = methods
        self._access = access
        self._watchers = watchers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Chosen before the message is read; a call that is denied never reads it."""
        service, _, name = details.method.lstrip("/").partition("/")
        if service != SERVICE or name not in METHODS:
            return None
        if name not in OPEN and self._access.keys is not None:
            pairs = [
                (key.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
                for key, value in details.invocation_metadata
                if isinstance(value, str)
            ]
            if not self._access.keys.accept(Headers(raw=pairs)):
                return grpc.stream_unary_rpc_method_handler(self._deny)
        method = getattr(self._methods, name)
        return grpc.unary_unary_rpc_method_handler(partial(_watched, self._watchers, details.method, method))

    async def _deny(self, _: object, context: Any) -> None:
        self._access.denied()
        await context.abort(STATUSES[DENIED.code], sentence(DENIED))


async def _watched(
    watchers: Sequence[Watcher], path: str, method: Method, body: bytes, context: Any
) -> bytes:
    headers = [
        (key.encode(), value.encode("latin-1", "replace"))
        for key, value in context.invocation_metadata()
        if isinstance(value, str)
    ]
    timing = begin(watchers, headers)
    try:
        return await _call(method, timing, body, context)
    finally:
        end(watchers, timing, "gRPC", path)


async def _call(method: Method, timing: Timing, body: bytes, context: Any) -> bytes:
    try:
        made = await method(body)
    except Exception as error:  # grpc would log its message, which may quote a text
        report(error)
        made = failure()
    if isinstance(made, Rejection):
        made = Reply(made.code, sentence(made).encode())
    timing.status = made.status if isinstance(made, Reply) else 200
    if timing.hand_on:
        context.set_trailing_metadata((("traceresponse", timing.hand_on),))
    if not isinstance(made, Reply):
        return bytes(made.SerializeToString())
    if made.status != 200:
        await context.abort(STATUSES.get(made.status, grpc.StatusCode.INTERNAL), made.body.decode())
    return made.body


class RpcServer:
    """Of the event loop that starts it; `port` is the one that it has then, `shared` among workers or not."""

    def __init__(
        self,
        methods: Methods,
        access: Access,
        host: str,
        port: int,
        watchers: Sequence[Watcher],
        *,
        shared: bool = False,
    ) -> None:
        self.port = port
        self._options = (*OPTIONS, ("grpc.so_reuseport", int(shared)))
        self._handlers = Handlers(methods, access, watchers)
        self._access = access
        self._host = host

    async def start(self) -> None:
        """Raises `UserError` where the port is taken."""
        self._server = grpc.aio.server(
            handlers=[self._handlers], options=self._options, maximum_concurrent_rpcs=MOST_CALLS
        )
        place = f"{f'[{self._host}]' if ':' in self._host else self._host}:{self.port}"
        try:
            if self._access.tls is None:
                self.port = self._server.add_insecure_port(place)
            else:
                pair = self._access.tls
                files = (pair.key.read_bytes(), pair.certificate.read_bytes())
                credentials = grpc.ssl_server_credentials([files])
                self.port = self._server.add_secure_port(place, credentials)
        except RuntimeError as error:
            remedy = "Choose another --grpc-port"
            raise UserError("cannot listen on this address for gRPC", seen=place, remedy=remedy) from error
        await self._server.start()

    async def stop(self, patience_s: float) -> None:
        """Takes no new calls, and answers those that it has."""
        await self._server.stop(patience_s)
